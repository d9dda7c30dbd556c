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
import reprlib
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, UnsetType

from llmkg_lab.base import files, records
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.records import Count, Hash, Record, RecordError, Size
from llmkg_lab.scheme import BITS, FLOATS, MAX_POSITIONS, METHODS, Budget, Layout, Scheme

FORMAT = "llmkg-lab/artifact/1"
OURS = "llmkg-lab/artifact/"  # of any version
MANIFEST = "manifest.json"
SETTLED = 60  # seconds after which a process has locked its temporary folder
CONFIG = "config.json"
MAX_ROWS = 2**31 - 1  # of a table, as of any dimension that is converted
POSITIONS = {"openelm": "max_context_length"}  # what config.json calls them, by architecture
ALIGNMENT = 64  # bytes of a tensor in the data file; kernels then read mapped weights in place
# What programs read from a folder; all of it is listed in the manifest
CONFIGS = ("*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt")
WEIGHTS = ("*.onnx*", "*.gguf", "*.safetensors", "*.bin")


class ArtifactError(LabError):
    """A folder that is not an artifact, or not a whole one."""


class File(Record, frozen=True):
    """A file of the folder."""

    bytes: Count
    sha256: Hash


class Group(Record, frozen=True):
    """Tensors that play the same part: their size, and what quantization cost them."""

    name: str
    tensors: Count
    parameters: Count
    bytes: Count
    bits_per_weight: Size
    rms_error: Size  # of weight - stored, relative to the weights' own root mean square


class StoredScheme(Record, frozen=True, kw_only=True):
    """A scheme by its recipe and by all that this means; of an export, its GGUF type.

    Before presets a recipe without options was called by its width alone: what is named ``int4``
    here was rounded to nearest, as its other fields say. So ask ``meaning``, not ``name``.
    """

    name: str
    preset: str | UnsetType = UNSET  # that it was asked for by, such as balanced
    type: str | UnsetType = UNSET
    base: str | UnsetType = UNSET
    block_size: int | UnsetType = UNSET
    symmetric: bool | UnsetType = UNSET
    half_scales: bool | UnsetType = UNSET
    method: str | UnsetType = UNSET
    distilled: bool | UnsetType = UNSET
    dynamic: bool | UnsetType = UNSET
    table_bits: int | UnsetType | None = UNSET
    table_block: int | UnsetType | None = UNSET
    table_symmetric: bool | UnsetType = UNSET
    budget: Budget | UnsetType | None = UNSET
    accuracy_level: int | UnsetType = UNSET  # of ONNX Runtime's MatMulNBits

    @classmethod
    def of(cls, scheme: Scheme, accuracy_level: int) -> Self:
        """Return what a manifest says of a scheme that is resolved."""
        fields = {**vars(scheme), "preset": scheme.preset or UNSET}
        return cls(name=scheme.recipe, **fields, accuracy_level=accuracy_level)

    @property
    def meaning(self) -> Scheme | None:
        """The scheme, None of an export to GGUF and of what this version knows no meaning of."""
        said = {name: getattr(self, name) for name in Scheme.__dataclass_fields__}
        fields = {name: value for name, value in said.items() if value is not UNSET}
        known = fields.get("base") in {*BITS, *FLOATS} and fields.get("method", "rtn") in METHODS
        return Scheme(**fields) if known else None

    @property
    def recipe(self) -> str:
        """The canonical name of what it means."""
        return self.meaning.recipe if self.meaning else self.name

    @property
    def asked(self) -> str:
        """The name that it was asked for by: a preset's, else the recipe's."""
        return self.meaning.name if self.meaning else self.name


class StoredBudget(Record, frozen=True, kw_only=True):
    """The layouts that a budget was spent on, and what was predicted of them."""

    nbytes: Count
    predicted_kl: float | UnsetType = UNSET  # mean, nats per token
    next_megabyte: float | UnsetType = UNSET  # what another 10⁶ bytes would take off it
    next_gain_at: int | UnsetType | None = UNSET  # bytes from which it falls
    # nats per token of the mix and of simpler ones, all solved on a little text
    compared: dict[str, float] | UnsetType = UNSET
    layouts: dict[str, Layout]  # by the name of the matrix


class Distillation(Record, frozen=True):
    """The training of scales and gains on the whole model's predictions."""

    steps: Count
    tokens: Count
    divergence: list[float]  # nats per token, step by step


class Calibration(Record, frozen=True, omit_defaults=True):
    """How a method was applied, and on what text."""

    method: str
    instead_of: str | None = None  # the method that was asked for and had no text
    warning: str | None = None
    damping: float | None = None
    corpus: str | None = None
    sha256: str | None = None  # of the corpus
    half: str | None = None
    sentences: Count | None = None
    tokens: Count | None = None
    own_tokens: Count | None = None  # of them, that the model wrote itself
    window: Count | None = None  # tokens
    effort: str | None = None
    gpu: str | None = None  # through which the text passed, where it was not the processor
    distillation: Distillation | None = None
    budget: StoredBudget | None = None


