"""A checkpoint as one GGUF file, for llama.cpp and Candle, in an artifact folder of its own.

The header is written first, because every tensor's size is known from its shape; then the
tensors, some rows at a time, so that memory does not grow with the model.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.quants import dequantize, quantize

from llmkg_lab.artifact import Artifact, ArtifactError, StoredScheme, publishing
from llmkg_lab.base import files
from llmkg_lab.base.progress import Counter, Progress, inside, silent
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.conversion.folder import plan_of, write_manifest, write_sidecars
from llmkg_lab.conversion.gguf_tokenizer import add_tokenizer
from llmkg_lab.graph.store import Use
from llmkg_lab.models import Form, UnsupportedError
from llmkg_lab.scheme import Scheme

TYPES = {  # what the gguf package can quantize to and both llama.cpp and Candle read
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "BF16": LlamaFileType.MOSTLY_BF16,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
    "Q5_1": LlamaFileType.MOSTLY_Q5_1,
    "Q5_0": LlamaFileType.MOSTLY_Q5_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
}
FLOAT32 = ("position_embd.weight", "token_types.weight", "classifier.weight")  # as they are
CHUNK = 1 << 20  # elements a step: 4 MB of float32
ALIGNMENT = 32  # of each tensor's bytes


@dataclass(frozen=True)
class Stored:
    """A tensor's place in the file: its two names, its shape and how it is written."""

    name: str  # the checkpoint's
    gguf_name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    heads: int  # whose rows are permuted; 0: none
    first: int = 0  # row of the checkpoint's tensor

    @property
    def nbytes(self) -> int:
        block, size = GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * size


def export(
    checkpoint: Checkpoint,
    kind: str,
    out: str | Path,
    *,
    source: dict | None = None,
    progress: Progress = silent,
    force: bool = False,
    tokenizer: bool = True,
) -> Artifact:
    """Write a checkpoint as ``out``/model-{kind}.gguf, beside its tokenizer and a manifest.

    kind: one of TYPES, for the matrices; vectors stay F32, and a matrix whose rows are no
    multiple of 32 long stays F16 (the manifest's groups tell). source, progress, force: as in
    ``convert``. tokenizer: whether the file holds it, too; Candle reads the one beside it, and
    llama.cpp takes tokens alone where there is none. Raises UnsupportedError, CheckpointError or
    ArtifactError; ``out`` is then as it was.
    """
    check_type(kind)
    _check_pooling(checkpoint.pooling or {})
    stored = _layout(checkpoint, GGMLQuantizationType[kind])
    if said := files.shortage(Path(out), sum(tensor.nbytes for tensor in stored)):
        raise ArtifactError(f"{out} {said}", "free some, or choose another folder")
    with publishing(Path(out), force=force) as staging:
        model = staging / f"model-{kind}.gguf"
        sidecars = checkpoint.sidecars() if tokenizer else {}
        remarks = _write_header(model, checkpoint, kind, stored, sidecars)
        uses = _write_tensors(model, checkpoint, stored, inside(progress, f"gguf-{kind}"))
        write_sidecars(staging, checkpoint, {})
        manifest = write_manifest(
            staging,
            checkpoint,
            uses,
            task=checkpoint.task,
            model=model.name,
            scheme=StoredScheme(name=f"gguf-{kind}", type=kind),
            source=source,
            fingerprint=checkpoint.fingerprint(),
            remarks=remarks,
        )
    return Artifact(Path(out), manifest)


def check_type(kind: str) -> str:
    """``kind`` if it is one of TYPES. Raises UnsupportedError on others."""
    if kind not in TYPES:
        raise UnsupportedError(f"GGUF type {kind!r}", f"supported are {', '.join(TYPES)}")
    return kind


def _check_pooling(pooling: Mapping[str, Any]) -> None:
    """Raise UnsupportedError on an embedder that llama.cpp computes otherwise."""
    for key in ("prompt", "truncate_dim"):
        if key in pooling:
            raise UnsupportedError(
                f"GGUF export of an embedder with a {key}: the format has no place for it",
                "use the ONNX artifact",
            )
    if pooling.get("normalize") is False:
        raise UnsupportedError(
            "GGUF export of an embedder that does not normalize its vectors: the format has no "
            "place for that, and llama.cpp's tools normalize",
            "use the ONNX artifact, or add a module Normalize if they are compared by cosine",
        )


def _layout(checkpoint: Checkpoint, kind: GGMLQuantizationType) -> list[Stored]:
    """The tensors in the order of the checkpoint's layers, checked as for an ONNX graph."""
    plan = plan_of(checkpoint, Scheme.parse("fp32"), checkpoint.task)
    stored = (_stored(checkpoint, *item, kind) for item in plan.shapes.items())
    return [part for tensor in stored for part in _halves(tensor, checkpoint.form)]


def _stored(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], kind: GGMLQuantizationType
) -> Stored:
    form = checkpoint.form
    gguf_name = form.gguf.gguf_name(name.removeprefix("bert."))
    if gguf_name is None:
        raise UnsupportedError(
            f"{checkpoint.path}: GGUF has no place for the tensor {name}", "use the ONNX artifact"
        )
    if len(shape) == 1 or gguf_name in FLOAT32:
        kind = GGMLQuantizationType.F32
    elif shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = GGMLQuantizationType.F16
    counts, module = form.gguf.permuted, _module(name)
    return Stored(
        name, gguf_name, shape, kind, getattr(form, counts[module]) if module in counts else 0
    )


