"""What every target of a conversion shares: the check, the sidecars, the manifest."""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from llmkg_lab.artifact import (
    Calibration,
    Group,
    Manifest,
    Pooling,
    Source,
    StoredScheme,
    hashed_files,
)
from llmkg_lab.base.version import __version__
from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.checkpoint.names import explain, packed
from llmkg_lab.graph.builders import build
from llmkg_lab.graph.layers import Layers
from llmkg_lab.graph.store import Plan, Use
from llmkg_lab.graph.writer import DataFile, Graph
from llmkg_lab.scheme import Scheme


def plan_of(checkpoint: Checkpoint, scheme: Scheme, task: str) -> Plan:
    """What the graph will read, checked against what the checkpoint holds."""
    form, plan = checkpoint.form, Plan()
    _ = checkpoint.warnings  # a key that is refused ends it before any work
    if found := packed(checkpoint.tensors):
        raise CheckpointError(
            f"{checkpoint.path}: its weights are quantized: it holds {found}",
            "get the model as it was before: a scheme here quantizes it",
        )
    for name, shape in form.tensors():  # before the graph: a hostile config may ask for millions
        if not re.fullmatch(form.unused, name):
            _check(checkpoint, name, shape)
    with DataFile(Path(os.devnull)) as nowhere:
        layers = Layers(Graph(form.model_type, nowhere), plan, scheme)
        build(form, layers, task, checkpoint.pooling)
    for name, shape in plan.shapes.items():
        _check(checkpoint, name, shape)
    unknown = [name for name in checkpoint.tensors if name not in plan.shapes]
    if unknown := [name for name in unknown if not re.fullmatch(form.unused, name)]:
        raise CheckpointError(
            f"{checkpoint.path}: {len(unknown)} tensors have no place in a plain "
            f"{form.model_type}, the first is {unknown[0]}",
            "a model with them would be converted wrongly, so it is refused",
        )
    return plan


def _check(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> None:
    if name not in checkpoint.tensors:
        found, hint = explain(checkpoint.tensors, name)
        raise CheckpointError(f"{checkpoint.path} lacks the tensor {name}{found}", hint)
    if checkpoint.tensors[name].shape != shape:
        raise CheckpointError(
            f"{checkpoint.path}: {name} has the shape {checkpoint.tensors[name].shape}",
            f"config.json implies {shape}",
        )


def write_sidecars(folder: Path, checkpoint: Checkpoint, additions: Mapping[str, object]) -> None:
    """config.json with ``additions`` and the tokenizer's files, as other tools expect them."""
    config = {**checkpoint.config, **additions}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name, content in checkpoint.sidecars().items():
        (folder / name).write_bytes(content)


def write_manifest(
    folder: Path,
    checkpoint: Checkpoint,
    uses: Sequence[Use],
    *,
    task: str,
    model: str,
    scheme: StoredScheme,
    source: Mapping[str, Any] | None,
    fingerprint: str,
    calibration: Calibration | UnsetType | None = UNSET,
    known: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> Manifest:
    """Write the manifest of a folder that is complete but for it.

    Args:
        uses: The tensors, as they were stored.
        model: The path of the model's file, relative to the folder.
        source: Where the checkpoint came from (kind, detail, revision, synthetic).
        fingerprint: The checkpoint's.
        calibration: How the scheme's method was applied; left out where no target has methods.
        known: SHA-256 by relative path of files that were hashed while they were written.
        remarks: What a user must know of the target, beside the checkpoint's own warnings.
    """
    manifest = Manifest(
        task=task,
        architecture=checkpoint.form.model_type,
        model=model,
        parameters=sum(use.parameters for use in uses),
        scheme=scheme,
        calibration=calibration,
        pooling=msgspec.convert(checkpoint.pooling, Pooling | None),
        warnings=[*checkpoint.warnings, *remarks] or UNSET,
        source=Source(**(source or {}), fingerprint=fingerprint),
        versions=versions(),
        groups=_groups(uses),
        files=hashed_files(folder, known or {}),
    )
    manifest.write(folder)
    return manifest


def _groups(uses: Iterable[Use]) -> list[Group]:
    """Size and error by group of tensors, in the order in which the model uses them."""
    groups: dict[str, list[Use]] = {}
    for use in uses:
        groups.setdefault(use.group, []).append(use)
    return [_group(name, members) for name, members in groups.items()]


def _group(name: str, uses: list[Use]) -> Group:
    parameters = sum(use.parameters for use in uses)
    nbytes = sum(use.nbytes for use in uses)
    bits = nbytes * 8 / parameters
    return Group(name, len(uses), parameters, nbytes, bits, _relative_error(uses))


def _relative_error(uses: list[Use]) -> float:
    """Root of the summed squared errors, relative to the weights' own root mean square."""
    energy = sum(use.energy for use in uses)
    return (sum(use.squared_error for use in uses) / energy) ** 0.5 if energy else 0.0


def versions() -> dict[str, str]:
    """The versions of the programs that an artifact's bytes depend on."""
    return {"llmkg_lab": __version__, **{name: version(name) for name in ("numpy", "onnx")}}
