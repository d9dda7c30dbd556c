"""What a GGUF file says about a model of each architecture, apart from its tensors.

The keys are those of the GGUF specification (ggml-org/ggml, docs/gguf.md) as llama.cpp reads
them. The tensors' names stand in ``checkpoint.gguf_models``, where they are read as well.
"""

from collections.abc import Callable

from gguf import GGUFWriter, PoolingType, RopeScalingType

from llmkg_lab.architectures import UnsupportedError, bert, llama
from llmkg_lab.checkpoint import Checkpoint

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
    elif kind != "default":
        raise UnsupportedError(
            f"GGUF export of a rotary embedding of type {kind!r}", "supported: default and linear"
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


SIZES: dict[str, Callable[[GGUFWriter, Checkpoint], None]] = {"llama": add_llama, "bert": add_bert}