def _halves(tensor: Stored, form: Form) -> list[Stored]:
    """The tensor, or its upper and lower rows where GGUF has two tensors for them."""
    halved, module = form.gguf.halved, _module(tensor.name)
    if module not in halved:
        return [tensor]
    rows, columns = tensor.shape
    return [
        replace(
            tensor,
            gguf_name=tensor.gguf_name.replace(halved[module][0], part),
            shape=(rows // 2, columns),
            first=i * (rows // 2),
        )
        for i, part in enumerate(halved[module])
    ]


def _module(name: str) -> str:
    """``model.layers.0.self_attn.q_proj.weight`` -> ``self_attn.q_proj``."""
    return ".".join(name.split(".")[-3:-1])


def _write_header(
    model: Path, checkpoint: Checkpoint, kind: str, stored: list[Stored], sidecars: dict[str, bytes]
) -> list[str]:
    """Write all but the tensors; return what ``add_tokenizer`` says."""
    form = checkpoint.form
    writer = GGUFWriter(model, form.gguf.architecture)
    writer.add_type("model")
    writer.add_name(checkpoint.path.stem)
    writer.add_file_type(TYPES[kind])
    writer.add_quantization_version(2)
    mode = checkpoint.pooling["mode"] if checkpoint.pooling else None
    for key, value in form.gguf_metadata(mode):
        _add(writer, key, value)
    tables = [tensor for tensor in stored if tensor.gguf_name == "token_embd.weight"]
    ends = _ends(checkpoint, sidecars)
    remarks = add_tokenizer(writer, sidecars, tables[0].shape[0], ends)
    for tensor in stored:
        floats = np.dtype(np.float32)  # its kind says what is stored; the shape is in elements
        writer.add_tensor_info(tensor.gguf_name, tensor.shape, floats, tensor.nbytes, tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return remarks


def _ends(checkpoint: Checkpoint, sidecars: Mapping[str, bytes]) -> list[int]:
    """The ids at which whoever generates stops."""
    generation = json.loads(sidecars.get("generation_config.json", b"{}"))
    ends = generation.get("eos_token_id", checkpoint.config.get("eos_token_id"))
    if not checkpoint.form.generates or ends is None:
        return []
    return ends if isinstance(ends, list) else [ends]


def _add(writer: GGUFWriter, key: str, value: object) -> None:
    """Write a key with the type that GGUF has for a value of Python's."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def _write_tensors(
    model: Path, checkpoint: Checkpoint, stored: list[Stored], progress: Progress
) -> list[Use]:
    """Append the tensors to the header, each at the next multiple of the alignment."""
    uses: list[Use] = []
    total = sum(checkpoint.tensors[name].nbytes for name in {tensor.name for tensor in stored})
    written = Counter(progress, "writing", "bytes", total)
    with model.open("ab") as file:
        for tensor in stored:
            _align(file)
            use = Use(tensor.name, tensor.kind.name, int(np.prod(tensor.shape)), tensor.nbytes)
            for rows in _rows(checkpoint, tensor):
                _quantize(rows, tensor, use).tofile(file)
            uses.append(use)
            info = checkpoint.tensors[tensor.name]
            written.advance(info.nbytes * int(np.prod(tensor.shape)) // int(np.prod(info.shape)))
        _align(file)
    written.finish()
    return uses


def _quantize(rows: np.ndarray, tensor: Stored, use: Use) -> np.ndarray:
    """Rows as they are stored; ``use`` is told what that cost."""
    # blocks of subnormal scale divide by next to nothing; they are stored as zeros all the same
    with np.errstate(all="ignore"):
        data = quantize(rows, tensor.kind)
        error = dequantize(data.view(np.uint8), tensor.kind) - rows
    if not np.isfinite(error).all():
        raise UnsupportedError(
            f"{tensor.name} holds values beyond float16's range, in which {tensor.kind.name} "
            "keeps them or their scales",
            "use F32 or BF16",
        )
    use.squared_error += float(np.sum(np.square(error, dtype=np.float64)))
    use.energy += float(np.sum(np.square(rows, dtype=np.float64)))
    return data


def _rows(checkpoint: Checkpoint, tensor: Stored) -> Iterator[np.ndarray]:
    """The tensor as float32, some rows at a time; where rows are permuted, whole heads."""
    count = tensor.shape[0]
    if len(tensor.shape) == 1 and not tensor.heads:
        yield checkpoint.read(tensor.name)
        return
    head = count // tensor.heads if tensor.heads else 1
    width = tensor.shape[1] if len(tensor.shape) > 1 else 1
    step = max(1, CHUNK // (width * head)) * head
    for start in range(0, count, step):
        stop = min(start + step, count)
        rows = checkpoint.read(tensor.name, slice(tensor.first + start, tensor.first + stop))
        yield permute(rows, head) if tensor.heads else rows


def permute(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Interleave the two halves of each head (heads * head_dim, …), which rotary embedding pairs.

    llama.cpp rotates neighbours, Hugging Face's weights rotate the halves.
    """
    heads = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])  # (heads, 2, half, …)
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))
