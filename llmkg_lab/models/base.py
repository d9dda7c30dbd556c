"""What every form of model says of itself; one file for each form says it.

A form is read from config.json and the names of the checkpoint's tensors. Conversion,
quantization, the reference, GGUF and synthetic weights ask it, and nothing else, what a model is.
"""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from llmkg_lab.base.errors import LabError
from llmkg_lab.models.gguf import GGUFNames, Metadata
from llmkg_lab.models.keys import Table, refusal
from llmkg_lab.scheme import MAX_POSITIONS

LEAST, MOST = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # of float32, in which all is computed
Shape = tuple[int, ...]
Config = Mapping[str, Any]  # config.json


class UnsupportedError(LabError):
    """A checkpoint that asks for something that nothing here computes."""


class Unit(NamedTuple):
    """Matrices that the graph stores as one, and multiplies with in one product."""

    name: str  # the first part's tensor, by which layouts and the size table know the unit
    kind: str  # qkv | o | gate_up | down | table | head
    layer: int  # -1 where it belongs to none
    parts: tuple[str, ...]  # tensors, stacked along their rows


@dataclass(frozen=True)
class Coupling:
    """Tensors whose channels may trade a factor without changing the function.

    Args:
        producer: What makes the channels: a vector, or a matrix with one row per channel.
        consumers: Matrices that read them, one column per channel.
        heads: (key-value heads, query heads per key-value head) where each head's channels are
            read once by every query head of its group, else (1, 1).
        biases: Vectors that are added to what the producer makes, one element per channel.
    """

    producer: str
    consumers: tuple[str, ...]
    heads: tuple[int, int] = (1, 1)
    biases: tuple[str, ...] = ()


