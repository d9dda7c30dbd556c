"""Reference outputs: what the original model computes on the texts of an evaluation.

Outputs are cached by content; where the cache has them, neither torch nor transformers is
imported.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llmkg_lab.base import cache
from llmkg_lab.base.progress import Counter, Progress, inside, silent, track
from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.data.texts import Candidates
from llmkg_lab.reference.tokens import Tokens, joined, key_of, packed, split, unpacked

if TYPE_CHECKING:
    import torch

    from llmkg_lab.reference.filled import Model

BATCH = 32  # texts that an embedder sees at once
WINDOWS = 4  # windows that a decoder sees at once
PROBE = 8  # tokens whose logits are computed both ways


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
    judge: str  # what computed them
    head: str  # SHA-256 of the output projection that it multiplied with

    def part(self, windows: slice) -> "DecoderReference":
        """The same of some windows."""
        return replace(self, windows=self.windows[windows], hidden=self.hidden[windows])

    def logits(self, i: int) -> np.ndarray:
        """The logits at each position of window ``i``, (tokens, vocab) float32.

        Raises CheckpointError where the checkpoint is read with another output projection.
        """
        return self.hidden[i] @ self._head.T

    @cached_property
    def _head(self) -> np.ndarray:
        """The output projection, (vocab, hidden) float32."""
        head = self.checkpoint.read(self.checkpoint.form.head)
        if _sha256(head) != self.head:
            raise CheckpointError(
                f"{self.checkpoint.path}: {self.checkpoint.form.head} is not what the judge "
                f"multiplies hidden states with to logits ({self.judge})",
                "this project reads the checkpoint wrongly: what it converts cannot be trusted",
            )
        return head


@dataclass(frozen=True)
class EmbedderReference:
    """Reference embeddings of texts."""

    texts: list[str]
    tokens: list[Tokens]  # that each text was read as
    embeddings: np.ndarray  # (texts, hidden) float32, pooled and normalized as the model says
    judge: str


@dataclass(frozen=True)
class RankerReference:
    """Reference scores of pairs."""

    candidates: Candidates
    tokens: list[Tokens]  # that each pair was read as
    scores: np.ndarray  # (pairs,) float32, logits
    judge: str


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
        from llmkg_lab.reference import load  # torch: seconds, and half a gigabyte

        model, judge = load.decoder(checkpoint)
        hidden = []
        read = Counter(inside(progress, "reference"), "reading", "windows", len(windows))
        for start in range(0, len(windows), WINDOWS):
            batch = windows[start : start + WINDOWS]
            hidden.append(_hidden(model, batch))
            read.advance(len(batch))
        head = _head(model)
        _check_logits(model, windows, hidden[0], head)
        continued = _continue(model, starts, continuation, inside(progress, "reference"))
        return {
            "hidden": np.concatenate(hidden),
            "continuations": np.array(continued, np.int64),
            "judge": packed(judge),
            "head": packed(_sha256(head)),
        }

    key = {"windows": _sha256(windows), "prompts": starts, "continuation": continuation}
    stored = cache.arrays("reference", {**key_of(checkpoint), **key}, compute)
    return DecoderReference(
        checkpoint=checkpoint,
        windows=windows,
        prompts=starts,
        hidden=stored["hidden"],
        continuations=stored["continuations"].tolist(),
        judge=unpacked(stored["judge"]),
        head=unpacked(stored["head"]),
    )


def embedder_reference(
    checkpoint: Checkpoint,
    texts: Sequence[str],
    progress: Progress = silent,
) -> EmbedderReference:
    """Embed ``texts`` with an encoder.

    Raises CheckpointError or UnsupportedError where the weights do not fill the model.
    """

    def compute() -> cache.Arrays:
        from llmkg_lab.reference import sentences  # torch: seconds, and half a gigabyte

        embed, judge = sentences.embedder(checkpoint)
        found: dict[int, tuple[Tokens, np.ndarray]] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # little padding in a batch
        embedded = Counter(inside(progress, "reference"), "embedding", "texts", len(order))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            found |= zip(batch, zip(*embed([texts[i] for i in batch]), strict=True), strict=True)
            embedded.advance(len(batch))
        tokens, vectors = zip(*(found[i] for i in range(len(texts))), strict=True)
        return {**joined(tokens), "embeddings": np.stack(vectors), "judge": packed(judge)}

    stored = cache.arrays("reference", {**key_of(checkpoint), "texts": list(texts)}, compute)
    judge = unpacked(stored["judge"])
    return EmbedderReference(list(texts), split(stored), stored["embeddings"], judge)


def ranker_reference(
    checkpoint: Checkpoint,
    candidates: Candidates,
    progress: Progress = silent,
) -> RankerReference:
    """Score pairs of query and passage with a cross-encoder of one label.

    Raises CheckpointError or UnsupportedError where the weights do not fill the model.
    """
    pairs = candidates.pairs

    def compute() -> cache.Arrays:
        from llmkg_lab.reference import sentences  # torch: seconds, and half a gigabyte

        score, judge = sentences.ranker(checkpoint)
        scored = track(pairs, inside(progress, "reference"), "scoring", "pairs")
        tokens, scores = zip(*map(score, scored), strict=True)  # one by one: nothing is padded
        return {**joined(tokens), "scores": np.array(scores, np.float32), "judge": packed(judge)}

    stored = cache.arrays("reference", {**key_of(checkpoint), "pairs": pairs}, compute)
    judge = unpacked(stored["judge"])
    return RankerReference(candidates, split(stored), stored["scores"], judge)


def _hidden(model: "Model", windows: np.ndarray) -> np.ndarray:
    """Hidden states behind the last norm, (windows, tokens, hidden) float32."""
    import torch

    from llmkg_lab.reference.openelm import OpenELM

    ids = torch.tensor(windows)
    with torch.inference_mode():
        if isinstance(model, OpenELM):
            return model.hidden(ids).numpy()
        return model.base_model(input_ids=ids, use_cache=False).last_hidden_state.numpy()


def _head(model: "Model") -> np.ndarray:
    """The output projection, (vocab, hidden) float32."""
    from llmkg_lab.reference.openelm import OpenELM

    if isinstance(model, OpenELM):
        return (model.lm_head or model.transformer.token_embeddings).weight.numpy(force=True)
    return model.get_output_embeddings().weight.numpy(force=True)


def _check_logits(
    model: "Model", windows: np.ndarray, hidden: np.ndarray, head: np.ndarray
) -> None:
    """Hold the product that gives logits again against the logits that the model gives itself."""
    import torch

    with torch.inference_mode():
        expected = _logits(model, torch.tensor(windows[:1, :PROBE]))[0].numpy()
    size = np.abs(expected).max()
    if not np.allclose(hidden[0, :PROBE] @ head.T, expected, rtol=0, atol=1e-3 * size):
        raise CheckpointError(
            f"{type(model).__name__} does more with hidden states than a product with its head",
            "a model with capped or scaled logits cannot be validated",
        )


def _logits(model: "Model", ids: "torch.Tensor") -> "torch.Tensor":
    """Token ids (batch, tokens) -> logits (batch, tokens, vocab)."""
    logits = model(ids)
    return getattr(logits, "logits", logits)  # OpenELM gives them as they are


def _continue(
    model: "Model", prompts: list[list[int]], count: int, progress: Progress
) -> list[list[int]]:
    """The ``count`` most likely tokens, one after another, behind each prompt."""
    import torch
    import transformers

    from llmkg_lab.reference.openelm import OpenELM, continue_greedily

    if isinstance(model, OpenELM):
        return continue_greedily(model, prompts, count, progress)
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        return _continue_together(model, prompts, count, progress)
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


def _continue_together(
    model: "Model", prompts: list[list[int]], count: int, progress: Progress
) -> list[list[int]]:
    """The same of a model whose passes each read the checkpoint: one pass a token for all."""
    import torch

    sequences = [list(prompt) for prompt in prompts]
    for _ in track(range(count if prompts else 0), progress, "continuing", "tokens"):
        longest = max(map(len, sequences))
        rows = [[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences]
        with torch.inference_mode():  # what stands behind a sequence changes nothing in it
            best = model(torch.tensor(rows), use_cache=False).logits.argmax(-1)
        for sequence, tokens in zip(sequences, best.tolist(), strict=True):
            sequence.append(tokens[len(sequence) - 1])
    return [sequence[-count:] for sequence in sequences] if count else [[] for _ in prompts]


def _sha256(array: np.ndarray) -> str:
    digest = hashlib.sha256(json.dumps([array.dtype.str, *array.shape]).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
