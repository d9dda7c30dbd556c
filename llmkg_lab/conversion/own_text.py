"""Text that a model writes itself, for its own calibration: no corpus has to be at hand.

Drawn from the model's own distribution, at temperature 1 and without any cut, it shows the inputs
that the matrices were trained to see. Every other sequence of a model that chats begins where its
template lets a user speak, so that the model makes up a question and answers it (as Magpie, Xu et
al., 2024, arXiv:2406.08464); the others begin with a token drawn from the vocabulary (LLM-QAT, Liu
et al., 2023, arXiv:2305.17888). Eight bits write it, whose distribution is all but the original's.
"""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkg_lab.artifact import Artifact
from llmkg_lab.base import cache
from llmkg_lab.base.progress import Counter, Progress
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme

if TYPE_CHECKING:
    from llmkg_lab.runtime.ort.batch_decoder import BatchDecoder

METHOD = 1  # counted up when the same inputs would give other text: cached ones are then void
SCHEME = "int8-s16-eq"
SEED = 0
BATCH = 16  # sequences that are written side by side, and kept together in the cache
CACHE_BYTES = 400_000_000  # of keys and values at once
MARK = "\N{OBJECT REPLACEMENT CHARACTER}question"  # stands for what a user says

Convert = Callable[[Checkpoint, Scheme, Path], Artifact]


class Draw:
    """Draws from all of a distribution: the inverse of its cumulative one, without sorting."""

    def __init__(self, *seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: np.ndarray, _: np.ndarray) -> int:
        """The next token; logits: (vocab,) float32."""
        cumulative = np.exp(logits - logits.max()).cumsum(dtype=np.float64)
        drawn = cumulative.searchsorted(self._random.random() * cumulative[-1], side="right")
        return min(int(drawn), len(logits) - 1)


def write(
    convert: Convert, checkpoint: Checkpoint, window: int, tokens: int, progress: Progress
) -> np.ndarray:
    """Sequences (n, window) int64, ``tokens`` in all or a few more.

    convert: makes the artifact that writes. What is written is kept in the cache, some
    sequences at a time: more of it begins with what was written before.
    """
    assert isinstance(checkpoint.form, LlamaForm)
    sidecars = {n: hashlib.sha256(c).hexdigest() for n, c in checkpoint.sidecars().items()}
    key = {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "sidecars": sidecars,
        "scheme": SCHEME,
        "window": window,
        "batch": BATCH,
        "seed": SEED,
        "versions": {name: version(name) for name in ("numpy", "onnxruntime", "tokenizers")},
    }
    batches = -(-tokens // (BATCH * window))
    counter = Counter(progress, "own text", "tokens", batches * BATCH * window)
    with tempfile.TemporaryDirectory(prefix="llmkg-lab-") as folder:
        writing = _Writing(convert, checkpoint, window, Path(folder), counter)
        parts = []
        for i in range(batches):
            stored = cache.arrays("own-text", {**key, "index": i}, partial(writing.batch, i))
            parts.append(stored["ids"])
            counter.reach((i + 1) * BATCH * window)
    return np.concatenate(parts)


class _Writing:
    """The model that writes, opened when the cache lacks something."""

    def __init__(
        self,
        convert: Convert,
        checkpoint: Checkpoint,
        window: int,
        folder: Path,
        counter: Counter,
    ) -> None:
        self._convert, self._checkpoint = convert, checkpoint
        self._window, self._folder, self._counter = window, folder, counter
        self._decoder: BatchDecoder | None = None

    def batch(self, index: int) -> cache.Arrays:
        """Sequences (BATCH, window) int32, the same whatever was written before them."""
        decoder = self._opened()
        tokenizer = Tokenizer.from_folder(decoder.artifact.folder)
        prompts = _prompts(tokenizer, decoder.vocab, index)[:BATCH]
        written = [prompt[: self._window] for prompt in prompts]
        samplers = [Draw(SEED, index, i) for i in range(BATCH)]
        for i, token in decoder.generate(prompts, self._window, samplers):
            if len(written[i]) < self._window:
                written[i].append(token)
                self._counter.advance()
        return {"ids": np.array(written, np.int32)}

    def _opened(self) -> "BatchDecoder":
        if self._decoder is None:
            artifact = self._convert(
                self._checkpoint, Scheme.parse(SCHEME), self._folder / "writer"
            )
            form = self._checkpoint.form
            assert isinstance(form, LlamaForm)
            own = 8 * form.layers * form.kv_heads * form.head_dim * self._window
            slots = max(1, min(BATCH, CACHE_BYTES // own))
            from llmkg_lab.runtime.ort.batch_decoder import BatchDecoder  # not for plain schemes

            self._decoder = BatchDecoder(artifact, slots, max_length=self._window)
        return self._decoder


def _prompts(tokenizer: Tokenizer, vocab: int, index: int) -> list[list[int]]:
    """What the sequences of a batch begin with."""
    random = np.random.default_rng([SEED, index])
    known = min(vocab, tokenizer.core.get_vocab_size())
    opening = tokenizer.encode("")[:1]  # BOS, of models that were trained with one
    plain = [[*opening, _drawn(random, tokenizer, known)] for _ in range(BATCH)]
    chat = chat_opening(tokenizer)
    return [list(chat) if chat and i % 2 else prompt for i, prompt in enumerate(plain)]


def _drawn(random: np.random.Generator, tokenizer: Tokenizer, known: int) -> int:
    while tokenizer.is_special(token := int(random.integers(known))):
        pass
    return token


def chat_opening(tokenizer: Tokenizer) -> Sequence[int]:
    """What stands before a user's first words; empty where the model was not taught to chat."""
    try:
        conversation = tokenizer.chat([{"role": "user", "content": MARK}])
    except InferenceError:
        return []
    before, found, _ = conversation.partition(MARK)
    return tokenizer.encode(before, special=False) if found else []
