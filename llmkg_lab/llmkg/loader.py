"""LLMKG's ModelLoader: verified artifacts by id, loaded once, under a memory budget."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic

from llmkg_lab.artifact import MANIFEST, Artifact
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Progress, Step, silent
from llmkg_lab.llmkg import memory
from llmkg_lab.llmkg.artifacts import ArtifactCache, Target, canonical, resolve, verify
from llmkg_lab.llmkg.config import (
    Cuda,
    Downloading,
    Loading,
    LoadingConfig,
    LoadingError,
    LoadingState,
    ModelConfig,
    NotLoaded,
)
from llmkg_lab.llmkg.model import LoadedModel
from llmkg_lab.llmkg.pool import Pool, T, Use
from llmkg_lab.llmkg.registry import ModelRegistry

CUDA = "CUDAExecutionProvider"
Tell = Callable[[LoadingState], None]


class Loader(ABC, Generic[T]):
    """Loads artifacts by id; a subclass says what opening one makes.

    Args:
        cache_dir: Where artifacts of the Hub are kept; by default ``loading_config``'s, else the
            project's cache.
        loading_config: How to load.
        registry: The models; by default those of the project's outputs folder.
        memory_budget: Bytes that all loaded models may take together; None for no limit.
        progress: Told of "download" and "verification", in bytes, of every model.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        loading_config: LoadingConfig | None = None,
        *,
        registry: ModelRegistry | None = None,
        memory_budget: int | None = None,
        progress: Progress = silent,
    ) -> None:
        self.loading_config = loading_config or LoadingConfig()
        self.registry = registry or ModelRegistry()
        self.cache = ArtifactCache(cache_dir or self.loading_config.cache_dir)
        self._progress = progress
        self.memory_budget = memory_budget
        self._pool: Pool[T] = Pool(memory_budget)
        self._verified: set[tuple[object, ...]] = set()

    @abstractmethod
    def open(self, target: Target, artifact: Artifact, use: Use) -> T:
        """Open a verified artifact. ``use`` is held by whatever is not to be interrupted."""

    def load(self, model_id: str | Path, progress: Progress = silent) -> T:
        """The model, loaded if it is not yet; whoever asks meanwhile waits for the same one.

        model_id: a Hub id or a variant's, a scheme behind a colon where a certain artifact is
            wanted (OWNER/NAME:int8); or the Path of an artifact's folder.
        progress: told of the steps beside the loader's own, where this call begins them.
        Raises LoadingError, MemoryBudgetError among them, or what the runtime raises.
        """
        return self.get(model_id, progress)[0]

    @contextmanager
    def using(self, model_id: str | Path, progress: Progress = silent) -> Iterator[T]:
        """The model, which is not unloaded within the block."""
        while True:
            model, use = self.get(model_id, progress)
            try:
                use.__enter__()
            except LoadingError:  # it was unloaded in between
                continue
            break
        try:
            yield model
        finally:
            use.__exit__()

    def get(self, model_id: str | Path, progress: Progress = silent) -> tuple[T, Use]:
        """The model, as ``load`` has it, and its uses, to be entered while it is asked.

        Entering raises LoadingError once the model was unloaded.
        """
        target = resolve(self.registry, model_id, self.loading_config)
        artifacts: list[Artifact] = []

        def prepare(tell: Tell) -> int:
            artifact = self._artifact(target, _told(tell, self._progress, progress))
            artifacts.append(artifact)
            return memory.of_artifact(artifact, target.entry).nbytes

        return self._pool.get(target.key, prepare, lambda use: self.open(target, artifacts[0], use))

    def unload_model(self, id: str | Path) -> bool:
        """Unload a model, which is closed when its last use has ended. False: it was not loaded.

        Without a scheme, all that is loaded of the id.
        """
        return sum(map(self._pool.close, self._loaded(id))) > 0

    def get_loading_state(self, id: str | Path) -> LoadingState:
        """How far the loading is; NotLoaded where nothing is known by that name, too."""
        if loaded := self._loaded(id):
            return self._pool.state(loaded[-1])
        try:
            return self._pool.state(resolve(self.registry, id, self.loading_config).key)
        except LabError:
            return NotLoaded()

    def get_loaded_models(self) -> list[str]:
        """The ids of what is loaded, with schemes, the least recently used first."""
        return self._pool.opened()

    def is_model_loaded(self, id: str | Path) -> bool:
        """Whether it is loaded; without a scheme, at any."""
        return bool(self._loaded(id))

    def loaded_bytes(self) -> int:
        """Bytes that all loaded models count towards the memory budget."""
        return self._pool.nbytes()

    def clear_model_cache(self, id: str) -> int:
        """Remove what was downloaded of a model; bytes freed. What is loaded goes on to run."""
        return self.cache.clear(id)

    def clear_all_cache(self) -> int:
        """Remove all that was downloaded; bytes freed. Artifacts that were made here stay."""
        return sum(map(self.cache.clear, self.cache.models()))

    def get_cache_size(self) -> int:
        """Bytes of all that was downloaded."""
        return self.cache.nbytes()

    def list_cached_models(self) -> list[str]:
        """The ids of what was downloaded."""
        return self.cache.models()

    def close(self) -> None:
        """Unload everything."""
        for key in self._pool.opened():
            self._pool.close(key)

    def _artifact(self, target: Target, progress: Progress) -> Artifact:
        """The artifact, here and verified; its bytes are read once as long as nobody touches it."""
        revision = self.loading_config.revision
        folder = target.folder or self.cache.fetch(target, revision, progress)
        artifact = Artifact.open(folder)
        stamp = _stamp(artifact, target)
        if stamp not in self._verified:
            verify(artifact, progress, target.entry)
            self._verified.add(stamp)
        return artifact

    def _loaded(self, id: str | Path) -> list[str]:
        """The keys of what is loaded of an id."""
        asked = canonical(self.registry, id)
        keys = self._pool.opened()
        return [key for key in keys if key == asked or key.startswith(f"{asked}:")]


class ModelLoader(Loader[LoadedModel]):
    """Loads models for a program that asks them itself, one call after the other."""

    def load_model(
        self,
        model_id: str | Path,
        config: ModelConfig | None = None,
        *,
        progress: Progress = silent,
    ) -> LoadedModel:
        """Load a model as ``load`` does.

        config: how it continues prompts where a call does not say; by default LLMKG's defaults.
        """
        model = self.load(model_id, progress)
        return model.with_config(config) if config else model

    def open(self, target: Target, artifact: Artifact, use: Use) -> LoadedModel:
        from llmkg_lab.runtime.backend import CachedBackend, OrtBackend
        from llmkg_lab.runtime.selection import open_backend

        backend: CachedBackend
        if isinstance(self.loading_config.device, Cuda):
            backend = OrtBackend(artifact, provider=CUDA)
        else:
            backend = open_backend(artifact.folder)
        return LoadedModel(backend, artifact, target.model, use, self.loading_config.batch_size)


def _told(tell: Tell, *watchers: Progress) -> Progress:
    """Tell the watchers of each step, and the pool of the state that it means."""

    def progress(step: Step) -> None:
        tell(Downloading(100 * step.fraction) if step.name == "download" else Loading())
        for watcher in watchers:
            watcher(step)

    return progress


def _stamp(artifact: Artifact, target: Target) -> tuple[object, ...]:
    """What changes when somebody touches an artifact's files, or the registry lists another."""
    names = (MANIFEST, *artifact.manifest.files)
    stats = [(artifact.folder / name).stat() for name in names]
    expected = target.entry and target.entry.manifest_sha256
    return (
        str(artifact.folder),
        expected,
        *((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in stats),
    )
