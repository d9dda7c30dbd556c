"""What a form says about GGUF: the names of its modules there, and how its rows are stored.

The keys are those of the GGUF specification (ggml-org/ggml, docs/gguf.md) as llama.cpp reads
them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

SPECIAL_IDS = {"bos": "bos", "eos": "eos", "padding": "pad"}  # GGUF's name -> config.json's
POOLING = {None: 0, "mean": 1, "cls": 2}  # llama.cpp's pooling types


class Metadata(Protocol):
    """A GGUF file's keys and values; a value of another type than asked for is refused."""

    path: Path

    def __contains__(self, key: str) -> bool: ...

    def get(self, key: str, kind: type[T], default: T = ...) -> T:
        """The value of ``key``."""

    def size(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""

    def decimal(self, key: str) -> float:
        """The shortest decimal that is the stored float32."""

    def rows(self, shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
        """The rows of a tensor that must be there."""


@dataclass(frozen=True)
class GGUFNames:
    """One form's names in GGUF.

    Args:
        architecture: llama.cpp's name of the form, which its keys begin with.
        layers: The prefix of a layer's tensors in Hugging Face's names.
        modules: GGUF's name of a module -> Hugging Face's, of a layer's modules without prefix.
        permuted: Modules whose rows llama.cpp interleaves head by head -> the form's attribute
            that counts their heads.
        halved: A module of two halves along its rows -> the two names that GGUF has for them.
    """

    architecture: str
    layers: str
    modules: Mapping[str, str]
    permuted: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    halved: Mapping[str, tuple[str, str]] = field(default_factory=lambda: MappingProxyType({}))

    def hugging_face_name(self, name: str) -> str | None:
        """``blk.7.attn_q.weight`` -> ``model.layers.7.self_attn.q_proj.weight``; None: no such."""
        stem, _, kind = name.rpartition(".")  # kind: weight or bias
        prefix = ""
        if stem.startswith("blk.") and stem.count(".") == 2:
            _, number, stem = stem.split(".")
            prefix = f"{self.layers}.{number}."
        return f"{prefix}{self.modules[stem]}.{kind}" if stem in self.modules else None

    def gguf_name(self, name: str) -> str | None:
        """The other way: ``model.layers.7.self_attn.q_proj.weight`` -> ``blk.7.attn_q.weight``."""
        stem, _, kind = name.rpartition(".")
        prefix = ""
        if stem.startswith(f"{self.layers}."):
            number, _, stem = stem.removeprefix(f"{self.layers}.").partition(".")
            prefix = f"blk.{number}."
        stems = {renamed: stored for stored, renamed in self.modules.items()}
        return f"{prefix}{stems[stem]}.{kind}" if stem in stems else None


def special_ids(metadata: Metadata) -> dict[str, Any]:
    """The ids of special tokens under config.json's names; a turn's end ends a text as well."""
    keys = {f"tokenizer.ggml.{key}_token_id": name for key, name in SPECIAL_IDS.items()}
    ids: dict[str, Any] = {
        f"{name}_token_id": metadata.get(k, int) for k, name in keys.items() if k in metadata
    }
    turns = [f"tokenizer.ggml.{name}_token_id" for name in ("eot", "eom")]
    ends = [ids.get("eos_token_id"), *(metadata.get(key, int) for key in turns if key in metadata)]
    distinct = [end for end in dict.fromkeys(ends) if end is not None]
    return ids | {"eos_token_id": distinct} if len(distinct) > 1 else ids
