"""Safetensors, single or sharded (the format: huggingface/safetensors, README)."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from llmkg_lab.checkpoint.base import (
    CheckpointError,
    TensorInfo,
    canonical,
    read_bytes,
    shard_files,
)
from llmkg_lab.checkpoint.folder import FolderCheckpoint

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclass(frozen=True)
class _Place:
    path: Path
    offset: int  # of the tensor's first byte in the file


class SafetensorsCheckpoint(FolderCheckpoint):
    """The bytes of a tensor are read, not mapped: a map would keep the whole file resident."""

    format = "safetensors"

    def __init__(self, folder: Path) -> None:
        files = [folder / SINGLE] if (folder / SINGLE).exists() else shard_files(folder / INDEX)
        self._places: dict[str, _Place] = {}
        tensors = {}
        for path in files:
            for info, place in _tensors_of(path):
                tensors[info.name], self._places[info.name] = info, place
        super().__init__(folder, tensors, files)

    @staticmethod
    def found_in(folder: Path) -> bool:
        return (folder / SINGLE).exists() or (folder / INDEX).exists()

    def _read(self, info: TensorInfo, rows: slice | None) -> np.ndarray:
        if info.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.path}: {info.name} is of type {info.dtype}",
                f"supported are {', '.join(DTYPES)}",
            )
        dtype, place = DTYPES[info.dtype], self._places[info.name]
        start, stop, _ = (rows or slice(None)).indices(info.shape[0] if info.shape else 1)
        row = math.prod(info.shape[1:]) * dtype.itemsize  # bytes
        data = read_bytes(place.path, place.offset + start * row, (stop - start) * row)
        stored = data.view(dtype).reshape((stop - start, *info.shape[1:]) if info.shape else ())
        if info.dtype == "BF16":  # the upper half of a float32
            return (stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(np.float32, copy=False)


def _tensors_of(path: Path) -> list[tuple[TensorInfo, _Place]]:
    """The header of one file, after the library has checked it against the file's size."""
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} ({path.stat().st_size:,} bytes) is no whole safetensors file: {error}",
            "the download may be cut off: fetch it again",
        ) from None
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    found = []
    for name, entry in header.items():
        start, stop = entry["data_offsets"]
        shape = tuple(entry["shape"])
        info = TensorInfo(canonical(name), shape, entry["dtype"], stop - start)
        found.append((info, _Place(path, 8 + size + start)))
    return found