class Form(ABC):
    """A model of one ``model_type``: its dimensions, and the names and shapes of its tensors.

    Subclasses are frozen dataclasses of the dimensions, registered by ``register``.
    """

    model_type: ClassVar[str]  # as config.json says it
    tasks: ClassVar[Mapping[str, str]]  # the class that config.json names -> the task
    generates: ClassVar[bool]  # whether it is a decoder
    unused: ClassVar[str]  # tensors that no graph needs, a regular expression
    bare: ClassVar[tuple[str, str]] = ("", "")  # what a bare model's tensors lack: prefix, of which
    ties: ClassVar[tuple[str, str]] = (
        "",
        "",
    )  # head, table: tied, unless both are stored and differ
    keys: ClassVar[Table]  # what becomes of each key of config.json
    gguf: ClassVar[GGUFNames]
    gguf_keys: ClassVar[Table] = {}  # of GGUF's keys that begin with the form's name, without it

    vocab: int
    hidden: int
    layers: int  # their number
    heads: int | tuple[int, ...]  # of each layer where they differ
    feed_forward: int | tuple[int, ...]  # likewise
    positions: int
    table: str  # the tensor that embeds tokens, (vocab, hidden)
    head: str  # that a decoder multiplies hidden states with to logits, (vocab, hidden); else ""

    @classmethod
    @abstractmethod
    def read(cls, config: Config, names: Collection[str] | None = None) -> Self:
        """Read config.json.

        Args:
            config: The content of config.json.
            names: The checkpoint's tensors, None where there is not a checkpoint yet.

        Raises:
            UnsupportedError: A key asks for what nothing here computes, or is missing.
        """

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """Every tensor of a published checkpoint by name, in the order of the forward pass."""

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding table."""
        return self.head == self.table

    def units(self) -> Iterator[Unit]:
        """A decoder's matrices as its graph stores them, in the order of their use."""
        raise UnsupportedError(f"the solvers of decoders do not walk a {self.model_type} model")

    def couplings(self) -> Iterator[Coupling]:
        """All couplings; none where nobody worked them out."""
        return iter(())

    def facts(self) -> dict[str, object]:
        """The dimensions in words, for a table; lists hold one number per layer."""
        names = {
            "layers": "layers",
            "hidden size": "hidden",
            "heads": "heads",
            "key-value heads": "kv_heads",
            "feed-forward width": "feed_forward",
            "positions": "positions",
            "vocabulary": "vocab",
        }
        found = {title: getattr(self, name, None) for title, name in names.items()}
        return {title: value for title, value in found.items() if value is not None}

    @classmethod
    @abstractmethod
    def reduced(cls, config: Config) -> dict[str, Any]:
        """The config.json of a model of the same structure, small enough for a test."""

    def gguf_metadata(self, pooling: str | None) -> Iterator[tuple[str, object]]:
        """The keys that GGUF describes the model with, as llama.cpp reads them.

        Here those of every architecture, which a form's own follow.

        Args:
            pooling: How a sentence embedder pools (mean or cls), None for other models.

        Raises:
            UnsupportedError: llama.cpp has no key for something that the model does.
        """
        name = self.gguf.architecture
        yield f"{name}.vocab_size", self.vocab
        yield f"{name}.context_length", self.positions
        yield f"{name}.embedding_length", self.hidden
        yield f"{name}.block_count", self.layers
        yield f"{name}.feed_forward_length", self.feed_forward
        yield f"{name}.attention.head_count", self.heads

    @classmethod
    def gguf_config(cls, metadata: Metadata, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """The config.json of a model that lies in GGUF.

        Args:
            metadata: The file's keys and values.
            shapes: Of the tensors, by Hugging Face name.
        """
        raise UnsupportedError(f"GGUF files of a {cls.model_type} model are not read")

    @classmethod
    def reads_gguf(cls) -> bool:
        """Whether ``gguf_config`` is there."""
        return cls.gguf_config.__func__ is not Form.gguf_config.__func__  # type: ignore[attr-defined]


FORMS: dict[str, type[Form]] = {}  # by model_type, in the order of registration
F = TypeVar("F", bound=type[Form])


def register(form: F) -> F:
    """Make a form known by its ``model_type``; a class decorator."""
    FORMS[form.model_type] = form
    return form


def known_form(config: Config) -> type[Form] | None:
    """The form that config.json names, None where it is not known."""
    kind = config.get("model_type")
    return FORMS.get(kind) if isinstance(kind, str) else None


def form_type(config: Config) -> type[Form]:
    """The form that config.json names. Raises UnsupportedError on others, by name."""
    if (form := known_form(config)) is not None:
        return form
    raise UnsupportedError(
        f"config.json: model_type {config.get('model_type')!r} is not supported",
        f"supported are {', '.join(FORMS)}",
    )


def named_class(config: Config) -> str | None:
    """The class that config.json names, None where it names none."""
    named = config.get("architectures") or [None]
    if not isinstance(named, list) or not isinstance(named[0], str | None):
        raise UnsupportedError(f"config.json: architectures is {named!r}, not a list of names")
    return named[0]


def task_of(config: Config) -> str:
    """What a model is for, by the class that config.json names; by default the form's first."""
    tasks = form_type(config).tasks
    name = named_class(config) or next(iter(tasks))
    if name not in tasks:
        raise UnsupportedError(
            f"config.json: architecture {name!r} is not supported",
            f"supported are {', '.join(tasks)}",
        )
    return tasks[name]


def form_of(config: Config, names: Collection[str] | None = None) -> Form:
    """The model that config.json and the names of a checkpoint's tensors describe.

    Raises:
        UnsupportedError: It is of no known form, or asks for what nothing here computes.
    """
    form = form_type(config)
    if found := refusal(form.keys, config, "config.json"):
        raise UnsupportedError(*found)
    return form.read(config, names)


def integer(config: Config, *keys: str) -> int:
    """The first of ``keys`` that the config holds, as a positive int (a hostile config may lie)."""
    for key in keys:
        value = config.get(key)
        if value is not None:
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
                return value
            raise UnsupportedError(f"config.json: {key} is {value!r}, not a positive whole number")
    raise UnsupportedError(f"config.json lacks {keys[0]}")


def number(config: Config, key: str, default: float | None = None) -> float:
    """``key`` of the config as a positive number of float32's; null stands for ``default``."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, int | float) and not isinstance(value, bool) and LEAST <= value <= MOST:
        return float(value)
    raise UnsupportedError(
        f"config.json: {key} is {reprlib.repr(value)}, not a positive number of float32's"
    )


def flag(config: Config, key: str, default: bool) -> bool:
    """``key`` of the config as a truth value; null stands for ``default``."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise UnsupportedError(f"config.json: {key} is {value!r}, neither true nor false")
    return value


def layer_count(config: Config, key: str, names: Collection[str] | None) -> int:
    """The number of layers; each has a tensor, so that a hostile config cannot ask for millions."""
    count = integer(config, key)
    if names is not None and count > len(names):
        raise UnsupportedError(
            f"config.json: {key} is {count:,}, but the checkpoint holds {len(names):,} tensors"
        )
    return count


def context_length(config: Config, key: str) -> int:
    """The number of positions, within what a graph can hold tables for."""
    count = integer(config, key)
    if not 2 <= count <= MAX_POSITIONS:
        raise UnsupportedError(
            f"config.json: {key} is {count:,}", f"supported are 2 to {MAX_POSITIONS:,} positions"
        )
    return count
