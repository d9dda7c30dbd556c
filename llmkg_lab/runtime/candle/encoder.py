"""A BERT in Candle: embeddings of texts, or scores of pairs, as its ONNX graph gives them.

Over a GGUF artifact, or over a checkpoint's folder of safetensors, for tokenizers that GGUF has no
place for. Texts of one length run together, so that there is no padding and no mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from llmkg_lab.artifact import MANIFEST, Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.checkpoint.pooling import longest
from llmkg_lab.models import form_of
from llmkg_lab.models.bert import BertForm
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.candle.tensors import Tensor, Weights, to_numpy
from llmkg_lab.runtime.text.tokenizer import Tokenizer

BATCH_TOKENS = 128  # of a run
WORDS, POSITIONS, TYPES = "token_embd.weight", "position_embd.weight", "token_types.weight"
RANKS = "text-ranking"
Texts = Sequence[str | tuple[str, str]]


@dataclass(frozen=True)
class Parts:
    """What an encoder is made of: an artifact's, or a checkpoint's."""

    form: BertForm
    weights: Weights
    tokenizer: Tokenizer
    task: str
    pooling: dict[str, Any]  # as the manifest has it; empty where nothing pools

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read a folder. Raises InferenceError where it holds no BERT."""
        tables = {WORDS, POSITIONS, TYPES}
        if (folder / MANIFEST).exists():
            artifact = Artifact.open(folder)
            pooling = msgspec.to_builtins(artifact.manifest.pooling) or {}
            if artifact.model_path.suffix != ".gguf":
                raise InferenceError(f"{folder} is not a GGUF file", "make one: llmkg-lab export")
            form = _bert(folder, form_of(artifact.config))
            weights = Weights.of_artifact(artifact, tables)
            return cls(form, weights, Tokenizer.from_folder(folder), artifact.task, pooling)
        checkpoint = open_checkpoint(folder)
        form = _bert(folder, checkpoint.form)
        weights = Weights.of_safetensors(folder, form, tables)
        tokenizer = Tokenizer.from_files(checkpoint.sidecars())
        return cls(form, weights, tokenizer, checkpoint.task, checkpoint.pooling or {})


class CandleEncoder:
    """Texts to vectors, or pairs of texts to scores, on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.parts = parts = Parts.of(folder)
        self._form, self._weights, self._pooling = parts.form, parts.weights, parts.pooling
        self.max_length = self._pooling.get("max_length") or longest(
            parts.tokenizer.config, self._form.positions
        )
        self.hidden = self._pooling.get("truncate_dim") or self._form.hidden

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (texts, hidden) float32; a text without tokens is the zero vector."""
        if self.parts.task == RANKS:
            raise InferenceError("a cross-encoder embeds no texts", "ask it for scores")
        prompt = self._pooling.get("prompt", "")
        vectors = np.zeros((len(texts), self._form.hidden), np.float32)
        self._each([prompt + text for text in texts], self._pooled, vectors)
        return np.ascontiguousarray(vectors[:, : self.hidden])

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Scores (pairs,) float32, as ``ort.Ranker`` gives them."""
        if self.parts.task != RANKS or self._form.labels != 1:
            raise InferenceError("this model gives a pair no single score", "open a cross-encoder")
        scores = np.zeros((len(pairs), 1), np.float32)
        self._each([(query, passage) for query, passage in pairs], self._logits, scores)
        return scores[:, 0]

    def _each(self, texts: Texts, run: Callable[[Tensor], Tensor], results: np.ndarray) -> None:
        """Fill the rows of ``results`` with what ``run`` makes of the texts' hidden states."""
        batches = self.parts.tokenizer.batches(texts, self.max_length, BATCH_TOKENS)
        for indices, inputs in batches:
            self._check(inputs)
            lengths = inputs["attention_mask"].sum(axis=1)  # (texts,)
            for length in np.unique(lengths[lengths > 0]).tolist():
                rows = np.flatnonzero(lengths == length)
                ids, types = (
                    inputs[name][rows, :length] for name in ("input_ids", "token_type_ids")
                )
                results[np.array(indices)[rows]] = to_numpy(run(self._states(ids, types)))

    def _check(self, inputs: dict[str, np.ndarray]) -> None:
        counts = {"input_ids": self._form.vocab, "token_type_ids": self._form.types}
        for name, count in counts.items():
            if inputs[name].max(initial=0) >= count:
                raise InferenceError(
                    f"the tokenizer gives {name} of {inputs[name].max()}, and the model embeds "
                    f"{count}",
                    "tokenizer.json and weights are of different models",
                )

    def _states(self, ids: np.ndarray, types: np.ndarray) -> Tensor:
        """The last hidden states (texts, tokens, hidden) of ids and types (texts, tokens)."""
        w, form = self._weights, self._form
        texts, tokens = ids.shape
        positions = np.tile(np.arange(tokens), texts)
        x = w.rows(WORDS, ids.ravel().tolist()) + w.rows(TYPES, types.ravel().tolist())
        x = x + w.rows(POSITIONS, positions.tolist())  # (texts tokens, hidden)
        x = w.layer_norm("token_embd_norm", x, form.epsilon)
        for i in range(form.layers):
            attended = w.linear(f"blk.{i}.attn_output", self._attention(i, x, texts, tokens))
            x = w.layer_norm(f"blk.{i}.attn_output_norm", x + attended, form.epsilon)
            wide = w.candle.functional.gelu(w.linear(f"blk.{i}.ffn_up", x))
            narrow = w.linear(f"blk.{i}.ffn_down", wide)
            x = w.layer_norm(f"blk.{i}.layer_output_norm", x + narrow, form.epsilon)
        return x.reshape((texts, tokens, form.hidden))

    def _attention(self, i: int, x: Tensor, texts: int, tokens: int) -> Tensor:
        heads, size = self._form.heads, self._form.hidden // self._form.heads

        def split(part: str) -> Tensor:  # (texts, heads, tokens, size)
            y = self._weights.linear(f"blk.{i}.attn_{part}", x)
            return y.reshape((texts, tokens, heads, size)).transpose(1, 2).contiguous()

        q, k, v = split("q"), split("k"), split("v")
        scores = q.matmul(k.transpose(2, 3).contiguous()) * size**-0.5
        attended = self._weights.softmax(scores).matmul(v).transpose(1, 2).contiguous()
        return attended.reshape((texts * tokens, self._form.hidden))

    def _pooled(self, x: Tensor) -> Tensor:
        """Vectors (texts, hidden) of hidden states; without a pooling, the normalized mean."""
        texts, tokens, hidden = x.shape
        if self._pooling.get("mode") == "cls":
            pooled = x.narrow(1, 0, 1)
        else:
            pooled = x.sum_keepdim(1) / float(tokens)
        pooled = pooled.reshape((texts, hidden))
        if not self._pooling.get("normalize", True):
            return pooled
        return pooled.broadcast_div(pooled.sqr().sum_keepdim(1).sqrt())

    def _logits(self, x: Tensor) -> Tensor:
        """Logits (texts, labels): the first token's state through the tanh pooler."""
        texts, _, hidden = x.shape
        first = x.narrow(1, 0, 1).reshape((texts, hidden))
        pooled = self._weights.candle.functional.tanh(self._weights.linear("pooler", first))
        return self._weights.linear("classifier", pooled)


def _bert(folder: Path, form: object) -> BertForm:
    if not isinstance(form, BertForm):
        raise InferenceError(f"{folder} holds no BERT", "open a decoder's export to generate")
    return form
