"""Vectors to chunks: an index of usearch's, derived from the embeddings in the store."""

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime  # noqa: F401  (usearch makes symbols global that crash it where it comes later)
from usearch.index import Index

from llmkg_lab.base import files
from llmkg_lab.knowledge.store import Store, deriving

NAME = "vectors"
BATCH = 5_000
EXPANSION = 64  # candidates of a search: recall@10 of 1.000 on 100,000 vectors
SAVE_EVERY = 256  # vectors that a process may add before it saves the index for others

Embed = Callable[[Sequence[str]], np.ndarray]  # texts to (texts, hidden) float32, of length 1


class Embedder:
    """What embeds, and the name under which its vectors are kept."""

    def __init__(self, name: str, embed: Embed) -> None:
        self.name, self._embed = name, embed

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embeddings (texts, hidden) float32 of length 1."""
        vectors = np.asarray(self._embed(texts), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-9)

    def packed(self, texts: Sequence[str]) -> list[bytes]:
        """Embeddings as the store keeps them: float16."""
        return [vector.tobytes() for vector in self(texts).astype(np.float16)] if texts else []


class Nearest(Protocol):
    """What finds chunks by meaning."""

    embedder: Embedder

    def search(self, vector: np.ndarray, limit: int) -> list[tuple[int, float]]:
        """The nearest chunks and their cosines, the nearest first."""

    def embed_missing(self, limit: int = 256) -> int:
        """Embed chunks that came without a vector; how many were."""

    def flush(self) -> None:
        """Save what was added, for the next process."""


class Vectors:
    """The index of a store's embeddings by one model.

    It lies in a file whose name the store knows, with its SHA-256 and the last embedding in it.
    What came later is added in memory; what does not match is made anew from the store.
    """

    def __init__(self, store: Store, folder: Path, embedder: Embedder) -> None:
        self._store, self._folder, self.embedder = store, folder, embedder
        self._index: Index | None = None
        self._watermark = self._saved = 0
        self._lock = threading.Lock()  # usearch takes one writer

    def search(self, vector: np.ndarray, limit: int) -> list[tuple[int, float]]:
        with self._lock:
            index = self._catch_up(vector.shape[-1])
            if not len(index):
                return []
            found = index.search(vector.astype(np.float16), min(limit, len(index)))
        return [
            (int(key), 1 - float(distance))
            for key, distance in zip(found.keys, found.distances, strict=True)
        ]

    def embed_missing(self, limit: int = 256) -> int:
        return embed_missing(self._store, self.embedder, limit)

    def _catch_up(self, dimensions: int) -> Index:
        index = self._index
        if index is None:
            index = self._index = self._opened(dimensions)
        while rows := self._store.vectors_after(self._watermark, self.embedder.name, BATCH):
            fitting = [row for row in rows if len(row[2]) == 2 * dimensions]
            if fitting:
                keys = np.array([row[1] for row in fitting], np.uint64)
                packed = b"".join(row[2] for row in fitting)
                index.add(keys, np.frombuffer(packed, np.float16).reshape(len(fitting), -1))
            self._watermark = rows[-1][0]
        if len(index) - self._saved >= SAVE_EVERY:
            self._save(index)
        return index

    def flush(self) -> None:
        with self._lock:
            if self._index is not None and len(self._index) > self._saved:
                self._save(self._index)

    def _opened(self, dimensions: int) -> Index:
        index = _new(dimensions)
        self._watermark = self._saved = 0
        noted = self._store.derived(self._note)
        if noted is None:
            return index
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RuntimeError):
            note = json.loads(noted)
            path = self._folder / Path(note["file"]).name
            if files.sha256(path) == note["sha256"]:
                index.load(str(path))
                is_whole = (
                    len(index)
                    == note["count"]
                    == self._store.count("embedding", note["watermark"], self.embedder.name)
                )
                if is_whole and index.ndim == dimensions:
                    self._watermark, self._saved = note["watermark"], len(index)
                    return index
        return _new(dimensions)

    def _save(self, index: Index) -> None:
        """Write a file of a new name, then tell the store; the old file goes last."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{NAME}.{uuid.uuid4().hex}.usearch"
        with deriving(self._folder):
            with files.replacing(path) as temporary:
                index.save(str(temporary))
            note = {
                "file": path.name,
                "sha256": files.sha256(path),
                "count": len(index),
                "watermark": self._watermark,
            }
            self._store.note_derived(self._note, json.dumps(note))
            self._saved = len(index)
            for old in self._folder.glob(f"{NAME}.*.usearch"):
                if old != path:
                    old.unlink(missing_ok=True)

    @property
    def _note(self) -> str:
        return f"{NAME} {self.embedder.name}"


def embed_missing(store: Store, embedder: Embedder, limit: int) -> int:
    """Embed chunks that came without a vector; how many were."""
    rows = store.without_vector(embedder.name, limit)
    if rows:
        packed = embedder.packed([text for _, text in rows])
        numbers = [number for number, _ in rows]
        store.add_vectors(embedder.name, list(zip(numbers, packed, strict=True)))
    return len(rows)


def _new(dimensions: int) -> Index:
    return Index(
        ndim=dimensions, metric="cos", dtype="f16", connectivity=16, expansion_search=EXPANSION
    )
