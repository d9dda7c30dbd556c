"""The parameters of a report's notebook: read as people and programs give them, or refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from llmkg_lab.base.errors import LabError
from llmkg_lab.roster.catalog import Variant, find_variant
from llmkg_lab.scheme import Scheme

SWITCHES = {"true": True, "false": False}  # as a command line may hand them on


class ParameterError(LabError):
    """A parameter of a notebook that makes no sense there."""


@dataclass(frozen=True)
class Parameters:
    """What a report is asked for. ``papermill -p`` hands lists and switches on as text."""

    variant: Variant
    schemes: list[str]  # canonical names, the variant's own where none was given
    source: str
    out: str
    quick: bool
    browser: bool

    @classmethod
    def read(
        cls,
        family: str,
        variant: str,
        schemes: Sequence[str] | str,
        source: str,
        out: str | Path,
        quick: bool | str,
        browser: bool | str,
    ) -> Self:
        """Check what a notebook was given.

        family: whose notebook it is.
        Raises ParameterError, CatalogError where there is no such variant, or SchemeError.
        """
        found = _variant(family, _text("variant", variant))
        is_quick = _switch("quick", quick)
        chosen = _schemes(schemes) or _own_schemes(found, is_quick)
        places = _text("source", source), _text("out", out)
        return cls(found, chosen, *places, is_quick, _switch("browser", browser))


def _variant(family: str, name: str) -> Variant:
    variant = find_variant(name)
    if variant.family != family:
        raise ParameterError(
            f"{variant.title} is of the family {variant.family}; this is the report on {family}",
            f"open {variant.family}.ipynb",
        )
    return variant


def _text(name: str, value: object) -> str:
    if not isinstance(value, str | Path):
        raise ParameterError(f"{name} is {value!r}", "write it as text, in quotes")
    return str(value)


def _switch(name: str, value: object) -> bool:
    if isinstance(value, str):
        value = SWITCHES.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise ParameterError(f"{name} is {value!r}", "write True or False")
    return value


def _schemes(value: object) -> list[str]:
    """Canonical names, from a list or from text: ``["int8"]`` or ``int8,balanced``."""
    names = value
    if isinstance(value, str):
        names = [name.strip() for name in value.split(",") if name.strip()]
        if value.strip().startswith("["):
            names = _parsed(value)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ParameterError(f"schemes is {value!r}", 'write a list such as ["int8", "balanced"]')
    return [scheme.name for scheme in Scheme.parse_all(names)]


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return None


def _own_schemes(variant: Variant, quick: bool) -> list[str]:
    """The variant's own, in a smoke run without those that calibrate: they take minutes."""
    return [name for name in variant.schemes if not (quick and variant.scheme(name).calibrates)]
