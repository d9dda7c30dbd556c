"""A model's weights as this machine's kernels want them, on disk.

ONNX Runtime rearranges quantized weights when a session is made, into memory of its own: private
bytes, as many as the file has. It can also write them down, and map them from there: pages that
all sessions and processes share, and that the system may drop and read again. They are kept in
the cache (packed_cache.py), since they depend on the processor and on ONNX Runtime's version, and
take more than twice the artifact's bytes: the weights as they were lie beside them.
"""

import contextlib
import logging
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.base.files import remove
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.packed_cache import BOUND, PackedFolder
from llmkg_lab.runtime.ort.session import CPU, open_session

MODEL, DATA = "model.onnx", "model.onnx_data"
WHOLE, SEGMENTS = "whole", "segments"  # kinds of packed folders
IN_FILE = 1024  # bytes of a tensor from which on it lies in the data file
WORTH = 8 << 20  # bytes of an artifact from which on a copy of it matters
GROWTH = 2.5  # packed bytes for one of the artifact, about; a float16's matrices become float32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedSegment:
    """A folder with one graph; ``nbytes`` of its data file, both forms of the weights."""

    name: str
    folder: Path
    nbytes: int

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def data(self) -> Path:
        return self.folder / DATA


def open_artifact(
    artifact: Artifact,
    threads: int | None = None,
    provider: str = CPU,
    profile: Path | None = None,
    shares_arena: bool = False,
) -> onnxruntime.InferenceSession:
    """A session over an artifact's graph; arguments and errors as ``open_session`` has them.

    On the CPU its weights are mapped, packed, where the cache has or takes them: the first
    session of an artifact packs them. Otherwise the session copies them, and the log says why;
    it shares no arena then, which would keep the copies.
    """
    if provider == CPU and _worth_packing(artifact):
        try:
            folder = PackedFolder(artifact, WHOLE)
            return _open_mapped(folder, threads, profile, shares_arena)
        except (InferenceError, OSError) as error:
            logger.info("%s: its weights are copied, not mapped: %s", artifact.folder, error)
    return open_session(artifact.model_path, threads, provider, profile)


def prepare(artifact: Artifact) -> None:
    """Do now what an artifact's first session would: pack its weights, where that is worth it."""
    with contextlib.suppress(InferenceError, OSError):
        if _worth_packing(artifact):
            _whole(PackedFolder(artifact, WHOLE))


def packed(artifact: Artifact) -> list[PackedSegment]:
    """The segments of a decoder in running order, from the cache or made now, one at a time.

    A run that was cut off goes on where it stopped. Raises InferenceError where the disk has not
    the room or ONNX Runtime refuses the graph.
    """
    folder = PackedFolder(artifact, SEGMENTS)
    names = folder.names()
    if names is None:
        _prepare(folder)
        from llmkg_lab.runtime.ort.segments import cut  # needs onnx, which later runs do without

        segments = cut(artifact.model_path)
        # the largest first, while the process has least of its own in memory
        for segment in sorted(segments, key=lambda segment: -segment.nbytes):
            if not (folder.path / segment.name).exists():
                _pack(segment.model, artifact.model_path.parent, folder.path / segment.name)
        names = [segment.name for segment in segments]
        folder.finish(names)
    return [_segment(folder, name) for name in names]


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


def _open_mapped(
    folder: PackedFolder, threads: int | None, profile: Path | None, shares_arena: bool
) -> onnxruntime.InferenceSession:
    model = _whole(folder).model
    try:
        return open_session(
            model, threads, profile=profile, optimized=True, shares_arena=shares_arena
        )
    except InferenceError:
        remove(folder.path)  # whole, but not what ONNX Runtime takes: the next session tries anew
        raise


def _whole(folder: PackedFolder) -> PackedSegment:
    """A whole graph, from the cache or made now."""
    if folder.names() is None:
        _prepare(folder)
        # by a process of its own: it takes twice the memory, of which this one would keep some
        command = [
            sys.executable,
            "-m",
            "llmkg_lab.runtime.ort.packed",
            str(folder.artifact.folder),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InferenceError(f"packing failed: {done.stderr.strip()[-300:]}")
    return _segment(folder, WHOLE)


def _worth_packing(artifact: Artifact) -> bool:
    return artifact.nbytes >= WORTH and _packed_bytes(artifact) <= BOUND / 4


def _packed_bytes(artifact: Artifact) -> float:
    """An estimate, rather more than less."""
    halves = artifact.manifest.scheme.base == "fp16"
    return artifact.nbytes * GROWTH * (2 if halves else 1)


def _segment(folder: PackedFolder, name: str) -> PackedSegment:
    path = folder.path / name
    return PackedSegment(name, path, (path / DATA).stat().st_size)


def _prepare(folder: PackedFolder) -> None:
    """Raises InferenceError where the disk has not the room, or the artifact was changed."""
    folder.path.mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(folder.path).free, _packed_bytes(folder.artifact)
    if free < needed:
        raise InferenceError(
            f"packed weights take {needed / 1e9:.1f} GB, {folder.path} has {free / 1e9:.1f} GB",
            "free some space, or set LLMKG_LAB_CACHE to a folder on another disk",
        )
    folder.check_sources()


def _pack(model: bytes, weights: Path, target: Path) -> None:
    """Load one graph and have ONNX Runtime write it down; ``target`` appears whole or not."""
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
        remove(staging)


def main(artifact: str) -> None:
    """Pack a whole graph in this process."""
    folder = PackedFolder(Artifact.open(artifact), WHOLE)
    model, target = folder.artifact.model_path, folder.path / WHOLE
    if not target.exists():
        _pack(model.read_bytes(), model.parent, target)
    folder.finish([WHOLE])


if __name__ == "__main__":
    main(*sys.argv[1:])
