"""A Llama or an OpenELM in Candle, over a GGUF artifact: the forward pass of their graphs, by hand.

Llama's rows are interleaved in GGUF, so that rotary embedding pairs neighbours; OpenELM's are as
they were, and it pairs the halves. OpenELM has numbers of heads of its own in each layer, keeps
queries, keys and values in one matrix, and norms queries and keys head by head.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from llmkg_lab.artifact import Artifact
from llmkg_lab.models import form_of
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.models.openelm import EPSILON, OpenELMForm
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.candle.tensors import Tensor, Weights, to_numpy
from llmkg_lab.runtime.sequence import SequenceDecoder, TokenIds, check_tokens

TABLE = "token_embd.weight"


@dataclass(frozen=True)
class Heads:
    """The heads of one layer."""

    queries: int
    keys: int
    size: int

    @property
    def group(self) -> int:
        """Queries that share a key."""
        return self.queries // self.keys


class CandleDecoder(SequenceDecoder):
    """A causal language model on the CPU, one sequence at a time: as ``ort.Decoder``."""

    length = 0  # tokens in the cache

    def __init__(self, artifact: Artifact) -> None:
        form = form_of(artifact.config)
        if artifact.model_path.suffix != ".gguf" or not isinstance(form, LlamaForm | OpenELMForm):
            raise InferenceError(
                f"{artifact.folder} is not a GGUF file of a Llama or an OpenELM",
                "make one with llmkg-lab export",
            )
        self.artifact = artifact
        self._weights = Weights.of_artifact(artifact, {TABLE})
        self._heads = _heads(form)
        self._epsilon = form.epsilon if isinstance(form, LlamaForm) else EPSILON
        self._frequencies = form.rope.inverse_frequencies(form.head_dim)
        self._pairs_neighbours = bool(form.gguf.permuted)
        self._head = "output" if "output.weight" in self._weights else "token_embd"
        self.vocab, self.max_length = form.vocab, form.positions
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0
        self._cache: list[tuple[Tensor, Tensor] | None] = [None] * len(self._heads)

    def prefill(self, ids: TokenIds) -> np.ndarray:
        """Append tokens; return the logits after the last, (vocab,) float32."""
        checked = np.asarray(ids, np.int64)
        check_tokens(checked, self.vocab, self.length + len(checked), self.max_length)
        x = self._forward(checked.tolist())  # (tokens, hidden)
        last = self._norm("output_norm", x.narrow(0, len(checked) - 1, 1))
        self.length += len(checked)
        return to_numpy(self._weights.linear(self._head, last))[0]

    def _forward(self, ids: list[int]) -> Tensor:
        """Hidden states before the last norm, (tokens, hidden); the cache grows."""
        x = self._weights.rows(TABLE, ids)
        turn = _Rotation.at(
            self._weights, self.length, len(ids), self._frequencies, self._pairs_neighbours
        )
        for i in range(len(self._heads)):
            x = x + self._attention(i, self._norm(f"blk.{i}.attn_norm", x), turn)
            x = x + self._feed_forward(i, self._norm(f"blk.{i}.ffn_norm", x))
        return x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return self._weights.rms_norm(name, x, self._epsilon)

    def _feed_forward(self, i: int, x: Tensor) -> Tensor:
        linear = self._weights.linear
        gate = self._weights.candle.functional.silu(linear(f"blk.{i}.ffn_gate", x))
        return linear(f"blk.{i}.ffn_down", gate * linear(f"blk.{i}.ffn_up", x))

    def _attention(self, i: int, x: Tensor, turn: "_Rotation") -> Tensor:
        h, tokens = self._heads[i], x.shape[0]
        q, k, v = self._projected(i, x)  # (heads, tokens, size) each
        q, k = turn(self._normed(i, "q", q)), turn(self._normed(i, "k", k))
        if past := self._cache[i]:
            past_k, past_v = past
            cat = self._weights.candle.cat
            k, v = cat([past_k, k], 1), cat([past_v, v], 1)
        self._cache[i] = (k, v)
        # the queries of a group share keys: one product a group, (keys, group tokens, size)
        q = q.reshape((h.keys, h.group * tokens, h.size))
        scores = q.matmul(k.transpose(1, 2).contiguous()) * h.size**-0.5
        attended = self._weights.softmax(self._masked(scores, tokens, h.group)).matmul(v)
        attended = attended.reshape((h.queries, tokens, h.size)).transpose(0, 1).contiguous()
        return self._weights.linear(
            f"blk.{i}.attn_output", attended.reshape((tokens, h.queries * h.size))
        )

    def _projected(self, i: int, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, from three matrices or from one with all their rows."""
        h, tokens = self._heads[i], x.shape[0]
        counts = (h.queries, h.keys, h.keys)
        if f"blk.{i}.attn_qkv.weight" in self._weights:
            qkv = self._weights.linear(f"blk.{i}.attn_qkv", x).reshape(
                (tokens, sum(counts), h.size)
            )
            starts = (0, h.queries, h.queries + h.keys)
            parts = [qkv.narrow(1, *part) for part in zip(starts, counts, strict=True)]
        else:
            parts = [
                self._weights.linear(f"blk.{i}.attn_{part}", x).reshape((tokens, count, h.size))
                for part, count in zip("qkv", counts, strict=True)
            ]
        return [part.transpose(0, 1).contiguous() for part in parts]

    def _normed(self, i: int, part: str, x: Tensor) -> Tensor:
        """Queries or keys, normed head by head where the model does that."""
        name = f"blk.{i}.attn_{part}_norm"
        return self._norm(name, x) if f"{name}.weight" in self._weights else x

    def _masked(self, scores: Tensor, tokens: int, group: int) -> Tensor:
        """Scores (keys, group tokens, total) with the future at minus infinity."""
        if tokens == 1:
            return scores
        total = scores.shape[2]
        mask = np.triu(np.full((tokens, total), -1e30, np.float32), 1 + total - tokens)
        return scores.broadcast_add(self._weights.constant(np.tile(mask, (group, 1))))


