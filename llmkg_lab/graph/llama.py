"""The graph of a Llama, in the order of the forward pass: see ``models.llama``."""

from llmkg_lab.graph.attention import CachedAttention
from llmkg_lab.graph.layers import Layers
from llmkg_lab.models.llama import LlamaForm


def build(layers: Layers, form: LlamaForm) -> None:
    """Build the decoder's graph: token ids and a KV cache in, logits and the new cache out."""
    c = form
    cache = CachedAttention(layers, c.head_dim, c.rope, c.positions)
    table = layers.table(c.table, c.vocab, c.hidden, is_head=c.tied)
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
    head = table if c.tied else layers.head(c.head, c.vocab, c.hidden)
    cache.logits(x, head)


def _norm(layers: Layers, c: LlamaForm, name: str, x: str, residual: str) -> tuple[str, str]:
    return layers.rms_norm(x, residual, f"{name}.weight", c.hidden, c.epsilon)


def _attention(layers: Layers, c: LlamaForm, cache: CachedAttention, i: int, x: str) -> str:
    name, q, kv = f"model.layers.{i}.self_attn", c.heads * c.head_dim, c.kv_heads * c.head_dim
    parts = [(f"{name}.q_proj", q), (f"{name}.k_proj", kv), (f"{name}.v_proj", kv)]
    # one product for all three: (batch, sequence, (heads + 2 kv_heads) head_dim)
    qkv = layers.linear(x, parts, c.hidden, "attention", bias=c.qkv_bias)
    attended = cache.attend(i, [qkv], c.heads, c.kv_heads)  # (batch, sequence, heads head_dim)
    out = [(f"{name}.o_proj", c.hidden)]
    return layers.linear(attended, out, q, "attention", bias=c.o_bias)


def _feed_forward(layers: Layers, c: LlamaForm, name: str, x: str) -> str:
    parts = [(f"{name}.{part}", c.feed_forward) for part in ("gate_proj", "up_proj")]
    # one product for both: (batch, sequence, 2 feed_forward)
    both = layers.linear(x, parts, c.hidden, "feed-forward", bias=c.mlp_bias)
    down = [(f"{name}.down_proj", c.hidden)]
    gated = layers.swiglu(both)  # (batch, sequence, feed_forward)
    return layers.linear(gated, down, c.feed_forward, "feed-forward", bias=c.mlp_bias)
