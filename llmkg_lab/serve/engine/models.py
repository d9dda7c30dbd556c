"""Models as the server runs them: what generates, what embeds, what ranks."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from llmkg_lab.artifact import MANIFEST, Artifact
from llmkg_lab.runtime.abilities import EMBEDS, GENERATES, RANKS
from llmkg_lab.runtime.backend import CandleBackend
from llmkg_lab.runtime.caches import CacheStats, CachingTokenizer
from llmkg_lab.runtime.ort.batch_decoder import BatchDecoder
from llmkg_lab.runtime.ort.decoder import longest_text, prompt_of
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import end_tokens, turn_ends
from llmkg_lab.serve.engine.scheduler import Observer, Scheduler
from llmkg_lab.serve.engine.single import SingleDecoder
from llmkg_lab.serve.engine.turns import Turns
from llmkg_lab.serve.settings import Settings

GROUP = 64  # texts after which another client gets its turn


@dataclass(frozen=True)
class Card:
    """A model that can be asked for: its id, where it lies, and what its manifest says."""

    id: str
    folder: Path
    task: str
    created: int  # seconds since 1970
    fingerprint: str  # of the manifest, and so of all files
    nbytes: int
    context: int

    @classmethod
    def of(cls, name: str, folder: Path, context: int) -> "Card":
        """Read a folder's card. Raises ArtifactError where it is not an artifact."""
        artifact = Artifact.open(folder)
        manifest = folder / MANIFEST
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
        length = min(context, artifact.context_length)
        created = int(manifest.stat().st_mtime)
        return cls(name, folder, artifact.task, created, digest[:12], artifact.nbytes, length)


class Model(ABC):
    """A model in memory."""

    does: ClassVar[str]  # "generates text"

    def __init__(self, card: Card, settings: Settings, observer: Observer) -> None:
        self.card = card

    def memory_usage(self) -> int:
        """Bytes that it counts."""
        return self.card.nbytes

    @property
    def healthy(self) -> bool:
        """Whether it can answer."""
        return True

    def caches(self) -> dict[str, CacheStats]:
        """What its caches did, by name."""
        return {}

    @abstractmethod
    def load(self) -> tuple[int, int]:
        """How many sequences, or calls, wait and run."""

    @abstractmethod
    def close(self) -> None:
        """End its thread and free its memory."""


class TextModel(Model):
    """A decoder with its scheduler."""

    does = "generates text"

    def __init__(self, card: Card, settings: Settings, observer: Observer) -> None:
        super().__init__(card, settings, observer)
        artifact = Artifact.open(card.folder)
        self._backend: CandleBackend | None = None
        decoder: SingleDecoder | BatchDecoder
        if artifact.model_path.suffix == ".gguf":
            self._backend = CandleBackend(card.folder, settings.threads)
            decoder = SingleDecoder(self._backend.decoder(), card.context)
        else:
            decoder = BatchDecoder(artifact, settings.slots, settings.threads, card.context)
        self.tokenizer = CachingTokenizer.from_folder(card.folder)
        self.ends = frozenset(end_tokens(artifact, self.tokenizer))
        self.turn_ends = frozenset(turn_ends(self.tokenizer)) | self.ends
        self._caches = decoder.nbytes
        self.context, self.vocab = decoder.max_length, decoder.vocab
        self.scheduler = Scheduler(decoder, self.tokenizer, settings.queue, observer, card.id)

    def memory_usage(self) -> int:
        return self.card.nbytes + self._caches

    def caches(self) -> dict[str, CacheStats]:
        return {"tokens": self.tokenizer.cache.stats()}

    @property
    def healthy(self) -> bool:
        return self.scheduler.alive

    def load(self) -> tuple[int, int]:
        return self.scheduler.load()

    def close(self) -> None:
        self.scheduler.stop()
        if self._backend:
            self._backend.close()


class EncoderModel(Model):
    """A model that reads texts whole: one request at a time, in turns."""

    def __init__(self, card: Card, settings: Settings, observer: Observer) -> None:
        super().__init__(card, settings, observer)
        self._artifact = Artifact.open(card.folder)
        self._backend = open_backend(card.folder, threads=settings.threads)
        self.tokenizer = self._backend.tokenizer
        self.max_length = longest_text(self._artifact, self.tokenizer)
        self.turns = Turns(card.id, settings.queue)

    def load(self) -> tuple[int, int]:
        return self.turns.load()

    def close(self) -> None:
        self.turns.close()
        self._backend.close()


class EmbeddingModel(EncoderModel):
    """Texts to vectors."""

    does = "embeds texts"

    def __init__(self, card: Card, settings: Settings, observer: Observer) -> None:
        super().__init__(card, settings, observer)
        self._prompt = prompt_of(self._artifact)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """The tokens of whole texts, with all that is put around them."""
        return self.tokenizer.lengths([self._prompt + text for text in texts])

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (texts, hidden) float32."""
        return self._backend.embed(texts)

    def embed_ids(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Vectors of texts given as the model's own tokens."""
        return self._backend.embed_ids(ids)

    def caches(self) -> dict[str, CacheStats]:
        return {"embeddings": self._backend.stats()["embeddings"]}


class RankingModel(EncoderModel):
    """Pairs of a query and a passage to scores."""

    does = "ranks passages"

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Scores (pairs,) float32, logits."""
        return self._backend.score(pairs)


KINDS: dict[str, type[Model]] = {
    GENERATES: TextModel,
    **dict.fromkeys(EMBEDS, EmbeddingModel),
    RANKS: RankingModel,
}
