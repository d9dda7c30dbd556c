"""LLMKG's ModelRegistry: the models of the roster, those converted here, those registered.

It reads ``registry.json`` and ``registered.json`` of an outputs folder again whenever they change,
so a server sees what a batch beside it finished. All methods may be called from any thread.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from llmkg_lab.base import paths
from llmkg_lab.llmkg import stored
from llmkg_lab.llmkg.known import known, with_artifacts
from llmkg_lab.llmkg.metadata import (
    CAPABILITIES,
    ModelCapabilities,
    ModelFilter,
    ModelMetadata,
    ModelSize,
)
from llmkg_lab.llmkg.picks import RecommendedModels, recommended
from llmkg_lab.results import registry as built
from llmkg_lab.results.registry import Entry, Registry, RegistryError

SMALL = 500_000_000  # parameters: what LLMKG's registry calls small
Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class RegistryStatistics:
    """How many models there are, of what sizes, and what they can do."""

    total_models: int
    total_families: int
    size_distribution: dict[ModelSize, int]
    capability_stats: dict[str, int]  # models by capability
    total_parameters: int
    average_parameters: float


class ModelRegistry:
    """All models by Hub id.

    Args:
        outputs: The folder that holds registry.json; by default the project's own.
        models: What is known without it; by default the roster.
    """

    def __init__(
        self, outputs: str | Path | None = None, models: Iterable[ModelMetadata] | None = None
    ) -> None:
        self.outputs = Path(outputs) if outputs is not None else paths.outputs()
        given = known() if models is None else {model.huggingface_id: model for model in models}
        self._known = given
        self._lock = threading.Lock()
        self._read: tuple[Stamp, dict[str, ModelMetadata]] | None = None

    def list_models(self) -> list[ModelMetadata]:
        """All models: the roster's in tier order, then what was registered."""
        return list(self._models().values())

    def list_models_by_size(self, size: ModelSize) -> list[ModelMetadata]:
        """The models of one size category."""
        return [model for model in self.list_models() if model.size_category == size]

    def list_models_by_family(self, family: str) -> list[ModelMetadata]:
        """The models of a family, whose name is compared without case."""
        return self.filter_models(ModelFilter(families=(family,)))

    def list_models_with_capability(
        self, predicate: Callable[[ModelCapabilities], bool]
    ) -> list[ModelMetadata]:
        """The models whose capabilities satisfy ``predicate``."""
        return [model for model in self.list_models() if predicate(model.capabilities)]

    def get_model(self, huggingface_id: str) -> ModelMetadata | None:
        """The model with this id, None where there is none."""
        return self._models().get(huggingface_id)

    def search_models(self, query: str) -> list[ModelMetadata]:
        """The models whose name, description or family holds a text, without regard to case."""
        wanted = query.casefold()
        return [
            model
            for model in self.list_models()
            if any(wanted in t.casefold() for t in (model.name, model.description, model.family))
        ]

    def list_models_in_parameter_range(self, min: int, max: int) -> list[ModelMetadata]:
        """The models with so many parameters, both bounds included."""
        return self.filter_models(ModelFilter(min_parameters=min, max_parameters=max))

    def get_smallest_model(self) -> ModelMetadata | None:
        """The model with the fewest parameters; of equals the first by id. None of none."""
        return min(self.list_models(), key=_by_size, default=None)

    def get_largest_model(self) -> ModelMetadata | None:
        """The model with the most parameters among those up to 500 M. None where all are larger."""
        small = self.list_models_in_parameter_range(0, SMALL)
        return min(small, key=lambda model: (-model.parameters, model.huggingface_id), default=None)

    def get_recommended_models(self) -> RecommendedModels:
        """The best of several kinds, each with the reason; see ``picks``."""
        return recommended(self.list_models())

    def get_statistics(self) -> RegistryStatistics:
        """Count the models."""
        models = self.list_models()
        total = sum(model.parameters for model in models)
        sizes = Counter(model.size_category for model in models)
        return RegistryStatistics(
            total_models=len(models),
            total_families=len({model.family for model in models}),
            size_distribution={size: sizes[size] for size in ModelSize},
            capability_stats={
                name: sum(getattr(model.capabilities, name) for model in models)
                for name in CAPABILITIES
            },
            total_parameters=total,
            average_parameters=total / len(models) if models else 0.0,
        )

    def register_model(self, metadata: ModelMetadata) -> None:
        """Add a model, in the place of another with its id, for this and all later processes.

        Raises RegistryError where it has no id or its size category is not that of its parameters,
        or where the outputs folder cannot be written.
        """
        _check(metadata)
        with stored.changing(self.outputs) as held:
            held[0] = held[0].register(metadata)

    def unregister_model(self, id: str) -> ModelMetadata | None:
        """Take a model away, the roster's too; return what it was, None where it was not there."""
        with stored.changing(self.outputs) as held:
            model = self.get_model(id)
            if model is not None:
                held[0] = held[0].unregister(id, is_known=id in self._without_registered())
        return model

    def is_registered(self, id: str) -> bool:
        """Whether there is a model with this id."""
        return id in self._models()

    def model_count(self) -> int:
        """How many models there are."""
        return len(self._models())

    def filter_models(self, filter: ModelFilter) -> list[ModelMetadata]:
        """The models that satisfy a filter."""
        return [model for model in self.list_models() if filter.matches(model)]

    def folder_of(self, entry: Entry) -> Path:
        """Where one of a model's artifacts lies."""
        return self.outputs / entry.path

    def _models(self) -> dict[str, ModelMetadata]:
        """The models as the files have them now; the dictionary is not to be changed."""
        stamp = self._stamp()
        with self._lock:
            if self._read is None or self._read[0] != stamp:
                self._read = stamp, self._merged()
            return self._read[1]

    def _merged(self) -> dict[str, ModelMetadata]:
        registered = stored.read(self.outputs)
        models = self._without_registered() | registered.models
        return {id: model for id, model in models.items() if id not in registered.removed}

    def _without_registered(self) -> dict[str, ModelMetadata]:
        if not (self.outputs / built.NAME).exists():
            return self._known
        return with_artifacts(self._known, Registry.read(self.outputs))

    def _stamp(self) -> Stamp:
        """What tells one state of the files from another: they are only ever replaced whole."""
        return tuple(_stat(self.outputs / name) for name in (built.NAME, stored.NAME))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _by_size(model: ModelMetadata) -> tuple[int, str]:
    return model.parameters, model.huggingface_id


def _check(model: ModelMetadata) -> None:
    if not model.huggingface_id or model.parameters < 1:
        raise RegistryError("a model needs a huggingface_id and its number of parameters")
    if model.size_category != ModelSize.of(model.parameters):
        raise RegistryError(
            f"{model.huggingface_id} has {model.parameters:,} parameters and is not "
            f"{model.size_category}",
            f"its size_category is {ModelSize.of(model.parameters)}",
        )
