"""From checkpoint to artifact: plan, check, stream, publish.

The architecture builds its graph twice. The first time over a ``Plan``, which tells what the
graph will read; the checkpoint is checked against it before any work is done. The second
time over a ``Stream``, which moves the weights.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from llmkg_lab import __version__
from llmkg_lab.artifact import Artifact, ArtifactError, publishing, write_manifest
from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.convert import genai
from llmkg_lab.data.texts import Text
from llmkg_lab.graph.builders import Architecture, architecture_of, is_unused, task_of
from llmkg_lab.graph.layers import ACCURACY_LEVEL, Layers
from llmkg_lab.graph.store import Plan, Progress, Stream, Use
from llmkg_lab.graph.writer import DataFile, Graph
from llmkg_lab.quantize.prepare import prepare
from llmkg_lab.scheme import Scheme


def convert(
    checkpoint: Checkpoint,
    scheme: Scheme,
    out: str | Path,
    *,
    task: str | None = None,
    source: dict | None = None,
    calibration: Text | None = None,
    progress: Progress = lambda done, total, name: None,
    force: bool = False,
) -> Artifact:
    """Convert a checkpoint to one ONNX artifact at ``out``.

    task: by default what config.json says the checkpoint is for.
    source: where the checkpoint came from (kind, detail, revision, synthetic), for the manifest.
    calibration: what a calibrated scheme is solved on, its first half; by default the first
        corpus that is here. Without any, ``fallback`` makes the artifact, and a warning says so.
    progress: called with (bytes read, bytes to read, tensor name).
    Raises UnsupportedError, CheckpointError, SchemeError, TextError or ArtifactError; ``out`` is
    then as it was.
    """
    architecture = architecture_of(checkpoint)
    task = task or task_of(checkpoint)
    plan = plan_of(architecture, checkpoint, scheme, task)
    prepared = prepare(checkpoint, scheme, task, calibration)
    weights = prepared.checkpoint
    total = sum(weights.tensors[name].nbytes for name in plan.shapes)
    with publishing(Path(out), force=force) as staging, ThreadPoolExecutor(1) as background:
        fingerprint = background.submit(checkpoint.fingerprint)  # hashes while weights stream
        name = f"onnx/model{scheme.suffix}.onnx"
        model = staging / name
        model.parent.mkdir()
        with DataFile(model.with_name(f"{model.name}_data")) as data:
            graph = Graph(architecture.name, data)
            float_type = np.float16 if scheme.base == "fp16" else np.float32
            moving = prepared.solved, prepared.quantize
            stream = Stream(weights, graph, float_type, progress, total, *moving)
            layers = Layers(graph, stream, scheme, prepared.layouts)
            architecture.build(layers, checkpoint, task)
        model.write_bytes(graph.model().SerializeToString(deterministic=True))
        hints = {"use_external_data_format": {model.name: 1}}
        write_sidecars(staging, checkpoint, {"transformers.js_config": hints})
        genai.write_config(staging, checkpoint, name)
        if prepared.sensitivities:
            prepared.sensitivities.save(staging / "sensitivities.json")
        manifest = {
            "task": task,
            "architecture": architecture.name,
            "model": name,
            "parameters": sum(use.parameters for use in stream.uses),
            "scheme": {"name": scheme.name, **asdict(scheme), "accuracy_level": ACCURACY_LEVEL},
            "calibration": prepared.record,
            "pooling": checkpoint.pooling,
            "source": {**(source or {}), "fingerprint": fingerprint.result()},
            "versions": versions(),
            "groups": groups_of(stream.uses),
        }
        manifest = write_manifest(staging, manifest, {f"{name}_data": data.sha256()})
    return Artifact(Path(out), manifest)


def convert_all(
    checkpoint: Checkpoint, schemes: Sequence[str], folder: Path, *, source: dict
) -> dict[str, Artifact]:
    """One artifact a scheme in ``folder``/<scheme>, with a text progress bar for each.

    An artifact that is there already, whole and made from the same weights by the same
    version, is kept: a report that is run again starts where it was cut off.
    """
    artifacts = {}
    for name in schemes:
        scheme, out = Scheme.parse(name), Path(folder) / name
        artifacts[name] = _existing(out, checkpoint, scheme, source)
        if artifacts[name] is None:
            with tqdm(desc=name, unit="B", unit_scale=True, mininterval=2, file=sys.stdout) as bar:
                artifacts[name] = convert(
                    checkpoint, scheme, out, source=source, force=True, progress=_into(bar)
                )
    return artifacts


def _into(bar: tqdm) -> Progress:
    def progress(done: int, total: int, name: str) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return progress


def _existing(out: Path, checkpoint: Checkpoint, scheme: Scheme, source: dict) -> Artifact | None:
    try:
        artifact = Artifact.open(out)
    except ArtifactError:
        return None
    manifest = artifact.manifest
    wanted = {**source, "fingerprint": checkpoint.fingerprint()}
    same = manifest["source"] == wanted and manifest["scheme"]["name"] == scheme.name
    same = same and "warning" not in (manifest["calibration"] or {})  # by now there may be text
    return artifact if same and manifest["versions"] == versions() else None


def plan_of(architecture: Architecture, checkpoint: Checkpoint, scheme: Scheme, task: str) -> Plan:
    """What the graph will read, checked against what the checkpoint holds."""
    plan = Plan()
    with DataFile(Path(os.devnull)) as nowhere:
        layers = Layers(Graph(architecture.name, nowhere), plan, scheme)
        architecture.build(layers, checkpoint, task)
    for name, shape in plan.shapes.items():
        if name not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.path} lacks the tensor {name}", "config.json and weights disagree"
            )
        if checkpoint.tensors[name].shape != shape:
            raise CheckpointError(
                f"{checkpoint.path}: {name} has the shape {checkpoint.tensors[name].shape}",
                f"config.json implies {shape}",
            )
    unknown = [name for name in checkpoint.tensors if name not in plan.shapes]
    if unknown := [name for name in unknown if not is_unused(architecture, name)]:
        raise CheckpointError(
            f"{checkpoint.path}: {len(unknown)} tensors have no place in a plain "
            f"{architecture.name}, the first is {unknown[0]}",
            "a model with them would be converted wrongly, so it is refused",
        )
    return plan


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
