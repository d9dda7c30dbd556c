"""Reference outputs: what the original model computes on the texts of an evaluation.

Outputs are cached by content; where the cache has them, neither torch nor transformers is
imported.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from llmkg_lab.base import cache
from llmkg_lab.base.progress import Counter, Progress, inside, silent, track
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.checkpoint.pooling import longest
from llmkg_lab.data.texts import Candidates

if TYPE_CHECKING:
    import transformers

    from llmkg_lab.reference.openelm import OpenELM

BATCH = 32  # texts that an embedder sees at once
WINDOWS = 4  # windows that a decoder sees at once
DEFAULT_POOLING = {"mode": "mean", "normalize": True}


@dataclass
class DecoderReference:
    """Reference outputs of a decoder.

    Kept are the hidden states behind the last norm: with a vocabulary of 49 k they take a
    hundredth of the logits' room, and one matrix product gives the logits again.
    """

    checkpoint: Checkpoint
    windows: np.ndarray  # (windows, tokens) int64
    prompts: list[list[int]]
    hidden: np.ndarray  # (windows, tokens, hidden) float32
    continuations: list[list[int]]  # of the prompts, greedy; the end of text stops none

    def logits(self, i: int) -> np.ndarray:
        """The logits at each position of window ``i``, (tokens, vocab) float32."""
        return self.hidden[i] @ self._head.T

    @cached_property
    def _head(self) -> np.ndarray:
        """The output projection, (vocab, hidden) float32."""
        return self.checkpoint.read(self.checkpoint.form.head)


@dataclass(frozen=True)
class EmbedderReference:
    """Reference embeddings of texts."""

    texts: list[str]
    embeddings: np.ndarray  # (texts, hidden) float32, pooled and normalized as the model says


@dataclass(frozen=True)
class RankerReference:
    """Reference scores of pairs."""

    candidates: Candidates
    scores: np.ndarray  # (pairs,) float32, logits


def decoder_reference(
    checkpoint: Checkpoint,
    windows: np.ndarray,
    prompts: Sequence[Sequence[int]],
    continuation: int,
    progress: Progress = silent,
) -> DecoderReference:
    """Run a decoder over ``windows`` (n, tokens) int64 and continue ``prompts`` (token ids).

    continuation: tokens of each greedy continuation.
    Raises CheckpointError or UnsupportedError where the weights do not fill the model.
    """
    starts = [list(map(int, prompt)) for prompt in prompts]

    def compute() -> cache.Arrays:
        from llmkg_lab.reference.load import load_model  # torch: seconds, and half a gigabyte

        model = load_model(checkpoint)
        hidden = []
        read = Counter(inside(progress, "reference"), "reading", "windows", len(windows))
        for start in range(0, len(windows), WINDOWS):
            batch = windows[start : start + WINDOWS]
            hidden.append(_hidden(model, batch))
            read.advance(len(batch))
        continued = _continue(model, starts, continuation, inside(progress, "reference"))
        return {"hidden": np.concatenate(hidden), "continuations": np.array(continued, np.int64)}

    key = {"windows": _sha256(windows), "prompts": starts, "continuation": continuation}
    stored = cache.arrays("reference", {**_key(checkpoint), **key}, compute)
    continuations = stored["continuations"].tolist()
    return DecoderReference(checkpoint, windows, starts, stored["hidden"], continuations)


def embedder_reference(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    progress: Progress = silent,
) -> EmbedderReference:
    """Embed ``texts`` with an encoder, pooled and normalized as ``checkpoint.pooling`` says.

    Raises CheckpointError or UnsupportedError where the weights do not fill the model.
    """
    pooling: dict[str, Any] = checkpoint.pooling or DEFAULT_POOLING
    ids = _tokenize(checkpoint, [pooling.get("prompt", "") + text for text in texts], pooling)

    def compute() -> cache.Arrays:
        from llmkg_lab.reference.load import load_model  # torch: seconds, and half a gigabyte

        model = load_model(checkpoint)
        kept = pooling.get("truncate_dim", model.config.hidden_size)
        embeddings = np.empty((len(ids), kept), np.float32)
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # little padding in a batch
        embedded = Counter(inside(progress, "reference"), "embedding", "texts", len(order))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            embeddings[batch] = _embed(model, [ids[i] for i in batch], pooling)
            embedded.advance(len(batch))
        return {"embeddings": embeddings}

    key = {**_key(checkpoint), "ids": ids, "pooling": pooling}
    stored = cache.arrays("reference", key, compute)
    return EmbedderReference(list(texts), stored["embeddings"])


def ranker_reference(
    checkpoint: Checkpoint,
    candidates: Candidates,
    progress: Progress = silent,
) -> RankerReference:
    """Score pairs of query and passage with a cross-encoder of one label.

    Raises CheckpointError or UnsupportedError where the weights do not fill the model.
    """
    pairs = candidates.pairs
    encodings = _encode(checkpoint, pairs, _longest(checkpoint))
    ids = [(encoding.ids, encoding.type_ids) for encoding in encodings]

    def compute() -> cache.Arrays:
        from llmkg_lab.reference.load import load_model  # torch: seconds, and half a gigabyte

        model = load_model(checkpoint, ranks=True)
        scores = np.empty(len(ids), np.float32)
        scored = track(ids, inside(progress, "reference"), "scoring", "pairs")
        for row, (tokens, types) in enumerate(scored):  # one by one: nothing is padded
            scores[row] = _score(model, tokens, types)
        return {"scores": scores}

    key = {**_key(checkpoint), "pairs": ids}
    return RankerReference(candidates, cache.arrays("reference", key, compute)["scores"])


def _hidden(model: "transformers.PreTrainedModel | OpenELM", windows: np.ndarray) -> np.ndarray:
    """Hidden states behind the last norm, (windows, tokens, hidden) float32."""
    import torch

    from llmkg_lab.reference.openelm import OpenELM

    ids = torch.tensor(windows)
    with torch.inference_mode():
        if isinstance(model, OpenELM):
            return model.hidden(ids).numpy()
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state.numpy()


def _continue(
    model: "transformers.PreTrainedModel | OpenELM",
    prompts: list[list[int]],
    count: int,
    progress: Progress,
) -> list[list[int]]:
    """The ``count`` most likely tokens, one after another, behind each prompt."""
    import torch
    import transformers

    from llmkg_lab.reference.openelm import OpenELM, continue_greedily

    if isinstance(model, OpenELM):
        return continue_greedily(model, prompts, count, progress)
    continued = []
    for prompt in track(prompts, progress, "continuing", "prompts"):
        # No end of text: continuations of one length compare on one scale.
        model.generation_config = transformers.GenerationConfig(
            do_sample=False, max_new_tokens=count, pad_token_id=0
        )
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            output = model.generate(ids, attention_mask=torch.ones_like(ids))
        continued.append(output[0, len(prompt) :].tolist())
    return continued


def _score(model: "transformers.PreTrainedModel", ids: list[int], types: list[int]) -> float:
    """One pair's logit."""
    import torch

    with torch.inference_mode():
        tokens, types = torch.tensor([ids]), torch.tensor([types])
        return model(input_ids=tokens, token_type_ids=types).logits.item()


