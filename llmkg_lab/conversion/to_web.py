"""An artifact as a static folder for any web server: what ``llmkg-lab bundle`` makes.

    index.html, llmkg-lab.js, engine-*.wasm   the page, the loader and the engine
    model_manifest.json                       every file with its hashes; the tensor table
    onnx/model_q4.onnx, …_data, …_data_1      the web graph and its weights in pieces
    config.json, tokenizer.json, …            what Transformers.js reads

Our own loader reads the pieces through the tensor table, Transformers.js through the graph: the
same bytes. The same artifact, engine and page give the same bundle.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import to_builtins
from onnx import numpy_helper

from llmkg_lab.artifact import CONFIG, MANIFEST, Artifact, ArtifactError, publishing
from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.conversion.encoder_table import STATES, Encoder, read_encoder
from llmkg_lab.conversion.stored_tensors import NotOursError, Stored
from llmkg_lab.conversion.tensor_table import FREQUENCIES, Decoder, read_decoder
from llmkg_lab.conversion.web_graph import Place, WebGraph
from llmkg_lab.presets.words import plain

FORMAT = "llmkg-lab/bundle/1"
FILE = "model_manifest.json"
RANGE = 4 << 20  # bytes that are hashed together, so that each can be verified when it arrives
LARGEST = 512 << 20  # bytes of a piece: browsers fetch and store less at once than they address
DTYPES = {"": "fp32", "_fp16": "fp16", "_quantized": "q8", "_q4": "q4"}  # by the graph's suffix
WEBGPU = re.compile(r"webgpu|asyncify")  # files of ONNX Runtime, 27 MB
SIDECARS = (
    *("tokenizer.json", "tokenizer_config.json", "generation_config.json"),
    *("special_tokens_map.json", "vocab.txt"),
)


def bundle(
    artifact: Artifact,
    out: str | Path,
    *,
    performance: Mapping[str, object] | None = None,
    smaller: Sequence[str] = (),
    webgpu: bool = False,
    force: bool = False,
) -> Path:
    """Make the bundle of an artifact at ``out``.

    Args:
        artifact: One with an ONNX graph.
        performance: What was measured of it, for the manifest.
        smaller: Addresses of bundles, relative to this one, that stand in where memory is short.
        webgpu: Whether to add what runs a model on a GPU where a browser has one.
        force: Whether a bundle that is there may be replaced.

    Raises:
        LabError: The artifact has no graph, the browser's sources were not built, or the folder
            may not be written; ``out`` is then as it was.
    """
    if artifact.model_path.suffix != ".onnx":
        raise ArtifactError(f"{artifact.folder} has no ONNX graph", "convert the model to ONNX")
    with publishing(Path(out), force=force, is_ours=_is_bundle) as staging:
        static = _write_static(staging, webgpu)
        target = staging / artifact.manifest.model
        target.parent.mkdir(parents=True)
        model = onnx.load(artifact.model_path, load_external_data=False)
        ours, reason = _read(model)
        graph = WebGraph(model, artifact.model_path)
        needed = list(_tensors(asdict(ours))) if ours else []
        pieces = graph.write(target, needed, piece_count(artifact))
        _write_sidecars(staging, artifact, len(pieces))
        refused = {"refused": reason}
        engine = _described(ours, artifact, model, graph.places) if ours else refused
        manifest = {
            **_facts(artifact),
            "performance": dict(performance or {}),
            **({"smaller": list(smaller)} if smaller else {}),
            "engine": engine,
            "pieces": [_relative(staging, piece) for piece in pieces],
            "base": static,
            "files": _hashed(staging),
        }
        (staging / FILE).write_text(json.dumps(manifest, ensure_ascii=False) + "\n")
    return Path(out)


def piece_count(artifact: Artifact) -> int:
    """In how many pieces the weights travel: by the parameters, none above the largest size."""
    millions = artifact.manifest.parameters / 1e6
    wanted = 1 if millions < 200 else 3 if millions < 500 else 5 if millions < 1500 else 8
    return max(wanted, math.ceil(artifact.nbytes / LARGEST))


def _is_bundle(folder: Path) -> bool:
    try:
        said = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and str(said.get("format", "")).startswith("llmkg-lab/bundle/")


def _write_static(staging: Path, webgpu: bool) -> list[str]:
    """Copy the page, the loader and what computes; returns their names."""
    source = paths.web()
    if not (source / "llmkg-lab.js").is_file():
        raise LabError(f"{source} holds no built page", "build it first: make web")
    names = sorted(
        path.relative_to(source).as_posix()
        for path in source.rglob("*")
        if path.is_file() and (webgpu or not WEBGPU.search(path.name))
    )
    for name in names:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, staging / name)
    return names


def _read(model: onnx.ModelProto) -> tuple[Decoder | Encoder | None, str]:
    """What the engine computes of a graph, or the reason why it does not."""
    encodes = any(value.name == STATES for value in model.graph.output)
    try:
        return (read_encoder if encodes else read_decoder)(model), ""
    except NotOursError as error:
        return None, str(error)


def _tensors(value: Any) -> Iterator[str]:
    """The tensors that the engine reads, of a description's fields."""
    if isinstance(value, Stored):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


