"""Safetensors, single or sharded (the format: huggingface/safetensors, README)."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from llmkg_lab.checkpoint.base import CheckpointError, TensorInfo, read_bytes
from llmkg_lab.checkpoint.folder import FolderCheckpoint

SINGLE = "model.safetensors"
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class _Entry:
    """One tensor of a header, and where its first byte lies."""

    path: Path
    offset: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: str


class SafetensorsCheckpoint(FolderCheckpoint[_Entry]):
    """Weights in model.safetensors, or in shards with model.safetensors.index.json."""

    format = "safetensors"
    single = SINGLE

    @staticmethod
    def _load(path: Path) -> dict[str, _Entry]:
        return _read_header(path)

    @staticmethod
    def _info(name: str, stored: _Entry) -> TensorInfo:
        return TensorInfo(name, stored.shape, stored.dtype, stored.nbytes)

    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        entry = self._stored[info.name]
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"{entry.path}: {info.name} is of type {entry.dtype}",
                f"supported are {', '.join(DTYPES)}",
            )
        dtype = DTYPES[entry.dtype]
        row = math.prod(entry.shape[1:]) * dtype.itemsize  # bytes
        data = read_bytes(entry.path, entry.offset + start * row, (stop - start) * row)
        stored = data.view(dtype).reshape((stop - start, *entry.shape[1:]) if entry.shape else ())
        if entry.dtype == "BF16":  # the upper half of a float32
            wide = stored.astype(np.uint32)
            wide <<= 16
            return np.asarray(wide.view(np.float32))
        with np.errstate(over="ignore"):  # who reads refuses what is not finite
            return np.asarray(stored, np.float32)


def _read_header(path: Path) -> dict[str, _Entry]:
    """The tensors of one file, after the library has checked its header against its size."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes{_promise(path)}) is not a whole safetensors "
            f"file: {error}",
            "the download may be cut off: fetch it again",
        ) from None
    start, header = _header(path)
    return {
        name: _Entry(
            path,
            start + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
            tuple(entry["shape"]),
            entry["dtype"],
        )
        for name, entry in header.items()
    }


def _header(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Where the weights start in the file, and what is said of each tensor."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("no header is longer than its file")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return 8 + size, header


def _promise(path: Path) -> str:
    """The size that the header of a broken file implies, where it can be read."""
    try:
        start, header = _header(path)
        end = max(entry["data_offsets"][1] for entry in header.values())
        return f", and its header promises {start + end:,}"
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return ""
