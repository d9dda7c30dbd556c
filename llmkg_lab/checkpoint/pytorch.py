"""PyTorch pickles, single or sharded: tensors only, no code, mapped from the file."""

import pickle
import re
from pathlib import Path

import numpy as np
import torch

from llmkg_lab.checkpoint.base import CheckpointError, TensorInfo
from llmkg_lab.checkpoint.folder import FolderCheckpoint

SINGLE = "pytorch_model.bin"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


class PyTorchCheckpoint(FolderCheckpoint[torch.Tensor]):
    """Read with ``weights_only=True``: a pickle that wants to run code is refused."""

    format = "pytorch"
    single = SINGLE

    @staticmethod
    def _load(path: Path) -> dict[str, torch.Tensor]:
        return _load(path)

    @staticmethod
    def _info(name: str, stored: torch.Tensor) -> TensorInfo:
        dtype = DTYPES.get(stored.dtype, str(stored.dtype).removeprefix("torch."))
        nbytes = stored.numel() * stored.element_size()
        return TensorInfo(name, tuple(stored.shape), dtype, nbytes)

    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        if info.dtype not in DTYPES.values():
            raise CheckpointError(
                f"{self.path}: {info.name} is of type {info.dtype}",
                f"supported are {', '.join(DTYPES.values())}",
            )
        stored = self._stored[info.name]
        rows = stored[start:stop] if stored.ndim else stored
        return np.ascontiguousarray(rows.to(torch.float32).numpy(force=True)).reshape(rows.shape)


def _load(path: Path) -> dict[str, torch.Tensor]:
    try:
        state = _tensors(path)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it asks for {wanted[1]}" if wanted else "it is not a plain state of tensors"
        raise CheckpointError(
            f"{path} is refused: {reason}",
            "a pickle with code in it may do anything: get the model as safetensors",
        ) from None
    except Exception as error:  # the unpickler raises nearly anything on damaged bytes
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise CheckpointError(f"{path} cannot be read: {reason}", "fetch it again") from None
    if not isinstance(state, dict) or not all(map(_is_named_tensor, state.items())):
        raise CheckpointError(f"{path} holds no state of named, dense tensors")
    return state


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    # PyTorch before 1.6 wrote no zip files; those cannot be mapped
    state: dict[str, torch.Tensor] = torch.load(
        path, weights_only=True, mmap=_is_zip(path), map_location="cpu"
    )
    return state


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _is_named_tensor(item: tuple[object, object]) -> bool:
    name, tensor = item
    return (
        isinstance(name, str)
        and isinstance(tensor, torch.Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
    )
