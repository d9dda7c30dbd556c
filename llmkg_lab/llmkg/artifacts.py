"""Which artifact an id means, where it lies, and the cache of those that come from the Hub."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmkg_lab.artifact import MANIFEST, Artifact, ArtifactError, Manifest
from llmkg_lab.base import files, paths
from llmkg_lab.base.progress import Counter, Progress, silent
from llmkg_lab.llmkg.config import LoadingConfig, LoadingError, Quantization
from llmkg_lab.llmkg.metadata import ModelCapabilities, ModelMetadata, ModelSize
from llmkg_lab.llmkg.picks import chosen
from llmkg_lab.llmkg.registry import ModelRegistry
from llmkg_lab.results.registry import Entry, hub_id
from llmkg_lab.roster import catalog
from llmkg_lab.roster.catalog import SourceSpec
from llmkg_lab.roster.strict_yaml import nearest

BASES: Mapping[Quantization | None, str] = {  # the scheme whose bits a quantization means
    Quantization["None"]: "fp32",
    Quantization["F16"]: "fp16",
    Quantization["Int8"]: "int8",
    Quantization["Int4"]: "int4",
}
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Target:
    """What an id means: a model and one of its artifacts.

    Args:
        key: The id with the scheme, as in OWNER/NAME:int4.
        folder: Where the artifact lies; None where it has to come from the Hub.
        entry: What the registry says of it; None where it was not measured here.
        scheme: The scheme that was asked for; empty where any will do.
    """

    key: str
    model: ModelMetadata
    folder: Path | None = None
    entry: Entry | None = None
    scheme: str = ""


def resolve(registry: ModelRegistry, model_id: str | Path, loading: LoadingConfig) -> Target:
    """Find what an id means.

    A Path is an artifact's folder. A text is an id of the registry, or of a variant of the roster,
    with a scheme behind a colon where a certain artifact is wanted: OWNER/NAME:int8. It is never
    taken for a path, so that an id of a stranger's cannot reach for one.
    Raises LoadingError where nothing can be loaded by that name.
    """
    if isinstance(model_id, Path):
        model = metadata_of(Artifact.open(model_id))
        return Target(model.path, model, Path(model.path))
    model, scheme = _named(registry, model_id)
    if model.artifacts:
        entry = _entry(model, scheme, loading)
        folder = registry.folder_of(entry)
        return Target(f"{model.huggingface_id}:{entry.scheme}", model, folder, entry, entry.scheme)
    if model.variant:
        raise LoadingError(
            f"{model.huggingface_id} was not converted here, or no artifact of it may be used",
            f"llmkg-lab run {model.variant}",
        )
    key = f"{model.huggingface_id}:{scheme}" if scheme else model.huggingface_id
    if not model.path:
        return Target(key, model, scheme=scheme)
    folder = Path(model.path)
    manifests = [p.relative_to(folder).as_posix() for p in folder.glob(f"*/{MANIFEST}")]
    if (folder / MANIFEST).exists():
        manifests.append(MANIFEST)
    return Target(key, model, folder / place(str(folder), manifests, scheme), scheme=scheme)


def canonical(registry: ModelRegistry, model_id: str | Path) -> str:
    """The key that an id begins, with its scheme if it names one; unknown ids as they are."""
    if isinstance(model_id, Path):
        return str(model_id.resolve())
    try:
        model, scheme = _named(registry, model_id)
    except LoadingError:
        return model_id
    return f"{model.huggingface_id}:{scheme}" if scheme else model.huggingface_id


def place(name: str, names: Iterable[str], scheme: str) -> str:
    """The folder of an artifact among files by name: "" for the top itself.

    It holds a manifest, or one of its folders does: that of the scheme's name, or the only one.
    Raises LoadingError where there is none, or more than one to choose from.
    """
    folders = {parent.as_posix() for parent in _holders(names)}
    if scheme and scheme in folders:
        return scheme
    if "." in folders:
        return ""
    if scheme or len(folders) != 1:
        found = ", ".join(sorted(folders)) or "none"
        wanted = f"artifact {scheme}" if scheme else "single artifact"
        raise LoadingError(f"{name} holds no {wanted}: found {found}", "name one: ID:FOLDER")
    return folders.pop()


def _holders(names: Iterable[str]) -> Iterator[PurePosixPath]:
    """The folders that hold a manifest, no deeper than one; names may come from anywhere."""
    for path in map(PurePosixPath, names):
        inside = path.parent.parts
        if (
            path.name == MANIFEST
            and len(inside) <= 1
            and not path.as_posix().startswith((".", "/"))
        ):
            yield path.parent


def metadata_of(artifact: Artifact) -> ModelMetadata:
    """What an artifact says of itself, under the id of its folder's absolute path."""
    manifest, folder = artifact.manifest, artifact.folder.resolve()
    return ModelMetadata(
        name=folder.name,
        family=manifest.architecture,
        parameters=manifest.parameters,
        size_category=ModelSize.of(manifest.parameters),
        huggingface_id=str(folder),
        architecture=manifest.architecture,
        capabilities=ModelCapabilities(text_generation=artifact.task == "text-generation"),
        context_length=artifact.context_length,
        vocab_size=artifact.vocab_size,
        task=artifact.task,
        path=str(folder),
    )


