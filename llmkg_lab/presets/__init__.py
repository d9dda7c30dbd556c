"""Presets: what people ask for (balanced, small, fast …), and the recipe that serves it best.

Each preset is a rule over what was measured (``facts.yaml``): when other figures are measured, it
follows them. A solver does not walk every form of model, so a preset has a recipe by *kind*.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llmkg_lab.models.base import Form
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.presets import speeds
from llmkg_lab.scheme import BITS, PRESETS, Scheme

FACTS = Path(__file__).with_name("facts.yaml")
DEFAULT = "balanced"
WITHIN = 5.0  # %, of a quality that is lost and still called small
ALIKE = 1.05  # times the least latency, up to which a timing tells no difference
DECODER, ENCODER, PLAIN = "decoder", "encoder", "plain decoder"
UNMEASURED = dict.fromkeys(PRESETS, "int8-rtn") | {"int4": "int4-rtn"}


@dataclass(frozen=True)
class Fact:
    """What was measured of one recipe on the model of its kind."""

    recipe: str
    megabytes: float
    bits_per_weight: float
    distance: float  # from the original's outputs
    loss: tuple[float, float, float]  # of quality in %: value, least, most
    minutes: str  # to make it
    when: str  # to take it
    elsewhere: float | None = None  # the loss on text of another kind
    web: bool = True  # whether every browser engine multiplies all of its layouts


@dataclass(frozen=True)
class Kind:
    """Models for which the same recipes are best, and what was measured of one of them."""

    name: str
    model: str
    origin: str
    text: str
    distance: str
    loss: str
    same: float  # distances up to which outputs count as the original's
    near: float  # up to which they are near it
    near_words: str
    facts: tuple[Fact, ...]

    def latency(self, fact: Fact) -> float | None:
        """Return ms as timed on this processor, None where it was not."""
        return speeds.remembered(self.name).get(fact.recipe)


@dataclass(frozen=True)
class Rule:
    """What a preset stands for. ``of`` finds its fact among a kind's, None where none serves."""

    words: str
    when: str
    of: Callable[[Kind], Fact | None]


def _smallest(facts: Iterable[Fact]) -> Fact | None:
    return min(facts, key=lambda fact: fact.megabytes, default=None)


def _nearest(kind: Kind, base: str) -> Fact | None:
    facts = (fact for fact in kind.facts if Scheme.parse(fact.recipe).base == base)
    return min(facts, key=lambda fact: (fact.distance, fact.megabytes), default=None)


def _close(kind: Kind) -> list[Fact]:
    """Return the facts that lose at most 5 % and whose outputs stay near the original's."""
    worst = max(kind.near, kind.same)
    return [fact for fact in kind.facts if fact.loss[0] <= WITHIN and fact.distance <= worst]


def _best(kind: Kind) -> Fact | None:
    return _smallest(f for f in kind.facts if f.loss[1] <= 0 and f.distance <= kind.same)


def _balanced(kind: Kind) -> Fact | None:
    return _smallest(fact for fact in kind.facts if fact.distance <= kind.near)


def _fast(kind: Kind) -> Fact | None:
    timed = [(kind.latency(fact), fact) for fact in _close(kind)]
    known = [(ms, fact) for ms, fact in timed if ms is not None]
    least = min((ms for ms, _ in known), default=0.0)
    alike = [fact for ms, fact in known if ms <= ALIKE * least]
    return _smallest(alike or _close(kind))


RULES: Mapping[str, Rule] = {
    "balanced": Rule(
        "the smallest that stays as near to the original as the field's usual 4 bits",
        "nothing speaks against it",
        _balanced,
    ),
    "best": Rule("the smallest without a measurable loss", "every answer counts", _best),
    "small": Rule(
        f"the smallest that loses at most {WITHIN:g} %",
        "bytes count more than answers",
        lambda kind: _smallest(_close(kind)),
    ),
    "fast": Rule(
        f"the least latency of those that lose at most {WITHIN:g} %, on this processor",
        "waiting counts most",
        _fast,
    ),
    "web": Rule(
        f"the smallest that loses at most {WITHIN:g} % and that every browser engine runs",
        "it is downloaded into a page",
        lambda kind: _smallest(fact for fact in _close(kind) if fact.web),
    ),
    "int8": Rule(
        "the nearest to the original at 8 bits",
        "8 bits are asked for",
        lambda k: _nearest(k, "int8"),
    ),
    "int4": Rule(
        "the nearest to the original at 4 bits",
        "4 bits are asked for",
        lambda k: _nearest(k, "int4"),
    ),
}


def kind_of(form: type[Form]) -> str:
    """Return the kind of a form of model."""
    if not form.generates:
        return ENCODER
    return DECODER if issubclass(form, LlamaForm) else PLAIN


def resolve(scheme: Scheme, kind: str) -> Scheme:
    """Return the scheme with all that a preset means for models of a kind; others as they are.

    What it was asked for by stays its name.
    """
    if scheme.base:
        return scheme
    return replace(Scheme.parse(recipe_of(scheme.preset, kind)), preset=scheme.preset)


def recipe_of(preset: str, kind: str) -> str:
    """Return the canonical name of the recipe that a preset means for models of a kind."""
    if kind not in kinds():
        return UNMEASURED[preset]
    fact = RULES[preset].of(kinds()[kind])
    return portable(fact) if fact else UNMEASURED[preset]


def portable(fact: Fact) -> str:
    """Return a fact's recipe for a model of any size: a budget in bits per weight."""
    scheme = Scheme.parse(fact.recipe)
    if scheme.budget:
        return Scheme.parse(f"budget:{fact.bits_per_weight:g}bpw").recipe
    return scheme.recipe


def fact_of(preset: str, kind: str) -> Fact | None:
    """Return what was measured of the recipe that a preset means, None where nothing was."""
    known = kinds().get(kind)
    return RULES[preset].of(known) if known else None


@cache
def kinds() -> Mapping[str, Kind]:
    """Return the kinds of which recipes were measured, with their facts, by name."""
    content: dict[str, dict[str, Any]] = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    return {name: _kind(name, entry) for name, entry in content.items()}


def _kind(name: str, entry: Mapping[str, Any]) -> Kind:
    fields = {key: value for key, value in entry.items() if key != "recipes"}
    facts = tuple(_fact(recipe, measured) for recipe, measured in entry["recipes"].items())
    return Kind(name=name, facts=facts, **fields)


def _fact(recipe: str, measured: Mapping[str, Any]) -> Fact:
    fields = dict(measured)
    megabytes, bits = fields.pop("size")
    value, least, most = fields.pop("loss")
    loss = (value, least, most)
    assert Scheme.parse(recipe).base in BITS
    return Fact(recipe, megabytes, bits, loss=loss, **fields)
