"""YAML read strictly: every complaint names the file, the key and the nearest valid key."""

import reprlib
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.nearest import nearest

BRIEF = reprlib.Repr()
BRIEF.maxlevel = 2  # a few lines of aliases may stand for any number of values
DIGITS = 1 << 4096  # the least number that is not written out: Python refuses to write much larger


class CatalogError(LabError):
    """A parameter file, or the name of a variant, that cannot be used."""


class _Loader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; here the second one is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                mark = node.value[i][0].start_mark
                raise yaml.MarkedYAMLError(problem=f"{key!r} is there twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class Node:
    """A value in a YAML file together with its place: ``limits.int4.kl_mean`` of ``file``."""

    file: Path
    key: str
    value: Any

    @classmethod
    def read(cls, file: Path) -> Self:
        """The file's top level. Raises CatalogError if it is missing or no YAML."""
        try:
            return cls(file, "", yaml.load(file.read_text("utf-8"), _Loader))
        except FileNotFoundError as error:
            raise CatalogError(f"{file}: no such file", "check the path") from error
        except (OSError, UnicodeDecodeError) as error:
            raise CatalogError(f"{file}: cannot be read: {error}") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            place = f", line {mark.line + 1}" if mark else ""
            raise CatalogError(f"{file}{place}: {error.problem}", "correct the YAML") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # no date, nested too deep
            raise CatalogError(f"{file}: no YAML: {error}") from error

    def error(self, problem: str, hint: str = "") -> CatalogError:
        """What to raise about this value."""
        return CatalogError(f"{self.file}: {self.key or 'top level'}: {problem}", hint)

    def fields(self, optional: Collection[str], required: Collection[str] = ()) -> dict[str, Self]:
        """The mapping's values by key; keys beyond those named, or missing ones, are refused."""
        children = self.mapping()
        valid = [*required, *optional]
        for key, child in children.items():
            if key not in valid:
                raise child.error("unknown key", nearest(key, valid))
        for key in required:
            if key not in children:
                raise self.error(f"the key {key!r} is missing", f"add {key}: … to the file")
        return children

    def mapping(self) -> dict[str, Self]:
        """The values of a mapping with any string keys."""
        if not isinstance(self.value, dict):
            raise self._wrong("keys with values")
        children = {}
        for key, value in self.value.items():
            place = f"{self.key}.{key}".lstrip(".")
            if not isinstance(key, str):
                raise type(self)(self.file, place, value).error("a key must be a word")
            children[key] = type(self)(self.file, place, value)
        return children

    def items(self) -> list[Self]:
        """The entries of a list that is not empty."""
        if not isinstance(self.value, list) or not self.value:
            raise self._wrong("a list of at least one entry")
        return [type(self)(self.file, f"{self.key}[{i}]", v) for i, v in enumerate(self.value)]

    def text(self) -> str:
        """A string that is not empty."""
        if not isinstance(self.value, str) or not self.value.strip():
            raise self._wrong("text")
        return self.value.strip()

    def integer(self, least: int = 1) -> int:
        """A whole number of at least ``least``, of 64 bits."""
        is_whole = isinstance(self.value, int) and not isinstance(self.value, bool)
        if not is_whole or not least <= self.value < 1 << 63:
            raise self._wrong(f"a whole number of at least {least}")
        return self.value

    def number(self) -> float:
        """A finite number; YAML reads 1e-4 as text, it wants 1.0e-4."""
        is_number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not is_number or not abs(self.value) <= sys.float_info.max:  # nor are NaN and 10^400
            raise self._wrong("a finite number, such as 0.05 or 1.0e-4")
        return float(self.value)

    def choice(self, valid: Collection[str]) -> str:
        """One of the valid words."""
        word = self.text()
        if word not in valid:
            raise self.error(f"unknown value {word!r}", nearest(word, valid))
        return word

    def each(self, read: Callable[[Self], Any]) -> tuple:
        """``read`` applied to every entry of a list."""
        return tuple(read(item) for item in self.items())

    def _wrong(self, expected: str) -> CatalogError:
        is_large = isinstance(self.value, int) and abs(self.value) >= DIGITS
        said = "a number of over a thousand digits" if is_large else BRIEF.repr(self.value)
        return self.error(f"{said} is not {expected}", f"write {expected}")
