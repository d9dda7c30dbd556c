"""One protocol for every runtime, with LLMKG's method names: ONNX Runtime, and Candle beside it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from llmkg_lab.artifact import MANIFEST, Artifact
from llmkg_lab.base.machine import default_threads
from llmkg_lab.checkpoint import Checkpoint, open_checkpoint
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.abilities import EMBEDS, GENERATES, RANKS
from llmkg_lab.runtime.caches import CacheStats, CachingTokenizer, vector_cache
from llmkg_lab.runtime.candle.worker import Worker, WorkerDecoder
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.ort.paged import PagedDecoder
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.runtime.ort.session import CPU
from llmkg_lab.runtime.text.generate import (
    GenerationConfig,
    TextStream,
    TokenGenerator,
    generate_text,
)
from llmkg_lab.runtime.text.tokenizer import Message

Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Metadata:
    """What a backend runs; the names that LLMKG has too mean the same there."""

    name: str  # of the folder
    architecture: str
    task: str
    parameters: int
    context_length: int  # tokens
    vocab_size: int
    quantization: str  # the scheme, the GGUF type, or the dtype of safetensors
    backend: str  # onnxruntime | candle


class Backend(Protocol):
    """LLMKG's ModelBackend. What a model is not made for raises InferenceError.

    One generation at a time: a second one that overtakes a stream ends it with InferenceError.
    """

    def generate_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> str:
        """Continue a text, or answer a conversation."""

    def stream_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> TextStream:
        """The same, piece by piece."""

    def get_embeddings(self, text: str) -> np.ndarray:
        """The embedding of a text, (hidden,) float32; not to be written to."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (texts, hidden) float32."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Scores (pairs,) float32 of (query, passage): the higher, the better they fit."""

    def is_ready(self) -> bool:
        """Whether it can answer now."""

    def memory_usage(self) -> int:
        """Bytes: what loading took, as the system counted it, and what the caches hold."""

    def metadata(self) -> Metadata:
        """What runs here."""

    def stats(self) -> dict[str, CacheStats]:
        """The caches: ``tokens`` of prompts, ``embeddings`` of texts."""

    def close(self) -> None:
        """Free what is held outside this process's memory."""


class CachedBackend(ABC):
    """What backends share: text around a decoder, vectors around an embedder, and the caches."""

    folder: Path
    task: str

    def __init__(self, tokenizer: CachingTokenizer | None = None) -> None:
        self.tokenizer = tokenizer or CachingTokenizer.from_folder(self.folder)
        self.vectors = vector_cache()
        self.lock = threading.RLock()

    def generate_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> str:
        with self.lock:
            return "".join(self.stream_text(prompt, config))

    def stream_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> TextStream:
        return generate_text(self.decoder(), self.tokenizer, prompt, config)

    def get_embeddings(self, text: str) -> np.ndarray:
        vector: np.ndarray = self.embed([text])[0]
        return vector

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        looked_up = {text: self.vectors.get(text) for text in dict.fromkeys(texts)}
        vectors = {text: vector for text, vector in looked_up.items() if vector is not None}
        missing = [text for text in looked_up if text not in vectors]
        if texts and not missing:
            return np.stack([vectors[text] for text in texts])
        with self.lock:
            made = self.compute_embeddings(missing)  # (missing, hidden)
        for text, vector in zip(missing, made, strict=True):
            vectors[text] = vector
            self.vectors.put(text, vector.copy())  # a view would keep the whole batch
        return np.stack([vectors[text] for text in texts]) if texts else made

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        with self.lock:
            return self.compute_scores(pairs)

    def embed_ids(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        """Embeddings (texts, hidden) of texts given as the model's own tokens, read as they are.

        Raises InferenceError where the runtime takes texts alone.
        """
        raise InferenceError(f"{self.folder} runs on a runtime that takes no tokens", "give texts")

    def stats(self) -> dict[str, CacheStats]:
        return {"tokens": self.tokenizer.cache.stats(), "embeddings": self.vectors.stats()}

    def memory_usage(self) -> int:
        return self.memory() + sum(cache.nbytes for cache in self.stats().values())

    def decoder(self) -> TokenGenerator:
        """What generates. Raises InferenceError where nothing does."""
        raise self._cannot("generates no text")

    def compute_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (texts, hidden) without the cache. Raises InferenceError of a text model."""
        raise self._cannot("embeds no texts")

    def compute_scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Scores (pairs,). Raises InferenceError of what is not a cross-encoder."""
        raise self._cannot("scores no pairs")

    @abstractmethod
    def is_ready(self) -> bool:
        """Whether it can answer now."""

    @abstractmethod
    def memory(self) -> int:
        """Bytes that the model takes."""

    @abstractmethod
    def metadata(self) -> Metadata:
        """What runs here."""

    def close(self) -> None:  # noqa: B027  (most hold nothing outside this process)
        """Free what is held outside this process's memory; by default nothing is."""

    def _cannot(self, what: str) -> InferenceError:
        return InferenceError(
            f"{self.folder} is a {self.task} model: it {what}",
            "open a text-generation artifact to generate, a sentence embedder of the MiniLM family "
            "to embed, a cross-encoder to score",
        )


class OrtBackend(CachedBackend):
    """An ONNX artifact on ONNX Runtime.

    memory: bytes that the process may have resident; a decoder then pages its layers.
    provider: an execution provider by ONNX Runtime's name, for encoders; a decoder's cache is
        bound in the CPU's memory.
    reuse_prompts: as ``Decoder`` takes it; one that pages its layers reads every prompt whole.
    """

    name = "onnxruntime"

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None = None,
        memory: int | None = None,
        provider: str = CPU,
        reuse_prompts: bool = False,
    ) -> None:
        self.artifact, self.folder, self.task = artifact, artifact.folder, artifact.task
        before = psutil.Process().memory_info().rss
        self._decoder: TokenGenerator | None = None
        self._embedder: Embedder | None = None
        self._ranker: Ranker | None = None
        if self.task == GENERATES:
            if provider != CPU:
                raise InferenceError(f"a decoder does not run on {provider}", "leave it out")
            if memory:
                self._decoder = PagedDecoder(artifact, threads, memory=memory)
            else:
                self._decoder = Decoder(artifact, threads, reuse_prompts=reuse_prompts)
        elif self.task in EMBEDS:
            self._embedder = Embedder(artifact, threads, provider=provider)
        elif self.task == RANKS:
            self._ranker = Ranker(artifact, threads, provider=provider)
        else:
            raise InferenceError(f"{self.folder} is a {self.task} model", "nothing here runs it")
        self._loaded = max(0, psutil.Process().memory_info().rss - before)
        super().__init__()

    def decoder(self) -> TokenGenerator:
        return self._decoder or super().decoder()

    def compute_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        return self._embedder.embed(texts) if self._embedder else super().compute_embeddings(texts)

    def compute_scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return self._ranker.score(pairs) if self._ranker else super().compute_scores(pairs)

    def embed_ids(self, texts: Sequence[Sequence[int]]) -> np.ndarray:
        if self._embedder is None:
            raise self._cannot("embeds no texts")
        with self.lock:
            return self._embedder.embed_ids(texts)

    def is_ready(self) -> bool:
        return True  # a session that could not be loaded raised

    def memory(self) -> int:
        return self._loaded

    def metadata(self) -> Metadata:
        return artifact_metadata(self.artifact, self.name)


