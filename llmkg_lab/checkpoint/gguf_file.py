"""GGUF's container: typed metadata and a table of tensors (ggml-org/ggml, docs/gguf.md).

Not read by ``gguf.GGUFReader``: it takes 2 s for a vocabulary of 49,152 tokens, and a damaged
file that claims 2^60 of them keeps it busy until memory ends.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from llmkg_lab.checkpoint.base import CheckpointError

T = TypeVar("T")

MAGIC, VERSIONS = b"GGUF", (2, 3)
MAX_DIMENSIONS = 4
SCALARS: dict[GGUFValueType, np.dtype[Any]] = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
    GGUFValueType.BOOL: np.dtype("?"),
}
_REQUIRED: Any = object()


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. shape: rows first, as NumPy and PyTorch count (ggml: the reverse)."""

    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int  # of its first byte in the file
    nbytes: int


class Metadata:
    """A file's keys and values. A value of another type than asked for is refused by its key."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self.path = path
        self.values = values

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def get(self, key: str, kind: type[T], default: T = _REQUIRED) -> T:
        """The value of ``key``. Raises CheckpointError where it is missing or no ``kind``."""
        if key not in self.values:
            if default is _REQUIRED:
                raise CheckpointError(f"{self.path} lacks the key {key}", "fetch it again")
            return default
        value = self.values[key]
        if type(value) is not kind:
            found = type(value).__name__
            raise CheckpointError(f"{self.path}: {key} is a {found}, not a {kind.__name__}")
        return value

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number: a hostile file may say 0, or a list with one per layer."""
        fallback = () if default is None else (default,)
        size: int = self.get(key, int, *fallback)
        if size < 1:
            raise CheckpointError(f"{self.path}: {key} is {size}")
        return size

    def decimal(self, key: str) -> float:
        """The shortest decimal that is the stored float32: 1e-05 rather than 9.99999974e-06."""
        return float(str(np.float32(self.get(key, float))))

    def rows(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
        """The rows of a tensor. Raises CheckpointError where it is missing."""
        if name not in shapes:
            raise CheckpointError(f"{self.path} lacks the tensor {name}")
        return shapes[name][0]

    def items(self, key: str, kind: type[T]) -> list[T]:
        """The same for a list of ``kind``."""
        values = self.get(key, list)
        if not all(type(value) is kind for value in values):
            raise CheckpointError(f"{self.path}: {key} holds more than {kind.__name__}")
        return values


def read_header(path: Path) -> tuple[Metadata, dict[str, StoredTensor]]:
    """Everything but the weights. Raises CheckpointError where the file is not whole."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            return _header(_Cursor(file, size), path)
    except (ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{path} ({size:,} bytes) is not a whole GGUF file: {error}",
            "the download may be cut off: fetch it again",
        ) from None


class _Cursor:
    """Values of a file in their order, never beyond its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0

    def take(self, count: int) -> bytes:
        if count > self.size - self.position:
            raise ValueError(f"its header asks for {count:,} bytes at {self.position:,}")
        self.position += count
        return self._file.read(count)

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def uint64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self) -> str:
        return self.take(self.uint64()).decode()

    def value(self, kind: GGUFValueType) -> Any:
        if kind == GGUFValueType.STRING:
            return self.text()
        if kind == GGUFValueType.ARRAY:
            return self.array(GGUFValueType(self.uint32()), self.uint64())
        return self.array(kind, 1)[0]

    def array(self, kind: GGUFValueType, count: int) -> list[Any]:
        if kind == GGUFValueType.ARRAY:
            raise ValueError("it holds an array of arrays")
        if kind == GGUFValueType.STRING:
            return [self.text() for _ in range(count)]
        dtype = SCALARS[kind]
        values: list[Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        return values


def _header(cursor: _Cursor, path: Path) -> tuple[Metadata, dict[str, StoredTensor]]:
    if cursor.take(4) != MAGIC:
        raise ValueError("it does not start with GGUF")
    if (version := cursor.uint32()) not in VERSIONS:  # a big-endian file's looks huge
        raise ValueError(f"its version is {version}, supported are 2 and 3, little-endian")
    tensors, values = cursor.uint64(), cursor.uint64()
    metadata = Metadata(
        path, _table(values, cursor, lambda: cursor.value(GGUFValueType(cursor.uint32())))
    )
    entries = _table(tensors, cursor, lambda: _entry(cursor))
    align = metadata.get("general.alignment", int, 32)
    if align < 1:
        raise ValueError(f"its alignment is {align}")
    start = -(-cursor.position // align) * align
    return metadata, {
        name: _place(name, *entry, start, cursor.size) for name, entry in entries.items()
    }


def _table(count: int, cursor: _Cursor, read: Callable[[], T]) -> dict[str, T]:
    found: dict[str, T] = {}
    for _ in range(count):
        name = cursor.text()
        if name in found:
            raise ValueError(f"it names {name} twice")
        found[name] = read()
    return found


def _entry(cursor: _Cursor) -> tuple[tuple[int, ...], GGMLQuantizationType, int]:
    dimensions = cursor.uint32()
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ValueError(f"it has a tensor of {dimensions} dimensions")
    shape = tuple(cursor.uint64() for _ in range(dimensions))[::-1]
    return shape, GGMLQuantizationType(cursor.uint32()), cursor.uint64()


def _place(
    name: str,
    shape: tuple[int, ...],
    kind: GGMLQuantizationType,
    offset: int,
    start: int,
    size: int,
) -> StoredTensor:
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise ValueError(f"{name} of type {kind.name} cannot have the shape {shape}")
    nbytes = math.prod(shape) // block * block_bytes
    if start + offset + nbytes > size:
        raise ValueError(f"{name} should end at {start + offset + nbytes:,}")
    return StoredTensor(shape, kind, start + offset, nbytes)
