"""OpenELM: a decoder whose layers have more heads and wider feed-forwards towards the end.

Mehta et al., 2024 (arXiv:2404.14619). Queries and keys pass an RMS norm, head by head, before
they are rotated. The tensor names are the checkpoint's own; keys and values of all heads come
from one matrix, queries first.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from llmkg_lab.graph.attention import CachedAttention
from llmkg_lab.graph.layers import Layers
from llmkg_lab.models.base import UnsupportedError, integer, require
from llmkg_lab.models.rope import inverse_frequencies
from llmkg_lab.models.widths import divisible

EPSILON = 1e-6  # of every norm; config.json does not hold it


@dataclass(frozen=True)
class Config:
    """What the graph needs of config.json; the tuples hold one number a layer."""

    vocab: int
    hidden: int
    head_dim: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    feed_forward: tuple[int, ...]
    positions: int
    tied: bool
    norm_qk: bool
    inverse_frequencies: np.ndarray  # float32 (head_dim / 2,)

    @classmethod
    def read(cls, config: dict) -> Self:
        """Read config.json. Raises UnsupportedError on what this file does not compute."""
        require(config, "activation_fn_name", ("swish", "silu"), "swish")
        require(config, "normalization_layer_name", ("rms_norm",), "rms_norm")
        require(config, "ffn_with_glu", (True,), True)
        head_dim = integer(config, "head_dim")
        if head_dim % 16:
            raise UnsupportedError(
                f"head_dim is {head_dim}", "GroupQueryAttention computes multiples of 16"
            )
        heads, kv_heads = _heads(config)
        theta = config.get("rope_freq_constant", 10000)
        return cls(
            vocab=integer(config, "vocab_size"),
            hidden=integer(config, "model_dim"),
            head_dim=head_dim,
            heads=heads,
            kv_heads=kv_heads,
            feed_forward=_feed_forward_widths(config),
            positions=integer(config, "max_context_length"),
            tied=bool(config.get("share_input_output_layers", True)),
            norm_qk=bool(config.get("normalize_qk_projections", False)),
            inverse_frequencies=inverse_frequencies({"rope_theta": theta}, head_dim),
        )


def head_tensor(config: dict) -> str:
    """The tensor that hidden states are multiplied with to logits."""
    tied = config.get("share_input_output_layers", True)
    return "transformer.token_embeddings.weight" if tied else "lm_head.weight"


def build(layers: Layers, config: Config) -> None:
    """Build the decoder's graph: token ids and a KV cache in, logits and the new cache out."""
    c = config
    cache = CachedAttention(layers, c.head_dim, c.inverse_frequencies, c.positions)
    table = layers.table("transformer.token_embeddings.weight", c.vocab, c.hidden, is_head=c.tied)
    x = layers.gather(cache.input_ids, table)  # (batch, sequence, hidden)
    residual = ""
    for i in range(len(c.heads)):
        name = f"transformer.layers.{i}"
        with layers.graph.scope(f"layers.{i}"):
            x, residual = _norm(layers, c, f"{name}.attn_norm", x, residual)
            x = _attention(layers, c, cache, i, x)
            x, residual = _norm(layers, c, f"{name}.ffn_norm", x, residual)
            x = _feed_forward(layers, c, i, x)
    x, _ = _norm(layers, c, "transformer.norm", x, residual)
    head = table if c.tied else layers.head("lm_head.weight", c.vocab, c.hidden)
    cache.logits(x, head)


def _norm(layers: Layers, c: Config, name: str, x: str, residual: str) -> tuple[str, str]:
    return layers.rms_norm(x, residual, f"{name}.weight", c.hidden, EPSILON)