class Pooling(Record, frozen=True):
    """How a sentence embedder makes one vector of a text."""

    mode: Literal["mean", "cls"]
    normalize: bool
    max_length: Annotated[int, Meta(ge=1)] | None = None  # tokens
    prompt: str | UnsetType = UNSET  # put before each text
    truncate_dim: Annotated[int, Meta(ge=1)] | UnsetType = UNSET  # elements kept of an embedding


class Source(Record, frozen=True, kw_only=True):
    """Where the weights came from, as far as it was told, and their SHA-256."""

    kind: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET
    revision: str | UnsetType | None = UNSET
    synthetic: bool | UnsetType = UNSET
    fingerprint: str


class Manifest(Record, frozen=True, kw_only=True, tag_field="format", tag=FORMAT):
    """The content of manifest.json: what the model is, how it was made, and every file's hash."""

    task: str
    architecture: str
    model: str  # the path of the graph or of the .gguf file, relative to the folder
    parameters: Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
    scheme: StoredScheme
    calibration: Calibration | UnsetType | None = UNSET
    pooling: Pooling | None = None
    warnings: list[str] | UnsetType = UNSET  # on the checkpoint's files, where there were any
    source: Source
    versions: dict[str, str]
    groups: list[Group]
    files: dict[str, File]  # by path relative to the folder

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a folder. Raises ArtifactError, which names the key at fault."""
        path = folder / MANIFEST
        try:
            manifest = records.parse(path.read_bytes(), cls)
        except OSError:
            raise ArtifactError(
                f"{folder} is not an artifact: it has no {MANIFEST}",
                "make one with llmkg-lab convert",
            ) from None
        except RecordError as error:
            raise ArtifactError(f"{path}: {error}", "convert the model again") from None
        for name in (*manifest.files, manifest.model):  # it may come from anywhere
            if not files.is_inside(name):
                raise ArtifactError(f"{path} names {name!r}, outside its folder or too long")
        for name in (CONFIG, manifest.model):
            if name not in manifest.files:
                raise ArtifactError(f"{path}: files lacks {name}", "convert the model again")
        return manifest

    def write(self, folder: Path) -> None:
        """Write manifest.json. Raises ArtifactError for a number that is not finite, by its key."""
        try:
            text = records.text(self)
        except RecordError as error:
            raise ArtifactError(f"{MANIFEST} {error}", "choose another scheme") from None
        (folder / MANIFEST).write_text(text)

    @property
    def warning(self) -> str:
        """What a reader must know of how the artifact was made; empty where all is well."""
        return (self.calibration and self.calibration.warning) or ""

    @property
    def cautions(self) -> list[str]:
        """All that a reader must know: of how the artifact was made, and of the checkpoint."""
        return [*filter(None, [self.warning]), *(self.warnings or [])]


@dataclass(frozen=True)
class Artifact:
    """A published artifact."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a folder's manifest and check that its files are there, by name and size.

        Raises ArtifactError. Contents are checked by ``verify``, which reads every byte.
        """
        folder = Path(folder)
        manifest = Manifest.read(folder)
        artifact = cls(folder, manifest)
        if problems := [p for name in manifest.files for p in artifact._size_problems(name)]:
            raise ArtifactError(f"{folder}: {problems[0]}", "convert the model again")
        return artifact

    @property
    def model_path(self) -> Path:
        """The graph, an .onnx file; of an export, the .gguf file."""
        return self.folder / self.manifest.model

    @property
    def task(self) -> str:
        """What the model is for, as catalog.TASKS names it."""
        return self.manifest.task

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json. Raises ArtifactError where it cannot be read."""
        path = self.folder / CONFIG
        try:
            config = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from None
        if not isinstance(config, dict):
            raise ArtifactError(f"{path} is not a JSON object")
        return config

    @property
    def context_length(self) -> int:
        """The number of tokens that the model has positions for."""
        key = POSITIONS.get(self.manifest.architecture, "max_position_embeddings")
        return self._dimension(key, MAX_POSITIONS)  # a cache is made for all of them

    @property
    def vocab_size(self) -> int:
        """The number of tokens that the model knows."""
        return self._dimension("vocab_size")

    @property
    def token_types(self) -> int:
        """The number of segments that an encoder tells apart."""
        key = "type_vocab_size"
        return 2 if self.config.get(key) is None else self._dimension(key)

    def _dimension(self, name: str, most: int = MAX_ROWS) -> int:
        value = self.config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ArtifactError(
                f"{self.folder / CONFIG}: {name} is {reprlib.repr(value)}, not 1 to {most:,}"
            )
        return value

    @property
    def nbytes(self) -> int:
        """Bytes of the graph and its weights, without tokenizer and configs."""
        weights = ("onnx/", self.manifest.model)
        listed = self.manifest.files.items()
        return sum(file.bytes for name, file in listed if name.startswith(weights))

    @property
    def bits_per_weight(self) -> float:
        """Bits of graph and weights together, for each parameter of the model."""
        return self.nbytes * 8 / self.manifest.parameters

    def problems(self, names: Iterable[str] | None = None) -> Iterator[str]:
        """Say what is wrong with the files ``names``, by default all, reading every byte."""
        for name in self.manifest.files if names is None else names:
            wrong_size = list(self._size_problems(name))
            yield from wrong_size
            expected = self.manifest.files[name].sha256
            if not wrong_size and files.sha256(self.folder / name) != expected:
                yield f"{name} was changed: its SHA-256 differs from the manifest's"

    def unlisted(self) -> Iterator[str]:
        """Say which files lie in the folder for programs to read and are not in the manifest."""
        listed = {MANIFEST, *self.manifest.files}
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder)
            hidden = any(part.startswith(".") for part in name.parts)
            if name.as_posix() in listed or hidden:
                continue
            if any(name.match(pattern) for pattern in (*CONFIGS, *WEIGHTS)):
                yield f"{name.as_posix()} is not in the manifest, and programs would read it"

    def _size_problems(self, name: str) -> Iterator[str]:
        expected = self.manifest.files[name].bytes
        try:
            status = (self.folder / name).stat()
        except (OSError, ValueError):  # no file system has such a name
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            yield f"{name} is missing"
        elif status.st_size != expected:
            yield f"{name} has {status.st_size:,} bytes, the manifest says {expected:,}"