def _placed(value: Any, places: Mapping[str, Place]) -> Any:
    """The same fields with places for tensors: [piece, offset, bytes]."""
    if isinstance(value, dict):
        return {key: _placed(inner, places) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(inner, places) for inner in value]
    if isinstance(value, Stored):
        place = places[value]
        return [place.piece, place.offset, place.nbytes]
    return value


def _described(
    ours: Decoder | Encoder, artifact: Artifact, model: onnx.ModelProto, places: Mapping[str, Place]
) -> dict[str, Any]:
    """What the engine computes, as the manifest has it."""
    fields = _placed(asdict(ours), places)
    if isinstance(ours, Encoder):
        return {"encoder": fields}
    del fields["frequencies"]
    return {"decoder": {**fields, "inverse_frequencies": _frequencies(artifact, model)}}


def _frequencies(artifact: Artifact, model: onnx.ModelProto) -> list[float]:
    """Radians per position; float32 values, which JSON's numbers hold exactly."""
    tensor = next(t for t in model.graph.initializer if t.name == FREQUENCIES)
    folder = str(artifact.model_path.parent)
    return numpy_helper.to_array(tensor, folder).astype(np.float64).tolist()


def _write_sidecars(staging: Path, artifact: Artifact, pieces: int) -> None:
    model = artifact.model_path.name
    for name in SIDECARS:
        if name in artifact.manifest.files:
            shutil.copyfile(artifact.folder / name, staging / name)
    hints = {
        "dtype": DTYPES[artifact.model_path.stem.removeprefix("model")],
        "use_external_data_format": {model: pieces},
    }
    config = {**artifact.config, "transformers.js_config": hints}
    (staging / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _facts(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    scheme = manifest.scheme.meaning
    facts: dict[str, Any] = {
        "format": FORMAT,
        "name": artifact.config.get("_name_or_path") or manifest.architecture,
        "version": manifest.versions["llmkg_lab"],
        "architecture": manifest.architecture,
        "task": manifest.task,
        "parameters": manifest.parameters,
        "quantization": manifest.scheme.name,
        **({"quantization_in_words": plain(scheme)} if scheme else {}),
        "bundle_size": artifact.nbytes,
        "fingerprint": manifest.source.fingerprint,
        "model": manifest.model,
        "range": RANGE,
    }
    if manifest.pooling:
        facts["pooling"] = to_builtins(manifest.pooling)
    if manifest.task == "text-generation":
        facts["context_length"] = artifact.context_length
    return facts


def _hashed(staging: Path) -> dict[str, dict[str, Any]]:
    """Every file: its size, its SHA-256, and of large ones that of each range."""
    files = (path for path in staging.rglob("*") if path.is_file())
    listed = sorted((_relative(staging, path), path) for path in files)
    return {name: _hashes(path) for name, path in listed if name not in (FILE, MANIFEST)}


def _hashes(path: Path) -> dict[str, Any]:
    whole, ranges, size = hashlib.sha256(), [], 0
    with path.open("rb") as file:
        while chunk := file.read(RANGE):
            whole.update(chunk)
            ranges.append(hashlib.sha256(chunk).hexdigest())
            size += len(chunk)
    said: dict[str, Any] = {"bytes": size, "sha256": whole.hexdigest()}
    return {**said, "ranges": ranges} if len(ranges) > 1 else said


def _relative(staging: Path, path: Path) -> str:
    return path.relative_to(staging).as_posix()
