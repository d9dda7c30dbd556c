"""The graph of an OpenELM, in the order of the forward pass: see ``models.openelm``."""

import numpy as np

from llmkg_lab.graph.attention import CachedAttention
from llmkg_lab.graph.layers import Layers
from llmkg_lab.models.openelm import EPSILON, OpenELMForm


def build(layers: Layers, form: OpenELMForm) -> None:
    """Build the decoder's graph: token ids and a KV cache in, logits and the new cache out."""
    c = form
    cache = CachedAttention(layers, c.head_dim, c.rope, c.positions)
    table = layers.table(c.table, c.vocab, c.hidden, is_head=c.tied)
    x = layers.gather(cache.input_ids, table)  # (batch, sequence, hidden)
    residual = ""
    for i in range(c.layers):
        name = f"transformer.layers.{i}"
        with layers.graph.scope(f"layers.{i}"):
            x, residual = _norm(layers, c, f"{name}.attn_norm", x, residual)
            x = _attention(layers, c, cache, i, x)
            x, residual = _norm(layers, c, f"{name}.ffn_norm", x, residual)
            x = _feed_forward(layers, c, i, x)
    x, _ = _norm(layers, c, "transformer.norm", x, residual)
    head = table if c.tied else layers.head(c.head, c.vocab, c.hidden)
    cache.logits(x, head)


def _norm(layers: Layers, c: OpenELMForm, name: str, x: str, residual: str) -> tuple[str, str]:
    return layers.rms_norm(x, residual, f"{name}.weight", c.hidden, EPSILON)


def _attention(layers: Layers, c: OpenELMForm, cache: CachedAttention, i: int, x: str) -> str:
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


def _norm_heads(layers: Layers, c: OpenELMForm, name: str, x: str, heads: int) -> str:
    """RMS norm of each head of x (batch, sequence, heads head_dim), all with one gain."""
    # 0 in a shape keeps the dimension
    apart = layers.constant(np.array([0, 0, heads, c.head_dim]), f"{name}.apart")
    together = layers.constant(np.array([0, 0, heads * c.head_dim]), f"{name}.together")
    x = layers.graph.op("Reshape", x, apart)  # (batch, sequence, heads, head_dim)
    x, _ = layers.rms_norm(x, "", f"{name}.weight", c.head_dim, EPSILON)
    return layers.graph.op("Reshape", x, together)


def _feed_forward(layers: Layers, c: OpenELMForm, i: int, x: str) -> str:
    name, width = f"transformer.layers.{i}.ffn", c.feed_forward[i]
    both = layers.linear(x, [(f"{name}.proj_1", 2 * width)], c.hidden, "feed-forward")
    gated = layers.swiglu(both)  # (batch, sequence, width)
    return layers.linear(gated, [(f"{name}.proj_2", c.hidden)], width, "feed-forward")