def _tokenize(checkpoint: Checkpoint, texts: Sequence[str], pooling: dict) -> list[list[int]]:
    length = pooling.get("max_length") or _longest(checkpoint)
    return [encoding.ids for encoding in _encode(checkpoint, texts, length)]


def _longest(checkpoint: Checkpoint) -> int:
    config = json.loads(checkpoint.sidecars()["tokenizer_config.json"])
    return longest(config, checkpoint.form.positions)


def _encode(
    checkpoint: Checkpoint, texts: Sequence[str | tuple[str, str]], length: int
) -> list[tokenizers.Encoding]:
    """Texts or pairs, cut to ``length`` tokens."""
    tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.sidecars()["tokenizer.json"])
    tokenizer.no_padding()
    tokenizer.enable_truncation(length)
    return tokenizer.encode_batch(list(texts))


def _embed(
    model: "transformers.PreTrainedModel", ids: list[list[int]], pooling: dict
) -> np.ndarray:
    """Token ids of a batch of texts -> (batch, hidden) float32."""
    import torch

    rows = [torch.tensor(row, dtype=torch.long) for row in ids]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (batch, tokens)
    mask = torch.tensor([[1] * len(r) + [0] * (padded.shape[1] - len(r)) for r in ids])
    with torch.inference_mode():
        states = model(input_ids=padded, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].float()  # (batch, tokens, 1)
        mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)  # of no tokens: zeros
        pooled = states[:, 0] if pooling["mode"] == "cls" else mean  # (batch, hidden)
        if pooling["normalize"]:
            pooled = torch.nn.functional.normalize(pooled, dim=1)
    return pooled[:, : pooling.get("truncate_dim")].numpy()


def _key(checkpoint: Checkpoint) -> dict:
    """What reference outputs depend on, besides the inputs."""
    return {
        "fingerprint": checkpoint.fingerprint(),
        "config": checkpoint.config,
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def _sha256(array: np.ndarray) -> str:
    shape = json.dumps([array.dtype.str, *array.shape]).encode()
    return hashlib.sha256(shape + np.ascontiguousarray(array).tobytes()).hexdigest()
