"""What a GGUF file says about a model of each architecture, apart from its tensors.

The keys are those of the GGUF specification (ggml-org/ggml, docs/gguf.md) as llama.cpp reads
them. The names of tensors that are read from GGUF as well stand in ``checkpoint.gguf_models``.
"""

from collections.abc import Callable

from gguf import GGUFWriter, PoolingType, RopeScalingType

from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.checkpoint.gguf_models import MODELS, Names
from llmkg_lab.graph import bert, llama, openelm
from llmkg_lab.models.base import UnsupportedError

OPENELM_NAMES = {
    "token_embd": "transformer.token_embeddings",
    "output_norm": "transformer.norm",
    "attn_norm": "attn_norm",
    "attn_qkv": "attn.qkv_proj",
    "attn_q_norm": "attn.q_norm",
    "attn_k_norm": "attn.k_norm",
    "attn_output": "attn.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "ffn.proj_1",  # gate and up in one: see HALVED
    "ffn_down": "ffn.proj_2",
}
NAMES: dict[str, Names] = {**MODELS, "openelm": Names("transformer.layers", OPENELM_NAMES)}
HALVED = {"ffn.proj_1": ("ffn_gate", "ffn_up")}  # matrices whose halves are two tensors in GGUF
POOLING = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS}


def add_llama(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """The sizes of a Llama. Raises UnsupportedError on a rotary scaling GGUF has no key for."""
    c = llama.Config.read(checkpoint.config, checkpoint.tensors)
    writer.add_vocab_size(c.vocab)
    writer.add_context_length(c.positions)
    writer.add_embedding_length(c.hidden)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.feed_forward)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_layer_norm_rms_eps(c.epsilon)
    _add_rope(writer, checkpoint.config, c.head_dim)


def _add_rope(writer: GGUFWriter, config: dict, head_dim: int) -> None:
    # transformers 5 writes rope_parameters, earlier versions rope_theta and rope_scaling
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind not in ("default", "dynamic"):
        raise UnsupportedError(
            f"GGUF export of a rotary embedding of type {kind!r}",
            "supported: default, dynamic and linear",
        )


def add_bert(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """The sizes of a BERT, and how its hidden states are pooled."""
    c = bert.Config.read(checkpoint.config, checkpoint.tensors)
    writer.add_vocab_size(c.vocab)
    writer.add_context_length(c.positions)
    writer.add_embedding_length(c.hidden)
    writer.add_block_count(c.layers)
    writer.add_feed_forward_length(c.feed_forward)
    writer.add_head_count(c.heads)
    writer.add_layer_norm_eps(c.epsilon)
    writer.add_causal_attention(False)
    writer.add_token_type_count(c.types)
    mode = checkpoint.pooling["mode"] if checkpoint.pooling else None
    writer.add_pooling_type(POOLING.get(mode, PoolingType.NONE))


def add_openelm(writer: GGUFWriter, checkpoint: Checkpoint) -> None:
    """The sizes of an OpenELM, layer by layer. Raises UnsupportedError on what llama.cpp lacks."""
    c = openelm.Config.read(checkpoint.config)
    if not c.norm_qk:
        raise UnsupportedError(
            "GGUF export of an OpenELM that does not norm its queries and keys",
            "llama.cpp always does: use the ONNX artifact",
        )
    writer.add_vocab_size(c.vocab)
    writer.add_context_length(c.positions)
    writer.add_embedding_length(c.hidden)
    writer.add_block_count(len(c.heads))
    writer.add_feed_forward_length(c.feed_forward)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_layer_norm_rms_eps(openelm.EPSILON)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(checkpoint.config.get("rope_freq_constant", 10000))


SIZES: dict[str, Callable[[GGUFWriter, Checkpoint], None]] = {
    "llama": add_llama,
    "openelm": add_openelm,
    "bert": add_bert,
}
