"""A decoder's segments with their weights as this machine's kernels want them, on disk.

ONNX Runtime rearranges quantized weights when a session is made, into memory of its own: private
bytes, as many as the file has. It can also write them down, and map them from there: pages that
the system may drop and read again. They are kept in the cache, since they depend on the processor
and on ONNX Runtime's version, and take twice the artifact's bytes: the weights as they were lie
beside them.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from llmkg_lab import paths
from llmkg_lab.artifact import Artifact
from llmkg_lab.device import cpu_name
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.session import CPU

MODEL, DATA = "model.onnx", "model.onnx_data"
ORDER = "segments.json"  # written last: the folder is whole
IN_FILE = 1024  # bytes of a tensor from which on it lies in the data file


@dataclass(frozen=True)
class PackedSegment:
    """A folder with one segment; ``nbytes`` of its data file, both forms of the weights."""

    name: str
    folder: Path
    nbytes: int

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def data(self) -> Path:
        return self.folder / DATA


def packed(artifact: Artifact) -> list[PackedSegment]:
    """The segments of a decoder in running order, from the cache or made now, one at a time.

    A run that was cut off goes on where it stopped. Raises InferenceError where the disk has not
    the room or ONNX Runtime refuses the graph.
    """
    folder = paths.cache() / "packed" / _key(artifact)
    with contextlib.suppress(OSError, ValueError):
        return _segments(folder)
    _check_room(folder, 2 * artifact.nbytes)
    from llmkg_lab.runtime.segments import cut  # needs onnx, which later runs do without

    segments = cut(artifact.model_path)
    # the largest first, while the process has least of its own in memory
    for segment in sorted(segments, key=lambda segment: -segment.nbytes):
        if not (folder / segment.name).exists():
            _pack(segment.model, artifact.model_path.parent, folder / segment.name)
    _write(folder / ORDER, json.dumps([segment.name for segment in segments]))
    return _segments(folder)


def thrifty_options(threads: int) -> onnxruntime.SessionOptions:
    """Options of one session among many: no arena that keeps memory, no threads that spin."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, and need not be printed too
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    # each session has threads of its own: those that wait must not take the cores from the one
    # that computes (with spinning, a token of OpenELM-3B took ten times as long)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def load_error(segment: Path, error: Exception) -> InferenceError:
    """What ONNX Runtime's ``error`` at loading a segment means."""
    if "bad_alloc" in str(error):
        return InferenceError(
            f"the memory does not suffice to load {segment.name} of {segment.parent}",
            "allow more: loading takes three times the bytes of the largest part for a while",
        )
    return InferenceError(
        f"ONNX Runtime cannot load {segment}: {error}",
        f"check the artifact with `llmkg-lab verify`, and remove {segment.parent}",
    )


def _key(artifact: Artifact) -> str:
    """Of all that the packed bytes depend on."""
    files = artifact.manifest["files"]
    model = artifact.manifest["model"]
    hashes = {name: entry["sha256"] for name, entry in files.items() if name.startswith(model)}
    depends = [hashes, onnxruntime.__version__, cpu_name(), 2]  # counts up with this file
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def _segments(folder: Path) -> list[PackedSegment]:
    names = json.loads((folder / ORDER).read_text())
    return [
        PackedSegment(name, folder / name, (folder / name / DATA).stat().st_size) for name in names
    ]


def _check_room(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InferenceError(
            f"packed weights take {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB",
            "free some space, or set LLMKG_LAB_CACHE to a folder on another disk",
        )


def _pack(model: bytes, weights: Path, target: Path) -> None:
    """Load one segment and have ONNX Runtime write it down; ``target`` appears whole or not."""
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    options = thrifty_options(1)
    options.optimized_model_filepath = str(staging / MODEL)
    entries = {
        "model_external_initializers_file_folder_path": str(weights),
        "optimized_model_external_initializers_file_name": DATA,
        "optimized_model_external_initializers_min_size_in_bytes": str(IN_FILE),
        "save_external_prepacked_constant_initializers": "1",
    }
    for name, value in entries.items():
        options.add_session_config_entry(f"session.{name}", value)
    try:
        onnxruntime.InferenceSession(model, options, providers=[CPU])
        (staging / DATA).touch()  # a segment without large tensors has none
        staging.rename(target)
    except OSError as error:
        if not target.exists():  # else another process was faster
            raise InferenceError(f"{target}: {error.strerror}", "free some space") from error
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise load_error(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
