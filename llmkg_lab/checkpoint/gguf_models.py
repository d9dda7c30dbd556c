"""What GGUF calls the tensors and sizes of an architecture, and what Hugging Face calls them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from llmkg_lab.checkpoint.base import CheckpointError
from llmkg_lab.checkpoint.gguf_file import Metadata

Shapes = Mapping[str, tuple[int, ...]]  # of tensors, by Hugging Face name

LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
BERT_NAMES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
SPECIAL_IDS = {"bos": "bos", "eos": "eos", "padding": "pad"}


def llama_config(metadata: Metadata, shapes: Shapes) -> dict:
    """config.json of a LlamaForCausalLM."""
    heads = _size(metadata, "llama.attention.head_count")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": _rows(metadata, shapes, "model.embed_tokens.weight"),
        "hidden_size": _size(metadata, "llama.embedding_length"),
        "intermediate_size": _size(metadata, "llama.feed_forward_length"),
        "num_hidden_layers": _size(metadata, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _size(metadata, "llama.attention.head_count_kv", heads),
        "head_dim": _head_dim(metadata, heads),
        "max_position_embeddings": _size(metadata, "llama.context_length"),
        "rms_norm_eps": _shortest(metadata.get("llama.attention.layer_norm_rms_epsilon", float)),
        "rope_theta": metadata.get("llama.rope.freq_base", float, 10000.0),
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes,
        "mlp_bias": "model.layers.0.mlp.up_proj.bias" in shapes,
    }
    scaling = metadata.get("llama.rope.scaling.type", str, "none")
    if scaling != "none":
        factor = metadata.get("llama.rope.scaling.factor", float)
        config["rope_scaling"] = {"rope_type": scaling, "factor": factor}
    return config | _special_ids(metadata)


def bert_config(metadata: Metadata, shapes: Shapes) -> dict:
    """config.json of a bare BertModel."""
    epsilon = metadata.get("bert.attention.layer_norm_epsilon", float)
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "vocab_size": _rows(metadata, shapes, "embeddings.word_embeddings.weight"),
        "type_vocab_size": _rows(metadata, shapes, "embeddings.token_type_embeddings.weight"),
        "hidden_size": _size(metadata, "bert.embedding_length"),
        "intermediate_size": _size(metadata, "bert.feed_forward_length"),
        "num_hidden_layers": _size(metadata, "bert.block_count"),
        "num_attention_heads": _size(metadata, "bert.attention.head_count"),
        "max_position_embeddings": _size(metadata, "bert.context_length"),
        "layer_norm_eps": _shortest(epsilon),
    } | _special_ids(metadata)


@dataclass(frozen=True)
class Names:
    """One architecture's names: the prefix of its layers, GGUF's name of a module and its own."""

    layers: str
    names: dict[str, str]

    def hugging_face_name(self, name: str) -> str | None:
        """``blk.7.attn_q.weight`` -> ``model.layers.7.self_attn.q_proj.weight``; None: no such."""
        stem, _, kind = name.rpartition(".")  # kind: weight or bias
        prefix = ""
        if stem.startswith("blk.") and stem.count(".") == 2:
            _, number, stem = stem.split(".")
            prefix = f"{self.layers}.{number}."
        return f"{prefix}{self.names[stem]}.{kind}" if stem in self.names else None

    def gguf_name(self, name: str) -> str | None:
        """The other way: ``model.layers.7.self_attn.q_proj.weight`` -> ``blk.7.attn_q.weight``."""
        stem, _, kind = name.rpartition(".")
        prefix = ""
        if stem.startswith(f"{self.layers}."):
            number, _, stem = stem.removeprefix(f"{self.layers}.").partition(".")
            prefix = f"blk.{number}."
        stems = {renamed: stored for stored, renamed in self.names.items()}
        return f"{prefix}{stems[stem]}.{kind}" if stem in stems else None


@dataclass(frozen=True)
class Model(Names):
    """An architecture that is read: its names, and config.json from the metadata."""

    config: Callable[[Metadata, Shapes], dict]


MODELS = {
    "llama": Model("model.layers", LLAMA_NAMES, llama_config),
    "bert": Model("encoder.layer", BERT_NAMES, bert_config),
}


def _head_dim(metadata: Metadata, heads: int) -> int:
    implied = _size(metadata, "llama.embedding_length") // heads
    rotated = _size(metadata, "llama.rope.dimension_count", implied or None)
    head_dim = _size(metadata, "llama.attention.key_length", rotated)
    if rotated != head_dim:
        raise CheckpointError(
            f"{metadata.path}: {rotated} of a head's {head_dim} dimensions are rotated",
            "supported is a rotary embedding over all of them",
        )
    return head_dim


def _size(metadata: Metadata, key: str, default: int | None = None) -> int:
    """A positive whole number: a hostile file may say 0, or a list with one number a layer."""
    fallback = () if default is None else (default,)
    size = metadata.get(key, int, *fallback)
    if size < 1:
        raise CheckpointError(f"{metadata.path}: {key} is {size}")
    return size


def _rows(metadata: Metadata, shapes: Shapes, name: str) -> int:
    if name not in shapes:
        raise CheckpointError(f"{metadata.path} lacks the tensor {name}")
    return shapes[name][0]


def _special_ids(metadata: Metadata) -> dict:
    keys = {f"tokenizer.ggml.{key}_token_id": name for key, name in SPECIAL_IDS.items()}
    return {f"{name}_token_id": metadata.get(k, int) for k, name in keys.items() if k in metadata}


def _shortest(value: float) -> float:
    """The shortest decimal that is this float32: 1e-05 rather than 9.99999974e-06."""
    return float(str(np.float32(value)))
