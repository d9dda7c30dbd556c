"""A Llama in Candle, over a GGUF artifact: the forward pass of graph/llama.py, by hand.

The `candle-nn` package brings kernels, quantized products among them. Its own Llama is not used:
it has no grouped queries, and its causal mask lets a token see the future.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.sequence import SequenceDecoder, TokenIds, check_tokens

Tensor = Any  # candle.Tensor; candle is an optional package
Weights = dict[str, Any]  # candle.QTensor by GGUF name


class CandleDecoder(SequenceDecoder):
    """A causal language model on the CPU, one sequence at a time: as ``ort.Decoder``."""

    length = 0  # tokens in the cache

    def __init__(self, artifact: Artifact) -> None:
        if artifact.model_path.suffix != ".gguf" or artifact.manifest.architecture != "llama":
            raise InferenceError(
                f"{artifact.folder} is not a GGUF file of a Llama", "make one with llmkg-lab export"
            )
        self.artifact = artifact
        self._candle = _import()
        form = open_checkpoint(artifact.model_path).form
        assert isinstance(form, LlamaForm)
        self._form = form
        self._frequencies = form.rope.inverse_frequencies(form.head_dim)
        self._weights, _ = self._candle.utils.load_gguf(str(artifact.model_path))
        self._floats = {  # what is not a matrix product's right-hand side
            name: weight.dequantize()
            for name, weight in self._weights.items()
            if len(weight.shape) == 1 or name == "token_embd.weight"
        }
        self.vocab, self.max_length = self._form.vocab, self._form.positions
        self.reset()

    def reset(self) -> None:
        """Forget the sequence."""
        self.length = 0
        self._cache: list[tuple[Tensor, Tensor] | None] = [None] * self._form.layers

    def prefill(self, ids: TokenIds) -> np.ndarray:
        """Append tokens; return the logits after the last, (vocab,) float32."""
        checked = np.asarray(ids, np.int64)
        check_tokens(checked, self.vocab, self.length + len(checked), self.max_length)
        x = self._forward(checked.tolist())  # (tokens, hidden)
        last = self._norm("output_norm", x.narrow(0, len(checked) - 1, 1))
        head = "output.weight" if "output.weight" in self._weights else "token_embd.weight"
        self.length += len(checked)
        return np.array(self._weights[head].matmul_t(last).values()[0], np.float32)

    def _forward(self, ids: list[int]) -> Tensor:
        """Hidden states before the last norm, (tokens, hidden); the cache grows."""
        table = self._floats["token_embd.weight"]
        x = table.index_select(self._candle.tensor(ids).to_dtype(self._candle.u32), 0)
        turn = _Rotation.at(self._candle, self.length, len(ids), self._frequencies)
        for i in range(self._form.layers):
            x = x + self._attention(i, self._norm(f"blk.{i}.attn_norm", x), turn)
            x = x + self._feed_forward(i, self._norm(f"blk.{i}.ffn_norm", x))
        return x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        square = x.sqr().sum_keepdim(1) / float(self._form.hidden)  # (tokens, 1)
        scaled = x.broadcast_div((square + self._form.epsilon).sqrt())
        return scaled.broadcast_mul(self._floats[f"{name}.weight"])

    def _linear(self, name: str, x: Tensor) -> Tensor:
        y = self._weights[f"{name}.weight"].matmul_t(x)
        bias = self._floats.get(f"{name}.bias")
        return y if bias is None else y.broadcast_add(bias)

    def _feed_forward(self, i: int, x: Tensor) -> Tensor:
        gate = self._candle.functional.silu(self._linear(f"blk.{i}.ffn_gate", x))
        return self._linear(f"blk.{i}.ffn_down", gate * self._linear(f"blk.{i}.ffn_up", x))

    def _attention(self, i: int, x: Tensor, turn: "_Rotation") -> Tensor:
        c, tokens = self._form, x.shape[0]

        def heads(part: str, count: int) -> Tensor:  # (count, tokens, head_dim)
            y = self._linear(f"blk.{i}.attn_{part}", x).reshape((tokens, count, c.head_dim))
            return y.transpose(0, 1).contiguous()

        q, k, v = turn(heads("q", c.heads)), turn(heads("k", c.kv_heads)), heads("v", c.kv_heads)
        if past := self._cache[i]:
            past_k, past_v = past
            k, v = self._candle.cat([past_k, k], 1), self._candle.cat([past_v, v], 1)
        self._cache[i] = (k, v)
        # the queries of a group share keys: one product a group, (kv_heads, group tokens, head_dim)
        q = q.reshape((c.kv_heads, c.heads // c.kv_heads * tokens, c.head_dim))
        scores = q.matmul(k.transpose(1, 2).contiguous()) * c.head_dim**-0.5
        attended = self._candle.functional.softmax(self._masked(scores, tokens), -1).matmul(v)
        attended = attended.reshape((c.heads, tokens, c.head_dim)).transpose(0, 1).contiguous()
        return self._linear(
            f"blk.{i}.attn_output", attended.reshape((tokens, c.heads * c.head_dim))
        )

    def _masked(self, scores: Tensor, tokens: int) -> Tensor:
        """Scores (kv_heads, group tokens, total) with the future at minus infinity."""
        if tokens == 1:
            return scores
        total = scores.shape[2]
        mask = np.triu(np.full((tokens, total), -1e30, np.float32), 1 + total - tokens)
        mask = np.tile(mask, (self._form.heads // self._form.kv_heads, 1))
        return scores.broadcast_add(self._candle.tensor(mask.tolist()))


@dataclass(frozen=True)
class _Rotation:
    """Rotary embedding at some positions, as GGUF has the rows: neighbours are rotated."""

    cat: Any
    cosines: Tensor  # (tokens, head_dim / 2, 1)
    sines: Tensor

    @classmethod
    def at(cls, candle: Any, start: int, count: int, inverse_frequencies: np.ndarray) -> Self:
        angles = np.arange(start, start + count)[:, None, None] * inverse_frequencies[:, None]
        tensors = [candle.tensor(f(angles).tolist()) for f in (np.cos, np.sin)]
        return cls(candle.cat, *tensors)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate (heads, tokens, head_dim)."""
        heads, tokens, size = x.shape
        pairs = x.reshape((heads, tokens, size // 2, 2))
        a, b = pairs.narrow(3, 0, 1), pairs.narrow(3, 1, 1)
        turned = [
            a.broadcast_mul(self.cosines) - b.broadcast_mul(self.sines),
            a.broadcast_mul(self.sines) + b.broadcast_mul(self.cosines),
        ]
        return self.cat(turned, 3).reshape((heads, tokens, size))


def _import() -> Any:
    try:
        import candle
        import candle.functional
        import candle.utils
    except ImportError as error:
        raise InferenceError(
            "Candle is not installed", "pip install 'llmkg-lab[candle]', or use ONNX Runtime"
        ) from error
    return candle
