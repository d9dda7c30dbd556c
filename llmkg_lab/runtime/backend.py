"""One protocol for every runtime, with LLMKG's method names: ONNX Runtime, and Candle beside it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.machine import default_threads
from llmkg_lab.checkpoint import Checkpoint, open_checkpoint
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.caches import CacheStats, CachingTokenizer, vector_cache
from llmkg_lab.runtime.candle.worker import Worker, WorkerDecoder
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
from llmkg_lab.runtime.ort.paged import PagedDecoder
from llmkg_lab.runtime.ort.session import CPU
from llmkg_lab.runtime.text.generate import GenerationConfig, TokenGenerator, generate_text
from llmkg_lab.runtime.text.tokenizer import Message

GENERATES = "text-generation"
EMBEDS = ("sentence-embedding", "feature-extraction")

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
    """LLMKG's ModelBackend. A text model raises InferenceError when asked to embed, and vice versa.

    One generation at a time: a second one that overtakes a stream ends it with InferenceError.
    """

    def generate_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> str:
        """Continue a text, or answer a conversation."""

    def stream_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> Iterator[str]:
        """The same, piece by piece."""

    def get_embeddings(self, text: str) -> np.ndarray:
        """The embedding of a text, (hidden,) float32; not to be written to."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (texts, hidden) float32."""

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

    def __init__(self) -> None:
        self.tokenizer = CachingTokenizer.from_folder(self.folder)
        self.vectors = vector_cache()
        self.lock = threading.RLock()

    def generate_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> str:
        with self.lock:
            return "".join(self.stream_text(prompt, config))

    def stream_text(self, prompt: Prompt, config: GenerationConfig | None = None) -> Iterator[str]:
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
            "open a text-generation artifact to generate, one of the MiniLM family to embed",
        )


class OrtBackend(CachedBackend):
    """An ONNX artifact on ONNX Runtime.

    memory: bytes that the process may have resident; a decoder then pages its layers.
    provider: an execution provider by ONNX Runtime's name, for encoders; a decoder's cache is
        bound in the CPU's memory.
    """

    name = "onnxruntime"

    def __init__(
        self,
        artifact: Artifact,
        threads: int | None = None,
        memory: int | None = None,
        provider: str = CPU,
    ) -> None:
        self.artifact, self.folder, self.task = artifact, artifact.folder, artifact.task
        before = psutil.Process().memory_info().rss
        self._decoder: TokenGenerator | None = None
        self._embedder: Embedder | None = None
        if self.task == GENERATES:
            if provider != CPU:
                raise InferenceError(f"a decoder does not run on {provider}", "leave it out")
            if memory:
                self._decoder = PagedDecoder(artifact, threads, memory=memory)
            else:
                self._decoder = Decoder(artifact, threads)
        elif self.task in EMBEDS:
            self._embedder = Embedder(artifact, threads, provider=provider)
        else:
            raise InferenceError(f"{self.folder} is a {self.task} model", "open it with Ranker")
        self._loaded = max(0, psutil.Process().memory_info().rss - before)
        super().__init__()

    def decoder(self) -> TokenGenerator:
        return self._decoder or super().decoder()

    def compute_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        return self._embedder.embed(texts) if self._embedder else super().compute_embeddings(texts)

    def is_ready(self) -> bool:
        return True  # a session that could not be loaded raised

    def memory(self) -> int:
        return self._loaded

    def metadata(self) -> Metadata:
        return artifact_metadata(self.artifact, self.name)


class CandleBackend(CachedBackend):
    """Candle in a process of its own: a Llama's GGUF export, or a BERT's folder of safetensors.

    Raises BackendError where the worker cannot load the model; from then on, wherever it dies.
    """

    name = "candle"

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        # candding looks names that are not folders up on the Hub
        if not folder.is_dir():
            raise InferenceError(f"{folder} is not a folder", "give the path of an export or model")
        self.folder = folder
        threads = threads or default_threads()
        self._decoder: WorkerDecoder | None = None
        if (folder / "manifest.json").exists():
            artifact = Artifact.open(folder)
            self._metadata = artifact_metadata(artifact, self.name)
            self._decoder = WorkerDecoder(artifact, threads)
        else:
            self._metadata = _checkpoint_metadata(folder)
            self._worker = Worker("candle-embedder", folder, threads)
        self.task = self._metadata.task
        super().__init__()

    @property
    def worker(self) -> Worker:
        """The process that computes; after a Ctrl-C, the one that took its place."""
        return self._decoder.worker if self._decoder else self._worker

    def decoder(self) -> TokenGenerator:
        return self._decoder or super().decoder()

    def compute_embeddings(self, texts: Sequence[str]) -> np.ndarray:
        if self._decoder:
            return super().compute_embeddings(texts)
        return self.worker.call("embed", list(texts))

    def is_ready(self) -> bool:
        return self.worker.alive

    def memory(self) -> int:
        return self.worker.memory()

    def metadata(self) -> Metadata:
        return self._metadata

    def close(self) -> None:
        self.worker.close()


def _has_own_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a text is tokenized by the folder's tokenizer.json as it is."""
    path = checkpoint.tokenizer_folder / "tokenizer.json"
    return path.exists() and checkpoint.sidecars()["tokenizer.json"] == path.read_bytes()


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


def _checkpoint_metadata(folder: Path) -> Metadata:
    checkpoint = open_checkpoint(folder)
    changed = [key for key in ("prompt", "truncate_dim") if key in (checkpoint.pooling or {})]
    if changed or not _has_own_tokenizer(checkpoint):
        raise InferenceError(
            f"{folder}: Candle embeds without its {changed[0] if changed else 'do_lower_case'}",
            "convert it, and open the artifact",
        )
    config, tensors = checkpoint.config, checkpoint.tensors.values()
    metadata = Metadata(
        folder.name,
        config["model_type"],
        EMBEDS[0],
        sum(int(np.prod(tensor.shape)) for tensor in tensors),
        config["max_position_embeddings"],
        config["vocab_size"],
        "/".join(sorted({str(tensor.dtype) for tensor in tensors})),
        "candle",
    )
    return metadata if checkpoint.pooling else replace(metadata, task=EMBEDS[1])
