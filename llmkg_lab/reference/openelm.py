"""OpenELM in PyTorch: the reference that transformers has no code for.

The plainest form of the model (Mehta et al., 2024, arXiv:2404.14619), in float32; parameters
have the checkpoint's names. It shares nothing with ``models.openelm``, by which artifacts are made,
and ``tests/interop`` holds it against llama.cpp.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmkg_lab.base.progress import Progress, silent, track

EPSILON = 1e-6  # of every norm; config.json does not hold it
Cache = list[tuple[Tensor, Tensor] | None]  # keys and values of each layer


@dataclass(frozen=True)
class Dimensions:
    """What the tensors' shapes say of a model, and config.json where they do not."""

    vocab: int
    hidden: int
    head_dim: int
    heads: list[int]  # of each layer, as the two below
    kv_heads: list[int]
    feed_forward: list[int]
    norms_heads: bool
    tied: bool
    theta: float  # the base of the rotary angles

    @classmethod
    def read(cls, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Self:
        """Read them. Raises KeyError on the name of a tensor or of a key that is missing."""
        size = config["head_dim"]
        layers = [f"transformer.layers.{i}" for i in range(config["num_transformer_layers"])]
        heads = [shapes[f"{layer}.attn.out_proj.weight"][1] // size for layer in layers]
        of_all = [shapes[f"{layer}.attn.qkv_proj.weight"][0] // size for layer in layers]
        vocab, hidden = shapes["transformer.token_embeddings.weight"]
        return cls(
            vocab=vocab,
            hidden=hidden,
            head_dim=size,
            heads=heads,
            kv_heads=[(both - own) // 2 for both, own in zip(of_all, heads, strict=True)],
            feed_forward=[shapes[f"{layer}.ffn.proj_2.weight"][1] for layer in layers],
            norms_heads=config.get("normalize_qk_projections", False),
            tied=config.get("share_input_output_layers", True),
            theta=config.get("rope_freq_constant", 10000),
        )


class Attention(nn.Module):
    """Causal attention of grouped queries."""

    def __init__(self, dims: Dimensions, layer: int) -> None:
        super().__init__()
        heads, kv_heads, size = dims.heads[layer], dims.kv_heads[layer], dims.head_dim
        self.counts = [heads, kv_heads, kv_heads]
        self.head_dim = size
        self.qkv_proj = nn.Linear(dims.hidden, sum(self.counts) * size, bias=False)
        self.out_proj = nn.Linear(heads * size, dims.hidden, bias=False)
        self.q_norm = nn.RMSNorm(size, EPSILON) if dims.norms_heads else nn.Identity()
        self.k_norm = nn.RMSNorm(size, EPSILON) if dims.norms_heads else nn.Identity()

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: Cache, i: int) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv_proj(x).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
        queries, keys, values = qkv.split(self.counts, 1)  # (batch, heads, tokens, head_dim)
        queries = rotate(self.q_norm(queries), *rotation)
        keys = rotate(self.k_norm(keys), *rotation)
        if (past := cache[i]) is not None:
            past_keys, past_values = past
            keys, values = torch.cat([past_keys, keys], 2), torch.cat([past_values, values], 2)
        mask = torch.ones(tokens, keys.shape[2], dtype=torch.bool)
        mask = mask.tril(keys.shape[2] - tokens)  # a token sees the past and itself
        attended = functional.scaled_dot_product_attention(
            queries, keys, values, mask, enable_gqa=True
        )
        cache[i] = keys, values
        return self.out_proj(attended.transpose(1, 2).reshape(batch, tokens, -1))


class FeedForward(nn.Module):
    """Gated feed-forward (Shazeer, 2020, arXiv:2002.05202): one product makes gate and up."""

    def __init__(self, dims: Dimensions, layer: int) -> None:
        super().__init__()
        width = dims.feed_forward[layer]
        self.proj_1 = nn.Linear(dims.hidden, 2 * width, bias=False)
        self.proj_2 = nn.Linear(width, dims.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.proj_1(x).chunk(2, -1)
        return self.proj_2(functional.silu(gate) * up)


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, dims: Dimensions, layer: int) -> None:
        super().__init__()
        self.index = layer
        self.attn = Attention(dims, layer)
        self.ffn = FeedForward(dims, layer)
        self.attn_norm = nn.RMSNorm(dims.hidden, EPSILON)
        self.ffn_norm = nn.RMSNorm(dims.hidden, EPSILON)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], cache: Cache) -> Tensor:
        x = x + self.attn(self.attn_norm(x), rotation, cache, self.index)
        return x + self.ffn(self.ffn_norm(x))


class Transformer(nn.Module):
    """Token ids (batch, tokens) -> hidden states behind the last norm (batch, tokens, hidden)."""

    def __init__(self, dims: Dimensions) -> None:
        super().__init__()
        pairs = torch.arange(0, dims.head_dim, 2, device="cpu") / dims.head_dim
        self.frequencies = 1 / dims.theta**pairs  # of each pair, in radians per position
        self.token_embeddings = nn.Embedding(dims.vocab, dims.hidden)
        self.layers = nn.ModuleList(Layer(dims, i) for i in range(len(dims.heads)))
        self.norm = nn.RMSNorm(dims.hidden, EPSILON)

    def forward(self, ids: Tensor, cache: Cache) -> Tensor:
        past = 0 if cache[0] is None else cache[0][0].shape[2]
        positions = torch.arange(past, past + ids.shape[1], dtype=torch.float32)
        angles = torch.outer(positions, self.frequencies)
        angles = torch.cat([angles, angles], -1)  # (tokens, head_dim)
        rotation = angles.cos(), angles.sin()
        x = self.token_embeddings(ids)
        for layer in self.layers:
            x = layer(x, rotation, cache)
        return self.norm(x)


class OpenELM(nn.Module):
    """The language model. A head that shares the embedding's weights has none of its own."""

    def __init__(self, dims: Dimensions) -> None:
        super().__init__()
        self.transformer = Transformer(dims)
        self.lm_head = None if dims.tied else nn.Linear(dims.hidden, dims.vocab, bias=False)

    def hidden(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Read ids (batch, tokens) behind those in ``cache`` -> (batch, tokens, hidden)."""
        return self.transformer(ids, self.new_cache() if cache is None else cache)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Read ids (batch, tokens) behind those in ``cache`` -> logits (batch, tokens, vocab)."""
        head = self.lm_head or self.transformer.token_embeddings
        return functional.linear(self.hidden(ids, cache), head.weight)

    def new_cache(self) -> Cache:
        return [None] * len(self.transformer.layers)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (…, tokens, head_dim), whose halves are the pairs' coordinates."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


@torch.inference_mode()
def continue_greedily(
    model: OpenELM,
    prompts: Sequence[Sequence[int]],
    count: int,
    progress: Progress = silent,
) -> list[list[int]]:
    """The ``count`` most likely tokens, one after another, behind each prompt.

    All prompts go side by side, a token at a time: each takes its own tokens first, then those
    that it was continued with. So none needs padding, and each pass serves all.
    """
    sequences, cache = [list(prompt) for prompt in prompts], model.new_cache()
    positions = range(max(map(len, prompts), default=0) + count - 1)
    for position in track(positions, progress, "continuing", "tokens"):
        ids = torch.tensor([[sequence[position]] for sequence in sequences])
        best = model(ids, cache)[:, -1].argmax(-1).tolist()
        for sequence, token in zip(sequences, best, strict=True):
            if len(sequence) == position + 1:
                sequence.append(token)
    return [s[len(p) : len(p) + count] for s, p in zip(sequences, prompts, strict=True)]
