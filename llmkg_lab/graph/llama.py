"""Llama: a decoder with rotary positions, grouped-query attention and a gated feed-forward.

Touvron et al., 2023 (arXiv:2302.13971); SmolLM, SmolLM2 and TinyLlama are of this form.
The tensor names are the checkpoint's own.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np

from llmkg_lab.graph.attention import CachedAttention
from llmkg_lab.graph.layers import Layers
from llmkg_lab.models.base import UnsupportedError, integer, require
from llmkg_lab.models.rope import inverse_frequencies


@dataclass(frozen=True)
class Config:
    """What the graph needs of config.json."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    positions: int
    epsilon: float
    tied: bool
    attention_bias: bool
    mlp_bias: bool
    inverse_frequencies: np.ndarray  # float32 (head_dim / 2,)

    @classmethod
    def read(cls, config: dict, names: Collection[str]) -> Self:
        """Read config.json. Raises UnsupportedError on what this file does not compute."""
        require(config, "hidden_act", ("silu", "swish"), "silu")
        require(config, "pretraining_tp", (1, None), 1)
        hidden = integer(config, "hidden_size")
        heads = integer(config, "num_attention_heads")
        head_dim = integer(config, "head_dim") if config.get("head_dim") else hidden // heads
        if head_dim % 16:
            raise UnsupportedError(
                f"head_dim is {head_dim}", "GroupQueryAttention computes multiples of 16"
            )
        return cls(
            vocab=integer(config, "vocab_size"),
            hidden=hidden,
            layers=integer(config, "num_hidden_layers"),
            heads=heads,
            kv_heads=integer(config, "num_key_value_heads", "num_attention_heads"),
            head_dim=head_dim,
            feed_forward=integer(config, "intermediate_size"),
            positions=integer(config, "max_position_embeddings"),
            epsilon=float(config.get("rms_norm_eps", 1e-6)),
            tied=bool(config.get("tie_word_embeddings", False)),
            attention_bias=bool(config.get("attention_bias", False)),
            mlp_bias=bool(config.get("mlp_bias", False)),
            inverse_frequencies=inverse_frequencies(config, head_dim),
        )


def head_tensor(config: dict) -> str:
    """The tensor that hidden states are multiplied with to logits."""
    tied = config.get("tie_word_embeddings", False)
    return "model.embed_tokens.weight" if tied else "lm_head.weight"


def build(layers: Layers, config: Config) -> None:
    """Build the decoder's graph: token ids and a KV cache in, logits and the new cache out."""
    c = config
    cache = CachedAttention(layers, c.head_dim, c.inverse_frequencies, c.positions)
    table = layers.table("model.embed_tokens.weight", c.vocab, c.hidden, is_head=c.tied)
    x = layers.gather(cache.input_ids, table)  # (batch, sequence, hidden)
    residual = ""
    for i in range(c.layers):
        name = f"model.layers.{i}"
        with layers.graph.scope(f"layers.{i}"):
            x, residual = _norm(layers, c, f"{name}.input_layernorm", x, residual)
            x = _attention(layers, c, cache, i, x)
            x, residual = _norm(layers, c, f"{name}.post_attention_layernorm", x, residual)
            x = _feed_forward(layers, c, f"{name}.mlp", x)
    x, _ = _norm(layers, c, "model.norm", x, residual)
    head = table if c.tied else layers.head("lm_head.weight", c.vocab, c.hidden)
    cache.logits(x, head)


def _norm(layers: Layers, c: Config, name: str, x: str, residual: str) -> tuple[str, str]:
    return layers.rms_norm(x, residual, f"{name}.weight", c.hidden, c.epsilon)


def _attention(layers: Layers, c: Config, cache: CachedAttention, i: int, x: str) -> str:
    name, q, kv = f"model.layers.{i}.self_attn", c.heads * c.head_dim, c.kv_heads * c.head_dim
    parts = [(f"{name}.q_proj", q), (f"{name}.k_proj", kv), (f"{name}.v_proj", kv)]
    # one product for all three: (batch, sequence, (heads + 2 kv_heads) head_dim)
    qkv = layers.linear(x, parts, c.hidden, "attention", bias=c.attention_bias)
    attended = cache.attend(i, [qkv], c.heads, c.kv_heads)  # (batch, sequence, heads head_dim)
    out = [(f"{name}.o_proj", c.hidden)]
    return layers.linear(attended, out, q, "attention", bias=c.attention_bias)


def _feed_forward(layers: Layers, c: Config, name: str, x: str) -> str:
    parts = [(f"{name}.{part}", c.feed_forward) for part in ("gate_proj", "up_proj")]
    # one product for both: (batch, sequence, 2 feed_forward)
    both = layers.linear(x, parts, c.hidden, "feed-forward", bias=c.mlp_bias)
    down = [(f"{name}.down_proj", c.hidden)]
    gated = layers.swiglu(both)  # (batch, sequence, feed_forward)
    return layers.linear(gated, down, c.feed_forward, "feed-forward", bias=c.mlp_bias)
