"""What the registry says of a model, under LLMKG's names, and filters over it."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from enum import StrEnum

from llmkg_lab.results.registry import SIZES, Entry


class ModelSize(StrEnum):
    """The size of a model by its parameters: 50 M, 200 M and 500 M are the borders."""

    Tiny = "Tiny"
    Small = "Small"
    Medium = "Medium"
    Large = "Large"

    @classmethod
    def of(cls, parameters: int) -> "ModelSize":
        """The category of so many parameters; a border belongs to the larger one."""
        return cls(next(name for bound, name in SIZES if parameters < bound))


@dataclass(frozen=True)
class ModelCapabilities:
    """What a model is made for. An encoder, which writes no text, has at most ``multilingual``."""

    text_generation: bool = False
    instruction_following: bool = False
    chat: bool = False
    code_generation: bool = False
    reasoning: bool = False
    multilingual: bool = False

    def include(self, wanted: "ModelCapabilities") -> bool:
        """Whether all that is wanted is among them."""
        return all(getattr(self, name) for name, needed in asdict(wanted).items() if needed)


CAPABILITIES = tuple(field.name for field in fields(ModelCapabilities))


@dataclass(frozen=True)
class ModelMetadata:
    """A model that is known. With artifacts it is loadable, and they hold what was measured.

    Args:
        name: The model's title.
        parameters: Elements of all tensors that its publisher stores.
        architecture: The form: llama, openelm or bert.
        context_length: Tokens.
        training_tokens: Tokens that it was trained on, where its publisher says so.
        release_date: YYYY-MM-DD, or as much of it as is known; empty where nothing is.
        license: The SPDX id, or the Hub's own name.
        task: As the roster names it: text-generation, sentence-embedding, feature-extraction or
            text-ranking.
        variant: The id in the roster; empty for a model that a program registered.
        path: Of a registered model, the folder of its artifact on this machine; where it is empty,
            ``huggingface_id`` names a repository on the Hub that holds the artifact.
        artifacts: What was converted, measured on real weights and held its limits, with the
            measured facts: bytes, quality (KL and others), speed, memory.
    """

    name: str
    family: str
    parameters: int
    size_category: ModelSize
    huggingface_id: str
    architecture: str
    capabilities: ModelCapabilities
    context_length: int
    vocab_size: int
    training_tokens: int | None = None
    release_date: str = ""
    license: str = ""
    description: str = ""
    task: str = "text-generation"
    variant: str = ""
    path: str = ""
    artifacts: tuple[Entry, ...] = ()

    @property
    def is_loadable(self) -> bool:
        """Whether an artifact is here, or was said where to be."""
        return bool(self.artifacts) or not self.variant


@dataclass(frozen=True)
class ModelFilter:
    """Which models to keep: those that satisfy every field that is given.

    None and an empty list ask for nothing. Families and licences are compared without case, bounds
    are inclusive, and of ``capabilities`` those count that are true.
    """

    families: Collection[str] | None = None
    size_categories: Collection[ModelSize] | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None
    capabilities: ModelCapabilities | None = None
    licenses: Collection[str] | None = None

    def matches(self, model: ModelMetadata) -> bool:
        """Whether a model satisfies every field."""
        return (
            _is_among(model.family, self.families)
            and _is_among(model.license, self.licenses)
            and (not self.size_categories or model.size_category in self.size_categories)
            and (self.min_parameters is None or model.parameters >= self.min_parameters)
            and (self.max_parameters is None or model.parameters <= self.max_parameters)
            and (self.capabilities is None or model.capabilities.include(self.capabilities))
        )


def _is_among(name: str, wanted: Collection[str] | None) -> bool:
    return not wanted or name.casefold() in {each.casefold() for each in wanted}
