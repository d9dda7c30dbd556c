"""Checkpoints, opened lazily: a model's config, tokenizer files and named tensors.

Safetensors first, then PyTorch pickles, then GGUF; all look the same from outside, with the
tensor names that transformers uses.
"""

from pathlib import Path

from llmkg_lab.checkpoint import safetensors
from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo, read_json
from llmkg_lab.checkpoint.pooling import Pipeline
from llmkg_lab.checkpoint.shards import found_in

__all__ = ["Checkpoint", "CheckpointError", "TensorInfo", "open_checkpoint"]

PICKLE = "pytorch_model.bin"
ADAPTER = "adapter_config.json"


def open_checkpoint(
    path: str | Path, tokenizer: str | Path | None = None, chat_template: str = ""
) -> Checkpoint:
    """Open a folder (as on the Hub) or a single .gguf file. No weights are read yet.

    tokenizer: a folder with a tokenizer's files, for a folder that has none of its own.
    chat_template: how to write a conversation (Jinja), for a tokenizer that does not say it.
    Raises CheckpointError where there is nothing to open or it is broken.
    """
    path = Path(path)
    try:
        checkpoint = _open_folder(path) if path.is_dir() else _open_file(path)
    except OSError as error:  # no permission, a broken disk
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if tokenizer is not None:
        checkpoint.tokenizer_folder = Path(tokenizer)
    checkpoint.chat_template = chat_template
    return checkpoint


def _open_folder(path: Path) -> Checkpoint:
    pipeline = Pipeline.read(path)
    inner = pipeline.inner if pipeline else path
    _refuse_adapters(inner)
    if found_in(inner, safetensors.SINGLE):
        return safetensors.SafetensorsCheckpoint(path, pipeline)
    if found_in(inner, PICKLE):
        from llmkg_lab.checkpoint.pytorch import PyTorchCheckpoint  # imports torch

        return PyTorchCheckpoint(path, pipeline)
    files = sorted(path.glob("*.gguf"))
    if len(files) == 1:
        return _open_gguf(files[0])
    if files:
        raise CheckpointError(
            f"{path} holds {len(files)} GGUF files", f"name one of them, such as {files[0]}"
        )
    names = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{path} holds no weights: found {names}",
        f"expected {safetensors.SINGLE}, {PICKLE}, an index of either, or a .gguf file",
    )


def _refuse_adapters(folder: Path) -> None:
    if (folder / ADAPTER).exists():
        base = read_json(folder / ADAPTER).get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder} holds an adapter of {base} ({ADAPTER}): with it, the model is another one",
            "merge it: load both with peft, call merge_and_unload, and save what that returns",
        )


def _open_file(path: Path) -> Checkpoint:
    if not path.exists():
        raise CheckpointError(f"{path} does not exist", "name a folder or a .gguf file")
    if path.suffix in (".safetensors", ".bin"):
        raise CheckpointError(
            f"{path} holds weights without their config", f"name its folder, {path.parent}"
        )
    return _open_gguf(path)


def _open_gguf(path: Path) -> Checkpoint:
    from llmkg_lab.checkpoint.gguf import GGUFCheckpoint  # a format that few conversions need

    return GGUFCheckpoint(path)