def verify(folder: str | Path) -> list[str]:
    """Check every file against the manifest. Returns the problems found, none if it is whole.

    Raises ArtifactError where there is no readable manifest at all.
    """
    artifact = Artifact(Path(folder), Manifest.read(Path(folder)))
    return [*artifact.problems(), *artifact.unlisted()]


@contextlib.contextmanager
def publishing(
    target: Path, *, force: bool = False, is_ours: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends well.

    On any error, Ctrl-C included, the temporary folder is removed and ``target`` is as it was. What
    a killed process left of this kind is removed by the next one.

    Args:
        target: The folder to be.
        force: Whether an artifact may be replaced; another folder never is, unless it is empty.
        is_ours: Whether a folder may be replaced; by default, whether it is an artifact.

    Raises:
        ArtifactError: ``target`` exists and may not be replaced, or the disk is full.
    """
    target = Path(target)
    _check_replaceable(target, force, is_ours or _is_ours)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(target)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ArtifactError(f"cannot write beside {target}: {error.strerror}") from error
    try:
        with _held(staging):
            yield staging
        staging.chmod(0o755)  # mkdtemp's folder is its owner's alone
        _replace(staging, target)
    except OSError as error:
        raise ArtifactError(
            f"{target}: {error.strerror or error}", "nothing was written; free some space and retry"
        ) from error
    finally:
        files.remove(staging)


def _check_replaceable(target: Path, force: bool, is_ours: Callable[[Path], bool]) -> None:
    if not target.exists():
        return
    if not force:
        raise ArtifactError(
            f"{target} exists", "choose another folder, or overwrite it with --force"
        )
    is_empty = target.is_dir() and not any(target.iterdir())
    if not is_empty and not is_ours(target):
        raise ArtifactError(
            f"{target} is not an artifact", "--force replaces nothing else: choose another folder"
        )


def _is_ours(folder: Path) -> bool:
    """Whether a folder is an artifact of any version, whole or not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and str(manifest.get("format", "")).startswith(OURS)


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder, which ends with this process; False where another one has it."""
    try:
        import fcntl
    except ImportError:  # Windows has none
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _remove_orphans(target: Path) -> None:
    """Remove the temporary folders for ``target`` whose process is gone."""
    for path in target.parent.glob(f".{target.name}.*/"):
        if time.time() - path.stat().st_mtime > SETTLED:
            with _held(path) as is_orphan:
                if is_orphan:
                    files.remove(path)


def hashed_files(folder: Path, known: Mapping[str, str]) -> dict[str, File]:
    """All files of a folder that is complete but for its manifest.

    known: SHA-256 by relative path of files that were hashed while they were written.
    """
    listed = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        listed[name] = File(path.stat().st_size, known.get(name) or files.sha256(path))
    return listed


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
