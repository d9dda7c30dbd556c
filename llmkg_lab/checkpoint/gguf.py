"""GGUF, the file format of llama.cpp, under Hugging Face names.

A quantized tensor is dequantized when it is read: its values on the grid are the weights.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf.quants import dequantize

from llmkg_lab.checkpoint import gguf_tokenizer, keys
from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError, TensorInfo, read_bytes
from llmkg_lab.checkpoint.gguf_file import StoredTensor, read_header
from llmkg_lab.models import FORMS, Form
from llmkg_lab.models.gguf import POOLING


class GGUFCheckpoint(Checkpoint):
    """One .gguf file: config and tokenizer are rebuilt from its metadata."""

    format = "gguf"

    def __init__(self, path: Path) -> None:
        self._metadata, stored = read_header(path)
        self._refuse_parts(path)
        architecture = self._metadata.get("general.architecture", str)
        form = _form_named(path, architecture)
        self._stored = _renamed(path, form, stored)
        tensors = {
            name: TensorInfo(name, tensor.shape, tensor.type.name, tensor.nbytes)
            for name, tensor in self._stored.items()
        }
        shapes = {name: tensor.shape for name, tensor in self._stored.items()}
        config = form.gguf_config(self._metadata, shapes)
        super().__init__(path, config, tensors, [path])

    def _refuse_parts(self, path: Path) -> None:
        parts = self._metadata.get("split.count", int, 1)
        if parts > 1:
            raise CheckpointError(
                f"{path} is one of {parts} parts of a model",
                "put them together with llama-gguf-split --merge",
            )

    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        count, heads = info.shape[0], self._permuted_heads(info.name)
        if not heads:
            return self._rows(info, start, stop)
        if count % (2 * heads):
            raise CheckpointError(f"{self.path}: {info.name}: {heads} heads of {count} rows")
        # Rows change places inside a head only: read whole heads, then cut.
        size = count // heads
        first, last = start // size, -(-stop // size)
        block = self._rows(info, first * size, last * size)
        # llama.cpp interleaves the two halves that rotary embedding pairs; put them apart again:
        # (heads, half, 2, …) -> (heads, 2, half, …)
        block = block.reshape(last - first, size // 2, 2, *info.shape[1:]).swapaxes(1, 2)
        block = block.reshape(-1, *info.shape[1:])
        return np.ascontiguousarray(block[start - first * size : stop - first * size])

    def _rows(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        """Rows as they are stored, dequantized."""
        tensor = self._stored[info.name]
        if len(info.shape) == 1:  # it is one row, of blocks that may hold several elements
            return self._dequantize(tensor, tensor.offset, tensor.nbytes)[start:stop]
        row = tensor.nbytes // info.shape[0]  # bytes
        values = self._dequantize(tensor, tensor.offset + start * row, (stop - start) * row)
        return values.reshape(stop - start, *info.shape[1:])

    def _dequantize(self, tensor: StoredTensor, offset: int, nbytes: int) -> np.ndarray:
        data = read_bytes(self.path, offset, nbytes)
        try:
            with np.errstate(all="ignore"):  # who reads refuses what is not finite
                return np.asarray(dequantize(data, tensor.type))
        except NotImplementedError:
            raise CheckpointError(
                f"{self.path} has tensors of the type {tensor.type.name}",
                "supported are F32, F16, BF16 and the types that llama.cpp quantizes to",
            ) from None

    def _permuted_heads(self, name: str) -> int:
        """Heads of a tensor whose rows are permuted, else 0. A name ends in module.weight."""
        module = ".".join(name.split(".")[-3:-1])
        counts = self.form.gguf.permuted
        return getattr(self.form, counts[module]) if module in counts else 0

    def sidecars(self) -> dict[str, bytes]:
        length = self.config["max_position_embeddings"]
        files = gguf_tokenizer.build(self._metadata, length, self.chat_template)
        if self.form.generates:
            special = {key: self.config[key] for key in self.config if key.endswith("_token_id")}
            files["generation_config.json"] = json.dumps(special, indent=2).encode()
        return files

    def _remarks(self) -> Iterator[str]:
        form = self.form  # refuses what it does not compute
        own = {f"{form.gguf.architecture}.{key}": rule for key, rule in form.gguf_keys.items()}
        table = {**own, **keys.GGUF_TOKENIZER, **keys.GGUF_GENERAL}
        yield from keys.check(table, self._metadata.values, self.path.name)

    @property
    def pooling(self) -> dict[str, Any] | None:
        """How the metadata pools; llama.cpp normalizes embeddings, so that is what a file means."""
        stored = self._metadata.get(f"{self.form.gguf.architecture}.pooling_type", int, 0)
        mode = next((mode for mode, number in POOLING.items() if number == stored), None)
        if mode is None:
            return None
        length = self.config["max_position_embeddings"]
        return {"mode": mode, "normalize": True, "max_length": length}


def _form_named(path: Path, architecture: str) -> type[Form]:
    """The form by llama.cpp's name of it."""
    known = {form.gguf.architecture: form for form in FORMS.values() if form.reads_gguf()}
    if architecture not in known:
        raise CheckpointError(
            f"{path}: GGUF of the architecture {architecture!r}",
            f"supported are {', '.join(known)}",
        )
    return known[architecture]


def _renamed(
    path: Path, form: type[Form], stored: dict[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """The tensors by Hugging Face name. Raises CheckpointError on one that has none."""
    renamed = {}
    for name, tensor in stored.items():
        if (current := form.gguf.hugging_face_name(name)) is None:
            raise CheckpointError(
                f"{path}: the tensor {name} has no place in a plain {form.model_type}",
                "a model with it would be converted wrongly, so it is refused",
            )
        renamed[current] = tensor
    return renamed
