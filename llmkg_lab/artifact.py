"""An artifact: a folder with one converted model, laid out as the Hub's ONNX community does.

    onnx/model_q4.onnx, onnx/model_q4.onnx_data   the graph and its weights
    model-Q4_0.gguf                               or, exported for llama.cpp, one file with both
    config.json, tokenizer.json, …                what Transformers.js and others read
    manifest.json                                 every file's SHA-256, the source, the scheme

A folder is published whole or not at all: it is filled under a temporary name beside its
place and moved there when it is complete.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from llmkg_lab.base import files
from llmkg_lab.base.errors import LabError

FORMAT = "llmkg-lab/artifact/1"
MANIFEST = "manifest.json"
ALIGNMENT = 64  # bytes of a tensor in the data file; kernels then read mapped weights in place


class ArtifactError(LabError):
    """A folder that is no artifact, or not a whole one."""


@dataclass(frozen=True)
class Artifact:
    """A published artifact. ``manifest`` is manifest.json as docs/design.md describes it."""

    folder: Path
    manifest: dict

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a folder's manifest and check that its files are there, by name and size.

        Raises ArtifactError. Contents are checked by ``verify``, which reads every byte.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        artifact = cls(folder, manifest)
        if problems := [p for name in manifest["files"] for p in artifact._size_problems(name)]:
            raise ArtifactError(f"{folder}: {problems[0]}", "convert the model again")
        return artifact

    @property
    def model_path(self) -> Path:
        """The graph, an .onnx file; of an export, the .gguf file."""
        return self.folder / self.manifest["model"]

    @property
    def task(self) -> str:
        return self.manifest["task"]

    @property
    def config(self) -> dict:
        """config.json."""
        return json.loads((self.folder / "config.json").read_text())

    @property
    def context_length(self) -> int:
        """Tokens that the model has positions for; OpenELM has a name of its own for them."""
        return self.config.get("max_position_embeddings") or self.config["max_context_length"]

    @property
    def nbytes(self) -> int:
        """Bytes of the graph and its weights, without tokenizer and configs."""
        return sum(
            entry["bytes"]
            for name, entry in self.manifest["files"].items()
            if name.startswith(("onnx/", self.manifest["model"]))
        )

    @property
    def bits_per_weight(self) -> float:
        """Bits of graph and weights together, for each parameter of the model."""
        return self.nbytes * 8 / self.manifest["parameters"]

    def problems(self, names: Iterable[str] | None = None) -> Iterator[str]:
        """What is wrong with the files ``names``, by default all: every byte of them is read."""
        for name in self.manifest["files"] if names is None else names:
            wrong_size = list(self._size_problems(name))
            yield from wrong_size
            expected = self.manifest["files"][name]["sha256"]
            if not wrong_size and files.sha256(self.folder / name) != expected:
                yield f"{name} was changed: its SHA-256 differs from the manifest's"

    def _size_problems(self, name: str) -> Iterator[str]:
        path = self.folder / name
        expected = self.manifest["files"][name]["bytes"]
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != expected:
            yield f"{name} has {path.stat().st_size:,} bytes, the manifest says {expected:,}"


def verify(folder: str | Path) -> list[str]:
    """Check every file against the manifest. Returns the problems found, none if it is whole.

    Raises ArtifactError where there is no readable manifest at all.
    """
    folder = Path(folder)
    return list(Artifact(folder, _read_manifest(folder)).problems())


@contextlib.contextmanager
def publishing(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends well.

    On any error, Ctrl-C included, the temporary folder is removed and ``target`` is as it was.
    Raises ArtifactError if ``target`` exists and ``force`` is not set, or if the disk is full.
    """
    target = Path(target)
    if target.exists() and not force:
        raise ArtifactError(f"{target} exists", "choose another folder, or overwrite with force")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write beside {target}: {error.strerror}") from error
    try:
        yield staging
        staging.chmod(0o755)  # mkdtemp's folder is its owner's alone
        _replace(staging, target)
    except OSError as error:
        raise ArtifactError(
            f"{target}: {error.strerror or error}", "nothing was written; free some space and retry"
        ) from error
    finally:
        files.remove(staging)


def write_manifest(folder: Path, manifest: dict, known: dict[str, str]) -> dict:
    """Complete ``manifest`` with all files of ``folder`` and write it.

    known: SHA-256 by relative path of files that were hashed while they were written.
    """
    listed = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        digest = known.get(name) or files.sha256(path)
        listed[name] = {"bytes": path.stat().st_size, "sha256": digest}
    manifest = {"format": FORMAT, **manifest, "files": listed}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _replace(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / target.name)
    try:
        staging.rename(target)
    except BaseException:
        os.rename(old / target.name, target)
        raise
    finally:
        files.remove(old)


def _read_manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError:
        raise ArtifactError(
            f"{folder} is no artifact: it has no {MANIFEST}", "make one with llmkg-lab convert"
        ) from None
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not of the format {FORMAT}")
    names = [*manifest.get("files", {}), manifest.get("model", "")]
    for name in names:  # a manifest may come from anywhere: it names files of its folder only
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(f"{path} names {name!r}, outside its folder")
    return manifest