def verify(artifact: Artifact, progress: Progress, entry: Entry | None = None) -> None:
    """Read every byte and compare it with the manifest, and that with the registry.

    Raises LoadingError where anything differs.
    """
    if entry and files.sha256(artifact.folder / MANIFEST) != entry.manifest_sha256:
        raise LoadingError(
            f"{artifact.folder} is not the artifact that the registry lists",
            "it was made again: refresh the registry with llmkg-lab run",
        )
    listed = artifact.manifest.files
    counter = Counter(progress, "verification", "bytes", sum(f.bytes for f in listed.values()))
    for name, file in listed.items():
        for problem in artifact.problems([name]):
            raise LoadingError(f"{artifact.folder}: {problem}", "convert or download it again")
        counter.advance(file.bytes)


class ArtifactCache:
    """Artifacts of the Hub on this disk: plain files, by OWNER--NAME and revision.

    What is there whole is not asked for again; ``clear`` a model to have a newer one.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder else paths.cache() / "artifacts"

    def fetch(self, target: Target, revision: str | None, progress: Progress) -> Path:
        """The folder of the artifact, downloaded where it is not there. Raises LoadingError."""
        repo = target.model.huggingface_id
        if not REPOSITORY.fullmatch(repo) or repo.startswith("."):
            raise LoadingError(f"{repo} is not a repository on the Hub", "write OWNER/NAME")
        folder = self._folder(repo) / (revision or "main").replace("/", "--")
        if (inside := self._whole(folder, target)) is not None:
            return inside
        options = {"repo": repo} | ({"revision": revision} if revision else {})
        with files.locked(self._folder(repo) / ".lock"):  # of two processes one downloads
            if (inside := self._whole(folder, target)) is not None:
                return inside
            return _download(SourceSpec("hub", options), folder, target.scheme, progress)

    def models(self) -> list[str]:
        """The ids of the models that are there."""
        folders = self.folder.glob("*--*/") if self.folder.is_dir() else ()
        return sorted(path.name.replace("--", "/", 1) for path in folders)

    def clear(self, repo: str) -> int:
        """Remove a model. Returns the bytes that were freed."""
        folder = self._folder(repo)
        if not REPOSITORY.fullmatch(repo) or not folder.is_dir():
            return 0
        freed = _size(folder)
        files.remove(folder)
        return freed

    def nbytes(self) -> int:
        """Bytes of all that is there."""
        return _size(self.folder)

    def _folder(self, repo: str) -> Path:
        return self.folder / repo.replace("/", "--", 1)

    def _whole(self, folder: Path, target: Target) -> Path | None:
        """The artifact's folder where all its files are there, by name and size."""
        try:
            names = [p.relative_to(folder).as_posix() for p in folder.rglob(MANIFEST)]
            inside = folder / place(target.key, names, target.scheme)
            Artifact.open(inside)
        except (LoadingError, ArtifactError, OSError):
            return None
        return inside


def _download(spec: SourceSpec, folder: Path, scheme: str, progress: Progress) -> Path:
    from llmkg_lab.sources import hub  # the Hub's client takes a while to import

    repo = spec.options["repo"]
    try:
        names = hub.patiently(lambda: hub.files_of(spec))
    except Exception as error:
        raise LoadingError(*hub.explained(error, spec)) from error
    inside = place(repo, names, scheme)
    top = f"{inside}/" if inside else ""
    hub.download(spec, [f"{top}{MANIFEST}"], silent, folder=folder)
    wanted = [f"{top}{name}" for name in Manifest.read(folder / inside).files]
    if strange := [name for name in wanted if name not in names or re.search(r"[*?\[]", name)]:
        raise LoadingError(f"{repo} lacks {strange[0]}, which its manifest lists", "choose another")
    hub.download(spec, [f"{top}{MANIFEST}", *wanted], progress, folder=folder)
    return folder / inside


def _named(registry: ModelRegistry, model_id: str) -> tuple[ModelMetadata, str]:
    """The model of an id, and the scheme behind its colon."""
    name, _, scheme = model_id.partition(":")
    for id, rest in ((model_id, ""), (name, scheme)):
        if model := registry.get_model(id):
            return model, rest
    variant = catalog.roster().get(name)
    if variant and (model := registry.get_model(hub_id(variant))):
        return model, scheme
    known = [model.huggingface_id for model in registry.list_models()]
    raise LoadingError(f"unknown model {model_id!r}", nearest(name, known))


def _entry(model: ModelMetadata, scheme: str, loading: LoadingConfig) -> Entry:
    """The artifact of a scheme, or of a quantization, or the one to be recommended."""
    entries = list(model.artifacts)
    if loading.revision:
        entries = [entry for entry in entries if entry.source.revision == loading.revision]
    if scheme:
        entries = [entry for entry in entries if entry.scheme == scheme]
    elif loading.quantization is not None:
        base = BASES.get(loading.quantization)
        entries = [entry for entry in entries if entry.base == base]
    choice = chosen(entries)
    if choice is None:
        there = ", ".join(dict.fromkeys(entry.scheme for entry in model.artifacts))
        asked = scheme or loading.quantization or loading.revision
        raise LoadingError(f"{model.huggingface_id} has no artifact {asked}", f"there is {there}")
    return choice.entry


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; another process may remove some meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
