"""Checkpoints, opened lazily: a model's config, tokenizer files and named tensors.

Safetensors first, then PyTorch pickles, then GGUF; all look the same from outside, with the
tensor names that transformers uses.
"""

from pathlib import Path

from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo
from llmkg_lab.checkpoint.safetensors import SafetensorsCheckpoint

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "open_checkpoint"]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a folder (as on the Hub) or a single .gguf file. No weights are read yet.

    Raises CheckpointError where there is nothing to open or it is broken.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist", "name a folder or a .gguf file")
    if path.is_file():
        return _open_gguf(path)
    if SafetensorsCheckpoint.found_in(path):
        return SafetensorsCheckpoint(path)
    if (path / "pytorch_model.bin").exists() or (path / "pytorch_model.bin.index.json").exists():
        from llmkg_lab.checkpoint.pytorch import PyTorchCheckpoint  # imports torch

        return PyTorchCheckpoint(path)
    if len(files := sorted(path.glob("*.gguf"))) == 1:
        return _open_gguf(files[0])
    names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{path} holds no weights: found {names}",
        "expected model.safetensors, pytorch_model.bin, an index of either, or one .gguf file",
    )


def _open_gguf(path: Path) -> Checkpoint:
    from llmkg_lab.checkpoint.gguf import GGUFCheckpoint  # a format that few conversions need

    return GGUFCheckpoint(path)
