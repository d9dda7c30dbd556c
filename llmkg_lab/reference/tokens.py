"""What the original's own tokenizer makes of texts, kept in the cache."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkg_lab.base import cache, files
from llmkg_lab.checkpoint import Checkpoint

if TYPE_CHECKING:
    from llmkg_lab.reference.load import Original

AROUND = ("*.json", "*.jinja", "*.model", "*.txt")  # the files around the weights
METHOD = 2  # counted up when the same files would give other outputs
PACKAGES = ("torch", "transformers", "tokenizers", "sentence-transformers", "accelerate")


@dataclass(frozen=True)
class Tokens:
    """What a model reads of a text, or of a pair of them."""

    ids: list[int]
    types: list[int] = field(default_factory=list)  # which of a pair; of a decoder none


class OriginalTokenizer:
    """The original's tokenizer, which is opened where the cache does not know a text."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._key = {**key_of(checkpoint), "chat_template": checkpoint.chat_template}
        self.judge = ""  # its name, known once it has encoded a text

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; ``special`` adds what the tokenizer puts around a text.

        Raises CheckpointError where the tokenizer cannot be opened.
        """
        key = {"text": _sha256(text), "special": special}
        return self._kept(key, lambda original: original.encode(text, special))

    def ask(self, text: str) -> list[int]:
        """Token ids of a question as the chat template asks it. Raises CheckpointError.

        A template is a program that comes with the checkpoint, and here it runs without bounds:
        only one that was run within bounds before (``runtime.text.chat``) may come here.
        """
        today = date.today().isoformat()  # which a template may write down
        key = {"question": _sha256(text), "day": today}
        return self._kept(key, lambda original: original.ask(text))

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        stored = cache.arrays("reference", {**self._key, "chats": True}, self._whether_it_chats)
        return bool(stored["chats"][0])

    def _kept(self, key: Mapping[str, Any], read: Callable[["Original"], list[int]]) -> list[int]:
        """What ``read`` makes of something, from the cache where that has it under ``key``."""

        def compute() -> cache.Arrays:
            ids = np.array(read(self._opened), np.int32)
            return {"ids": ids, "judge": packed(self._opened.judge)}

        stored = cache.arrays("reference", {**self._key, **key}, compute)
        self.judge = unpacked(stored["judge"])
        return stored["ids"].tolist()

    def _whether_it_chats(self) -> cache.Arrays:
        return {"chats": np.array([bool(self._opened.tokenizer.chat_template)])}

    @cached_property
    def _opened(self) -> "Original":
        from llmkg_lab.reference import load  # transformers: seconds

        return load.tokenizer(self._checkpoint)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def key_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the original computes depends on, besides the inputs: its files, and the tools."""
    return {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "config": checkpoint.config,
        "files": _files(checkpoint.path),
        "tokenizer": _files(checkpoint.tokenizer_folder),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files around the weights, those of its modules too; GGUF has none."""
    if folder.is_file():
        return {}
    found = [path for name in AROUND for path in (*folder.glob(name), *folder.glob(f"*/{name}"))]
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in sorted(found)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# Texts and lists as arrays


def packed(text: str) -> np.ndarray:
    """A text as uint8 (bytes,)."""
    return np.frombuffer(text.encode(), np.uint8)


def unpacked(array: np.ndarray) -> str:
    """The text of ``packed``."""
    return array.tobytes().decode()


def joined(texts: Sequence[Tokens]) -> dict[str, np.ndarray]:
    """Tokens of texts as three arrays: ids, types and the lengths of the texts."""
    return {
        "ids": np.array([token for text in texts for token in text.ids], np.int32),
        "types": np.array([kind for text in texts for kind in text.types], np.int32),
        "lengths": np.array([len(text.ids) for text in texts], np.int64),
    }


def split(arrays: cache.Arrays) -> list[Tokens]:
    """The tokens of ``joined``."""
    ends = np.cumsum(arrays["lengths"])[:-1]
    ids, types = (np.split(arrays[name], ends) for name in ("ids", "types"))
    return [Tokens(i.tolist(), t.tolist()) for i, t in zip(ids, types, strict=True)]
