"""What every target of a conversion shares: the check, the sidecars, the size table."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from llmkg_lab.base.version import __version__
from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.graph.builders import build
from llmkg_lab.graph.layers import Layers
from llmkg_lab.graph.store import Plan, Use
from llmkg_lab.graph.writer import DataFile, Graph
from llmkg_lab.scheme import Scheme


def plan_of(checkpoint: Checkpoint, scheme: Scheme, task: str) -> Plan:
    """What the graph will read, checked against what the checkpoint holds."""
    form, plan = checkpoint.form, Plan()
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
        raise CheckpointError(
            f"{checkpoint.path} lacks the tensor {name}", "config.json and weights disagree"
        )
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


def groups_of(uses: Iterable[Use]) -> list[dict]:
    """Size and error by group of tensors, in the order in which the model uses them."""
    groups: dict[str, list[Use]] = {}
    for use in uses:
        groups.setdefault(use.group, []).append(use)
    return [
        {
            "name": name,
            "tensors": len(members),
            "parameters": (parameters := sum(use.parameters for use in members)),
            "bytes": (nbytes := sum(use.nbytes for use in members)),
            "bits_per_weight": nbytes * 8 / parameters,
            "rms_error": _relative_error(members),
        }
        for name, members in groups.items()
    ]


def _relative_error(uses: list[Use]) -> float:
    """Root of the summed squared errors, relative to the weights' own root mean square."""
    energy = sum(use.energy for use in uses)
    return (sum(use.squared_error for use in uses) / energy) ** 0.5 if energy else 0.0


def versions() -> dict[str, str]:
    return {"llmkg_lab": __version__, **{name: version(name) for name in ("numpy", "onnx")}}