def _heads(form: LlamaForm | OpenELMForm) -> list[Heads]:
    """The heads of each layer."""
    if isinstance(form, LlamaForm):
        return [Heads(form.heads, form.kv_heads, form.head_dim)] * form.layers
    counts = zip(form.heads, form.kv_heads, strict=True)
    return [Heads(queries, keys, form.head_dim) for queries, keys in counts]


@dataclass(frozen=True)
class _Rotation:
    """Rotary embedding at some positions, of neighbours or of halves."""

    weights: Weights
    cosines: Tensor  # (tokens, size / 2), and a last 1 for neighbours
    sines: Tensor
    pairs_neighbours: bool

    @classmethod
    def at(
        cls,
        weights: Weights,
        start: int,
        count: int,
        inverse_frequencies: np.ndarray,
        pairs_neighbours: bool,
    ) -> Self:
        angles = np.arange(start, start + count)[:, None] * inverse_frequencies
        if pairs_neighbours:
            angles = angles[:, :, None]
        cosines, sines = (weights.constant(f(angles)) for f in (np.cos, np.sin))
        return cls(weights, cosines, sines, pairs_neighbours)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (heads, tokens, size)."""
        heads, tokens, size = x.shape
        half, axis = size // 2, 2
        if self.pairs_neighbours:
            x, half, axis = x.reshape((heads, tokens, half, 2)), 1, 3
        a, b = x.narrow(axis, 0, half), x.narrow(axis, half, half)
        turned = [
            a.broadcast_mul(self.cosines) - b.broadcast_mul(self.sines),
            a.broadcast_mul(self.sines) + b.broadcast_mul(self.cosines),
        ]
        return self.weights.candle.cat(turned, axis).reshape((heads, tokens, size))
