"""Packed weights on disk: whose they are, whether they are whole, and how many may stay.

A folder a set of packed files, named by all that their bytes depend on. Its stamp, written last,
has each file's size and time of change: what was changed or cut off since does not count. The
stamp's own time of change is when the folder was last used.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from llmkg_lab.artifact import Artifact
from llmkg_lab.base import files, paths
from llmkg_lab.base.machine import cpu_name
from llmkg_lab.runtime import InferenceError

FORMAT = 3  # counts up with the files' layout
STAMP = "packed.json"
BOUND = 12 << 30  # bytes of all folders together
STALE = 7 * 86400  # seconds without use, of what another runtime or processor packed
RECENT = 600  # seconds: what was used so lately may be about to be mapped

Stats = dict[str, list[int]]  # size and time of change (ns) by name


def root() -> Path:
    """The folder that packed weights are kept in."""
    return paths.cache() / "packed"


@dataclass(frozen=True)
class PackedFolder:
    """The folder for one artifact, packed as ``kind`` says; it need not exist."""

    artifact: Artifact
    kind: str

    @property
    def path(self) -> Path:
        files = self.artifact.manifest.files
        hashes = {name: files[name].sha256 for name in self._sources}
        depends = [hashes, self.kind, *_maker()]
        digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        return root() / digest[:16]

    def names(self) -> list[str] | None:
        """What was packed, in its order; None, and no folder, where it is not there or not whole.

        Raises InferenceError where the artifact's own files are not what its manifest says.
        """
        stamp = _read(self.path)
        if stamp is None:
            return None
        if stamp["files"] != _stats(self.path, stamp["files"]):
            files.remove(self.path)
            return None
        sources = _stats(self.artifact.folder, self._sources)
        if stamp["sources"] == sources:
            with contextlib.suppress(OSError):  # of another user, to be read only
                os.utime(self.path / STAMP)
        else:  # a copy of the artifact, or another file in its place
            self.check_sources()
            with contextlib.suppress(OSError):
                stamp = {**stamp, "sources": sources}
                files.write(self.path / STAMP, json.dumps(stamp), durable=False)
        return stamp["names"]

    def check_sources(self) -> None:
        """Raises InferenceError where the artifact's files are not what its manifest says."""
        for problem in self.artifact.problems(self._sources):
            raise InferenceError(f"{self.artifact.folder}: {problem}", "convert the model again")

    def finish(self, names: list[str]) -> None:
        """Everything is packed: from now on the folder counts. Others make room for it."""
        packed = [path for name in names for path in _files(self.path / name)]
        relative = [path.relative_to(self.path).as_posix() for path in packed]
        stamp = {
            "maker": _maker(),
            "names": names,
            "files": _stats(self.path, relative),
            "sources": _stats(self.artifact.folder, self._sources),
        }
        files.write(self.path / STAMP, json.dumps(stamp), durable=False)
        for unfinished in self.path.glob(".*"):  # of a run that was killed
            if time.time() - _changed(unfinished) > RECENT:
                files.remove(unfinished)
        clean(self.path)

    @property
    def _sources(self) -> list[str]:
        """The graph and its weights, relative to the artifact's folder."""
        manifest = self.artifact.manifest
        return [name for name in manifest.files if name.startswith(manifest.model)]


def clean(keep: Path, bound: int = BOUND) -> None:
    """Remove what no session will ask for, then the least recently used beyond ``bound`` bytes.

    What another version of ONNX Runtime or another processor packed goes first, and at any rate
    after a week without use, as does what was never finished. A process that has mapped files
    keeps them: only their names go.
    """
    now, total, left = time.time(), 0, []
    for folder in root().iterdir():
        stamp = _read(folder)
        used = _changed(folder / STAMP if stamp else folder)
        current = stamp is not None and stamp["maker"] == _maker()
        if folder != keep and not current and now - used > STALE:
            files.remove(folder)
            continue
        nbytes = sum(path.stat().st_size for path in _files(folder))
        total += nbytes
        left.append((current, used, nbytes, folder))
    for _, used, nbytes, folder in sorted(left):
        if total > bound and folder != keep and now - used > RECENT:
            files.remove(folder)
            total -= nbytes


def _maker() -> list:
    """What decides how weights are packed, beside the weights."""
    return [FORMAT, onnxruntime.__version__, cpu_name()]


def _read(folder: Path) -> dict | None:
    try:
        stamp = json.loads((folder / STAMP).read_text())
        return stamp if {"maker", "names", "files", "sources"} <= stamp.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _stats(folder: Path, names: list[str] | Stats) -> Stats:
    """The size of the files that are there."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            stat = (folder / name).stat()
            found[name] = [stat.st_size, stat.st_mtime_ns]
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
