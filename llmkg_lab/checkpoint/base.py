"""What every form of checkpoint has in common."""

import difflib
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmkg_lab.base import files
from llmkg_lab.base.errors import LabError
from llmkg_lab.models import Form, form_of, task_of
from llmkg_lab.models.keys import remarks


class CheckpointError(LabError):
    """A checkpoint that cannot be read, or that holds no numbers."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as it is stored: dtype is the format's own name (F32, BF16, Q4_1 …)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


class Checkpoint(ABC):
    """An opened checkpoint. ``tensors`` by Hugging Face name; ``config`` as in config.json."""

    format: ClassVar[str]

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        tensors: Mapping[str, TensorInfo],
        weight_files: Sequence[Path],
    ) -> None:
        self.path = path
        self._config = config
        self.tensors = dict(tensors)
        self.tokenizer_folder = path
        self.chat_template = ""  # Jinja, where the tokenizer's files hold none
        self._weight_files = weight_files
        self._fingerprint = ""  # computed once

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        """A tensor, or a slice of its rows, as float32 in C order.

        Raises CheckpointError on an unknown name and on values that are not finite.
        """
        if name not in self.tensors:
            near = ", ".join(difflib.get_close_matches(name, self.tensors, n=3))
            raise CheckpointError(f"{self.path} has no tensor {name}", near and f"it has {near}")
        info = self.tensors[name]
        start, stop, step = (rows or slice(None)).indices(info.shape[0] if info.shape else 1)
        assert step == 1
        values = self._read(info, start, max(start, stop))
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"{self.path}: {name} holds NaN or infinite values",
                "the weights are damaged, or overflowed when they were saved: fetch them again",
            )
        return values

    @abstractmethod
    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        """Rows start to stop as float32, unchecked; of a scalar its one value."""

    @abstractmethod
    def sidecars(self) -> dict[str, bytes]:
        """Files by name that go beside the graph: the tokenizer's and the generation config."""

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json, as far as it is true of the weights."""
        return self._config

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a user must know of how the files were read: keys that are not followed, by name.

        Raises CheckpointError or UnsupportedError on a key that is refused.
        """
        return tuple(dict.fromkeys(self._remarks()))

    def _remarks(self) -> Iterator[str]:
        form = self.form  # refuses what it does not compute
        yield from remarks(form.keys, self.config, "config.json")

    @cached_property
    def form(self) -> Form:
        """What the model is. Raises UnsupportedError where nothing here computes it."""
        return form_of(self.config, self.tensors)

    @property
    def task(self) -> str:
        """What the model is for, by the class that config.json names and by its pooling."""
        task = task_of(self.config)
        if self.pooling is None:
            return task
        if task != "feature-extraction":
            raise CheckpointError(
                f"{self.path}: modules.json pools the states of a {task} model",
                "supported are embedders whose config.json names a bare encoder",
            )
        return "sentence-embedding"

    @property
    def parameters(self) -> int:
        """The elements of all tensors."""
        return sum(math.prod(info.shape) for info in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors as they are stored."""
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def pooling(self) -> dict[str, Any] | None:
        """How a sentence embedder pools: mode (mean or cls), normalize, max_length in tokens.

        Where a model has them: prompt, which is put before each text, and truncate_dim, the
        elements that are kept of an embedding.
        """
        return None

    def fingerprint(self, step: Callable[[int], object] = lambda nbytes: None) -> str:
        """SHA-256 of the weight files: of the one file, or of all files' names and hashes.

        step: told of the bytes of each part that was read; what it raises ends the work.
        """
        if not self._fingerprint:
            hashes = {path.name: files.sha256(path, step) for path in self._weight_files}
            lines = "\n".join(f"{digest}  {name}" for name, digest in hashes.items())
            whole = hashlib.sha256(lines.encode()).hexdigest()
            self._fingerprint = whole if len(hashes) > 1 else next(iter(hashes.values()))
        return self._fingerprint


def read_bytes(path: Path, offset: int, count: int) -> np.ndarray:
    """uint8 (count,): read, not mapped; a map would keep the whole file resident."""
    with path.open("rb") as file:
        file.seek(offset)
        data = np.fromfile(file, np.uint8, count)
    if data.size != count:  # checked when it was opened: it was cut off since
        raise CheckpointError(f"{path} ends at {offset + data.size:,} bytes", "fetch it again")
    return data


def read_sidecar(folder: Path, name: str) -> bytes:
    """The content of a file around the weights, named relative to the checkpoint's folder.

    Raises CheckpointError where it cannot be read, or is a link out of the folder: whoever made
    the folder would choose among the reader's own files what an artifact publishes. Links to the
    blobs of the Hub's cache are followed.
    """
    path = (folder / name).resolve()
    is_blob = path.parent.name == "blobs" and path.parent.with_name("snapshots").is_dir()
    if not is_blob and not path.is_relative_to(folder.resolve()):
        raise CheckpointError(
            f"{folder / name} is a link to {path}, outside its folder",
            "put the file itself in its place",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder / name} cannot be read: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, which may be a link only within its folder: ``read_sidecar``.

    Raises CheckpointError with the file's name.
    """
    return json_object(read_sidecar(path.parent, path.name), path)


def json_object(content: bytes, path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises CheckpointError with the file's name."""
    try:
        value = json.loads(content)
        if b"\\ud" in content.lower():  # half a character can be written to no file
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}", "fetch it again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, not an object")
    return value
