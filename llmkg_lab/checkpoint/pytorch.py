"""PyTorch pickles, single or sharded: tensors only, no code, mapped from the file."""

import pickle
import re
from pathlib import Path

import numpy as np
import torch

from llmkg_lab.checkpoint.base import CheckpointError, TensorInfo, canonical, shard_files
from llmkg_lab.checkpoint.folder import FolderCheckpoint

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class PyTorchCheckpoint(FolderCheckpoint):
    """Read with ``weights_only=True``: a pickle that wants to run code is refused."""

    format = "pytorch"

    def __init__(self, folder: Path) -> None:
        files = [folder / SINGLE] if (folder / SINGLE).exists() else shard_files(folder / INDEX)
        self._stored = {
            canonical(name): tensor
            for path in files
            for name, tensor in _load(path).items()
            if tensor.is_floating_point()  # position ids and the like are no weights
        }
        tensors = {name: _info(folder, name, tensor) for name, tensor in self._stored.items()}
        super().__init__(folder, tensors, files)

    def _read(self, info: TensorInfo, rows: slice | None) -> np.ndarray:
        stored = self._stored[info.name]
        part = stored if rows is None else stored[rows]
        return np.ascontiguousarray(part.detach().to(torch.float32).numpy())


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = _tensors(path)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {wanted[1]}" if wanted else "it is no plain state of tensors"
        raise CheckpointError(
            f"{path} is refused: {reason}",
            "a pickle with code in it may do anything: get the model as safetensors",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path} cannot be read: {reason}", "fetch it again") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        raise CheckpointError(f"{path} holds no state of named tensors")
    return state


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if _is_zip(path):
        return torch.load(path, weights_only=True, mmap=True, map_location="cpu")
    return torch.load(path, weights_only=True, map_location="cpu")  # before PyTorch 1.6


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _info(folder: Path, name: str, tensor: torch.Tensor) -> TensorInfo:
    if tensor.dtype not in DTYPES:
        raise CheckpointError(f"{folder}: {name} is of type {tensor.dtype}")
    shape, nbytes = tuple(tensor.shape), tensor.numel() * tensor.element_size()
    return TensorInfo(name, shape, DTYPES[tensor.dtype], nbytes)
