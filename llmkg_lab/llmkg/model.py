"""A loaded model, with LLMKG's methods and what its calls took."""

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from llmkg_lab.llmkg.config import ModelConfig
from llmkg_lab.llmkg.metadata import ModelMetadata
from llmkg_lab.llmkg.pool import Use

if TYPE_CHECKING:
    import numpy as np

    from llmkg_lab.artifact import Artifact
    from llmkg_lab.runtime.backend import CachedBackend, Prompt
    from llmkg_lab.runtime.text.generate import TokenGenerator
    from llmkg_lab.runtime.text.sampling import Sampler


class ModelBackend(Protocol):
    """LLMKG's ModelBackend: one protocol for every runtime."""

    def generate_text(self, prompt: "Prompt", config: ModelConfig | None = None) -> str:
        """Continue a text, or answer a conversation."""

    def get_embeddings(self, text: str) -> "np.ndarray":
        """The embedding of a text, (hidden,) float32."""

    def is_ready(self) -> bool:
        """Whether it can answer now."""

    def memory_usage(self) -> int:
        """Bytes."""

    def metadata(self) -> ModelMetadata:
        """What runs here, with what was measured of it."""


@dataclass(frozen=True)
class InferenceMetrics:
    """What the calls of a loaded model took, as they were measured here.

    Args:
        avg_inference_ms: The mean time of a call, a stream's until its last piece.
        peak_inference_ms: The longest.
        throughput: Units a second while calls ran: tokens that were written, texts that were
            embedded or pairs that were scored.
        memory_mb: Memory of the model now, in 10⁶ bytes.
        inferences: Calls that ended.
        units: What they made in all.
    """

    avg_inference_ms: float
    peak_inference_ms: float
    throughput: float
    memory_mb: float
    inferences: int
    units: int


class Meter:
    """Adds up what calls took. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds = self.peak = 0.0
        self.inferences = self.units = 0

    def note(self, seconds: float, units: int) -> None:
        """Note a call that ended."""
        with self._lock:
            self.seconds += seconds
            self.peak = max(self.peak, seconds)
            self.inferences += 1
            self.units += units

    def metrics(self, nbytes: int) -> InferenceMetrics:
        """All calls so far."""
        with self._lock:
            return InferenceMetrics(
                avg_inference_ms=1000 * self.seconds / max(self.inferences, 1),
                peak_inference_ms=1000 * self.peak,
                throughput=self.units / self.seconds if self.seconds else 0.0,
                memory_mb=nbytes / 1e6,
                inferences=self.inferences,
                units=self.units,
            )


@dataclass(frozen=True)
class LoadedModel:
    """A model that a ModelLoader opened; it is a ``ModelBackend``.

    While one of its methods runs, or a stream is read, it is in use and not unloaded. Once it was
    unloaded, they raise LoadingError.
    """

    backend: "CachedBackend"
    artifact: "Artifact"
    model: ModelMetadata
    use: Use
    batch_size: int | None = None
    config: ModelConfig = field(default_factory=ModelConfig)
    meter: Meter = field(default_factory=Meter)

    def with_config(self, config: ModelConfig) -> "LoadedModel":
        """The same model, which continues as ``config`` says where a call has none of its own."""
        return replace(self, config=config)

    def generate_text(self, prompt: "Prompt", config: ModelConfig | None = None) -> str:
        """Continue a text, or answer a conversation. One caller after the other."""
        with self.use, self.backend.lock:
            return "".join(self._stream(prompt, config))

    def stream_text(self, prompt: "Prompt", config: ModelConfig | None = None) -> Iterator[str]:
        """The same, piece by piece; a generation that begins meanwhile ends this one."""
        with self.use:  # what is wrong is raised now, not at the first piece
            pieces = self._stream(prompt, config)
        return self._in_use(pieces)

    def get_embeddings(self, text: str) -> "np.ndarray":
        vector: np.ndarray = self.embed([text])[0]
        return vector

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Embeddings (texts, hidden) float32."""
        with self.use:
            start = time.perf_counter()
            vectors = self._embed(texts)
            self.meter.note(time.perf_counter() - start, len(texts))
            return vectors

    def score(self, pairs: Sequence[tuple[str, str]]) -> "np.ndarray":
        """Scores (pairs,) float32 of (query, passage): the higher, the better they fit."""
        with self.use:
            start = time.perf_counter()
            scores = self.backend.score(pairs)
            self.meter.note(time.perf_counter() - start, len(pairs))
            return scores

    def is_ready(self) -> bool:
        return not self.use.is_over and self.backend.is_ready()

    def memory_usage(self) -> int:
        return self.backend.memory_usage()

    def metadata(self) -> ModelMetadata:
        return self.model

    def metrics(self) -> InferenceMetrics:
        """What the calls took so far."""
        return self.meter.metrics(self.memory_usage())

    def close(self) -> None:
        """Free the memory; the loader does it."""
        self.backend.close()

    def _embed(self, texts: Sequence[str]) -> "np.ndarray":
        step = self.batch_size or len(texts)
        if step >= len(texts):
            return self.backend.embed(texts)
        import numpy as np  # with what makes embeddings it is here already

        starts = range(0, len(texts), step)
        return np.concatenate([self.backend.embed(texts[i : i + step]) for i in starts])

    def _stream(self, prompt: "Prompt", config: ModelConfig | None) -> Iterator[str]:
        from llmkg_lab.runtime.text.generate import generate_text

        counted = Counted(self.backend.decoder(), self.meter)
        settings = (config or self.config).generation()
        return generate_text(counted, self.backend.tokenizer, prompt, settings)

    def _in_use(self, pieces: Iterator[str]) -> Iterator[str]:
        with self.use:
            yield from pieces


class Counted:
    """A decoder whose tokens and seconds are noted when a generation ends, however it ends."""

    def __init__(self, decoder: "TokenGenerator", meter: Meter) -> None:
        self._decoder, self._meter = decoder, meter
        self.artifact = decoder.artifact

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampler: "Sampler | None" = None,
        stop_ids: Collection[int] = (),
    ) -> Iterator[int]:
        """Generate as the decoder does."""
        return self._counted(self._decoder.generate(prompt_ids, max_tokens, sampler, stop_ids))

    def _counted(self, tokens: Iterator[int]) -> Iterator[int]:
        start, count = time.perf_counter(), 0
        try:
            for token in tokens:
                count += 1
                yield token
        finally:
            self._meter.note(time.perf_counter() - start, count)
