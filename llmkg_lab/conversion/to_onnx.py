"""The way from a checkpoint to an artifact: plan, check, stream, publish.

The architecture builds its graph twice. The first time over a ``Plan``, which tells what the
graph will read; the checkpoint is checked against it before any work is done. The second
time over a ``Stream``, which moves the weights.
"""

import hashlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from llmkg_lab.artifact import (
    Artifact,
    ArtifactError,
    Calibration,
    Manifest,
    Source,
    StoredScheme,
    publishing,
)
from llmkg_lab.base import files
from llmkg_lab.base.progress import Counter, Progress, inside, silent
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.conversion import genai, own_text
from llmkg_lab.conversion.folder import plan_of, versions, write_manifest, write_sidecars
from llmkg_lab.data.texts import Text
from llmkg_lab.graph.builders import build
from llmkg_lab.graph.layers import ACCURACY_LEVEL, Layers
from llmkg_lab.graph.store import Plan, Stream
from llmkg_lab.graph.writer import DataFile, Graph
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.presets import kind_of, resolve
from llmkg_lab.quantize.budget import bounds
from llmkg_lab.quantize.prepare import prepare
from llmkg_lab.quantize.solve.effort import EFFORT
from llmkg_lab.scheme import BITS, FLOATS, Scheme


def convert(
    checkpoint: Checkpoint,
    scheme: Scheme,
    out: str | Path,
    *,
    task: str | None = None,
    source: dict | None = None,
    calibration: Text | None = None,
    effort: str = EFFORT,
    progress: Progress = silent,
    force: bool = False,
) -> Artifact:
    """Convert a checkpoint to one ONNX artifact at ``out``.

    scheme: a preset is resolved for the form of the model; the manifest says to what.
    task: by default what config.json says the checkpoint is for.
    source: where the checkpoint came from (kind, detail, revision, synthetic), for the manifest.
    calibration: what a calibrated scheme is solved on, its first half; by default the first
        corpus that is here. A decoder is solved on text of its own by turns with it, or alone;
        an encoder without any text is searched instead, and a warning says so.
    effort: how much text is read: quick, normal or high.
    progress: told of the steps, each a part of the scheme: what the method solves beforehand, then
        "writing" in bytes of the checkpoint.
    Raises UnsupportedError, CheckpointError, SchemeError, TextError or ArtifactError; ``out`` is
    then as it was.
    """
    form, task = checkpoint.form, task or checkpoint.task
    scheme = resolve(scheme, kind_of(type(form)))
    plan = plan_of(checkpoint, scheme, task)
    _check_room(Path(out), plan, scheme)
    if task == "text-generation" and isinstance(form, LlamaForm):
        bounds.check(checkpoint, scheme)
    progress = inside(progress, scheme.name)
    write = partial(own_text.write, convert)
    prepared = prepare(checkpoint, scheme, task, calibration, progress, write=write, effort=effort)
    weights = prepared.checkpoint
    total = sum(weights.tensors[name].nbytes for name in plan.shapes)
    # hashes while weights stream
    with publishing(Path(out), force=force) as staging, _fingerprint(checkpoint) as fingerprint:
        name = f"onnx/model{scheme.suffix}.onnx"
        model = staging / name
        model.parent.mkdir()
        with DataFile(model.with_name(f"{model.name}_data")) as data:
            graph = Graph(form.model_type, data)
            float_type = np.float16 if scheme.base == "fp16" else np.float32
            moving = prepared.solved, prepared.quantize
            moved = Counter(progress, "writing", "bytes", total)
            stream = Stream(weights, graph, float_type, moved, *moving)
            layers = Layers(graph, stream, scheme, prepared.layouts)
            build(form, layers, task, checkpoint.pooling)
            moved.finish()
        model.write_bytes(graph.model().SerializeToString(deterministic=True))
        hints = {"use_external_data_format": {model.name: 1}}
        write_sidecars(staging, checkpoint, {"transformers.js_config": hints})
        genai.write_config(staging, checkpoint, name)
        if prepared.sensitivities:
            prepared.sensitivities.save(staging / "sensitivities.json")
        manifest = write_manifest(
            staging,
            checkpoint,
            stream.uses,
            task=task,
            model=name,
            scheme=StoredScheme.of(scheme, ACCURACY_LEVEL),
            source=source,
            fingerprint=fingerprint.result(),
            calibration=msgspec.convert(prepared.record, Calibration | None),
            known={f"{name}_data": data.sha256()},
        )
    return Artifact(Path(out), manifest)


@contextmanager
def _fingerprint(checkpoint: Checkpoint) -> Iterator[Future[str]]:
    """Compute a checkpoint's fingerprint beside the block; given up where the block fails."""
    failed = threading.Event()

    def step(nbytes: int) -> None:
        if failed.is_set():  # Ctrl-C, say: hashing 40 GB takes minutes
            raise CancelledError

    with ThreadPoolExecutor(1) as background:
        try:
            yield background.submit(checkpoint.fingerprint, step)
        except BaseException:
            failed.set()
            raise


def _check_room(out: Path, plan: Plan, scheme: Scheme) -> None:
    """Raise ArtifactError where the disk cannot hold even the codes of the weights."""
    width = FLOATS.get(scheme.base) or BITS[scheme.base] / 8  # bytes
    parameters = sum(math.prod(shape) for shape in plan.shapes.values())
    if said := files.shortage(out, int(width * parameters)):
        raise ArtifactError(f"{out} {said}", "free some, or choose another folder")


def convert_all(
    checkpoint: Checkpoint,
    schemes: Sequence[str],
    folder: Path,
    *,
    source: dict,
    progress: Progress = silent,
) -> dict[str, Artifact]:
    """Make one artifact for each scheme, in ``folder``/<scheme>.

    An artifact that is there already, whole and made from the same weights and tokenizer by the
    same version, is kept: a report that is run again starts where it was cut off.
    """
    artifacts = {}
    for name in schemes:
        scheme = resolve(Scheme.parse(name), kind_of(type(checkpoint.form)))
        out = Path(folder) / scheme.name
        artifacts[name] = _existing(out, checkpoint, scheme, source) or convert(
            checkpoint, scheme, out, source=source, force=True, progress=progress
        )
    return artifacts


def _existing(out: Path, checkpoint: Checkpoint, scheme: Scheme, source: dict) -> Artifact | None:
    try:
        artifact = Artifact.open(out)
    except ArtifactError:
        return None
    manifest = artifact.manifest
    wanted = Source(**source, fingerprint=checkpoint.fingerprint())
    same = manifest.source == wanted and manifest.scheme.meaning == scheme
    same = same and _holds(manifest, checkpoint.sidecars())  # the tokenizer may be another
    same = same and not manifest.warning  # by now there may be text
    return artifact if same and manifest.versions == versions() else None


def _holds(manifest: Manifest, contents: Mapping[str, bytes]) -> bool:
    """Whether an artifact's files have these contents."""
    stored = manifest.files
    return all(
        name in stored and stored[name].sha256 == hashlib.sha256(content).hexdigest()
        for name, content in contents.items()
    )