def _attention(layers: Layers, c: Config, cache: CachedAttention, i: int, x: str) -> str:
    name, heads, kv_heads = f"transformer.layers.{i}.attn", c.heads[i], c.kv_heads[i]
    q, kv = heads * c.head_dim, kv_heads * c.head_dim
    # (batch, sequence, (heads + 2 kv_heads) head_dim): all queries, all keys, all values
    qkv = layers.linear(x, [(f"{name}.qkv_proj", q + 2 * kv)], c.hidden, "attention")
    parts = [qkv]
    if c.norm_qk:
        sizes = layers.constant(np.array([q, kv, kv]), f"{name}.sizes")
        queries, keys, values = layers.graph.op_many(
            "Split", qkv, sizes, outputs=["", "", ""], axis=-1
        )
        queries = _norm_heads(layers, c, f"{name}.q_norm", queries, heads)
        keys = _norm_heads(layers, c, f"{name}.k_norm", keys, kv_heads)
        parts = [queries, keys, values]
    attended = cache.attend(i, parts, heads, kv_heads)  # (batch, sequence, heads head_dim)
    return layers.linear(attended, [(f"{name}.out_proj", c.hidden)], q, "attention")


def _norm_heads(layers: Layers, c: Config, name: str, x: str, heads: int) -> str:
    """RMS norm of each head of x (batch, sequence, heads head_dim), all with one gain."""
    # 0 in a shape keeps the dimension
    apart = layers.constant(np.array([0, 0, heads, c.head_dim]), f"{name}.apart")
    together = layers.constant(np.array([0, 0, heads * c.head_dim]), f"{name}.together")
    x = layers.graph.op("Reshape", x, apart)  # (batch, sequence, heads, head_dim)
    x, _ = layers.rms_norm(x, "", f"{name}.weight", c.head_dim, EPSILON)
    return layers.graph.op("Reshape", x, together)


def _feed_forward(layers: Layers, c: Config, i: int, x: str) -> str:
    name, width = f"transformer.layers.{i}.ffn", c.feed_forward[i]
    both = layers.linear(x, [(f"{name}.proj_1", 2 * width)], c.hidden, "feed-forward")
    gated = layers.swiglu(both)  # (batch, sequence, width)
    return layers.linear(gated, [(f"{name}.proj_2", c.hidden)], width, "feed-forward")


def _heads(config: dict) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Query heads and KV heads of each layer, as config.json lists them or by its rule."""
    if config.get("num_query_heads") is None:
        head_dim, groups = integer(config, "head_dim"), integer(config, "num_gqa_groups")
        step = head_dim * (groups if groups > 1 else 2)
        widths = [
            divisible(integer(config, "model_dim") * multiplier, step)
            for multiplier in _multipliers(config, "qkv_multipliers")
        ]
        heads = tuple(width // head_dim for width in widths)
        return heads, tuple(count // groups for count in heads)
    heads, kv_heads = _counts(config, "num_query_heads"), _counts(config, "num_kv_heads")
    for i, (queries, keys) in enumerate(zip(heads, kv_heads, strict=True)):
        if queries % keys:
            raise UnsupportedError(
                f"config.json: {keys} KV heads do not divide the {queries} heads of layer {i}"
            )
    return heads, kv_heads


def _feed_forward_widths(config: dict) -> tuple[int, ...]:
    hidden, divisor = integer(config, "model_dim"), integer(config, "ffn_dim_divisor")
    multipliers = _multipliers(config, "ffn_multipliers")
    return tuple(divisible(hidden * multiplier, divisor) for multiplier in multipliers)


def _counts(config: dict, key: str) -> tuple[int, ...]:
    """The list ``key`` of config.json: a positive whole number for each layer."""
    layers, values = integer(config, "num_transformer_layers"), config.get(key)
    if not isinstance(values, list) or len(values) != layers:
        raise UnsupportedError(f"config.json: {key} is no list of {layers} numbers, one a layer")
    return tuple(integer({key: value}, key) for value in values)


def _multipliers(config: dict, key: str) -> list[float]:
    """A factor for each layer: all of them given, or the first and the last, or one for all."""
    layers, values = integer(config, "num_transformer_layers"), config.get(key)
    values = values if isinstance(values, list) else [values]
    good = all(isinstance(v, int | float) and 0 < v < 1024 for v in values)  # nan is neither
    if not good or len(values) not in (1, 2, layers):
        raise UnsupportedError(f"config.json: {key} gives no factors for {layers} layers")
    if len(values) == layers:
        return values
    return np.linspace(values[0], values[-1], layers).round(2).tolist()