class CandleBackend(CachedBackend):
    """Candle in a process of its own: a GGUF export, or a BERT's folder of safetensors.

    Raises BackendError where the worker cannot load the model; from then on, wherever it dies.
    """

    name = "candle"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        if not folder.is_dir():
            raise InferenceError(f"{folder} is not a folder", "give the path of an export or model")
        self.folder = folder
        threads = threads or default_threads()
        self._decoder: WorkerDecoder | None = None
        tokenizer = None
        if (folder / MANIFEST).exists():
            artifact = Artifact.open(folder)
            self._metadata = artifact_metadata(artifact, self.name)
        else:
            checkpoint = open_checkpoint(folder)
            self._metadata = _checkpoint_metadata(folder, checkpoint)
            tokenizer = CachingTokenizer.from_files(checkpoint.sidecars(), str(folder))
        self.task = self._metadata.task
        if self.task == GENERATES:
            self._decoder = WorkerDecoder(Artifact.open(folder), threads)
        else:
            self._worker = Worker("candle-encoder", folder, threads)
        super().__init__(tokenizer)

    @property
    def worker(self) -> Worker:
        """The process that computes; after a Ctrl-C, the one that took its place."""
        return self._decoder.worker if self._decoder else self._worker

    def decoder(self) -> WorkerDecoder:
        if self._decoder is None:
            raise self._cannot("generates no text")
        return self._decoder

    def compute_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        if self.task not in EMBEDS:
            return super().compute_embeddings(texts)
        return self.worker.call("embed", list(texts))

    def compute_scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        if self.task != RANKS:
            return super().compute_scores(pairs)
        return self.worker.call("score", list(pairs))

    def is_ready(self) -> bool:
        return self.worker.alive

    def memory(self) -> int:
        return self.worker.memory()

    def metadata(self) -> Metadata:
        return self._metadata

    def close(self) -> None:
        self.worker.close()


def artifact_metadata(artifact: Artifact, backend: str) -> Metadata:
    """What an artifact's manifest and config.json say of it."""
    manifest = artifact.manifest
    return Metadata(
        artifact.folder.name,
        manifest.architecture,
        manifest.task,
        manifest.parameters,
        artifact.context_length,
        artifact.vocab_size,
        manifest.scheme.recipe,
        backend,
    )


def _checkpoint_metadata(folder: Path, checkpoint: Checkpoint) -> Metadata:
    form, tensors = checkpoint.form, checkpoint.tensors.values()
    return Metadata(
        folder.name,
        form.model_type,
        checkpoint.task,
        sum(int(np.prod(tensor.shape)) for tensor in tensors),
        form.positions,
        form.vocab,
        "/".join(sorted({str(tensor.dtype) for tensor in tensors})),
        "candle",
    )
