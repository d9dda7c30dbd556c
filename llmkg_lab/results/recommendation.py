"""What to run on a machine: from what was measured on it, and from its profile where nothing was.

Of a variant it recommends what its report does: one choice, by ``choice.choose``. A decoder reads
all its weights for each token. So, where nothing was measured, bytes over bandwidth tell how fast
it can be at best.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmkg_lab.base.machine import Profile
from llmkg_lab.models import published as shapes
from llmkg_lab.presets import DECODER, DEFAULT, RULES, fact_of
from llmkg_lab.results.choice import Choice, brief, choose
from llmkg_lab.results.result import SchemeResult, results
from llmkg_lab.roster import catalog
from llmkg_lab.roster.catalog import Variant

FAST = 20.0  # tokens per second: as fast as one reads along
ROOM = 0.5  # of the available memory, for weights and cache


@dataclass(frozen=True)
class Recommendation:
    """One piece of advice. ``measured``: it rests on a result.json of this processor."""

    what: str
    value: str
    reason: str
    measured: bool


@dataclass(frozen=True)
class Candidate:
    """A variant and what its report recommends of it, among what this machine can hold."""

    variant: str
    choice: Choice[SchemeResult]
    parameters: int

    @property
    def tokens_per_second(self) -> float:
        """As measured on this processor."""
        return self.choice.entry.speed["tokens_per_second"].value


def recommend(profile: Profile, outputs: Path) -> list[Recommendation]:
    """A decoder, its scheme and the threads, each with its reason."""
    measured = list(candidates(outputs, profile))
    return _by_measurement(measured) if measured else _by_profile(profile)


def candidates(outputs: Path, profile: Profile) -> Iterator[Candidate]:
    """Decoders in ``outputs`` with real weights that were measured on a processor of this name."""
    roster = catalog.roster()
    for _, result in results(outputs):
        variant = result.variant.id
        if result.source.synthetic or result.quick is True or variant not in roster:
            continue
        fitting = {name: e for name, e in result.schemes.items() if _was_here(e, profile)}
        if choice := choose(fitting):
            yield Candidate(variant, choice, _parameters(variant))


def _was_here(entry: SchemeResult, profile: Profile) -> bool:
    """Whether an artifact was measured on this processor and fits this machine."""
    is_here = entry.conditions.get("cpu") == profile.cpu
    return is_here and "tokens_per_second" in entry.speed and _fits(entry.bytes, profile)


def _by_measurement(measured: list[Candidate]) -> list[Recommendation]:
    """The largest variant whose recommended artifact is fast enough, and that artifact."""
    fast = [found for found in measured if found.tokens_per_second >= FAST]
    best = max(
        fast or [max(measured, key=lambda found: found.tokens_per_second)],
        key=lambda found: (found.parameters, -found.choice.entry.bytes),
    )
    chosen, speed = best.choice, f"{best.tokens_per_second:.0f} tokens per second measured here"
    return [
        Recommendation("variant", best.variant, f"the largest that is fast: {speed}", True),
        Recommendation("scheme", chosen.scheme, f"{chosen.reason}: {brief(chosen.entry)}", True),
        Recommendation(
            "threads",
            str(chosen.entry.conditions.get("threads", "")),
            "measured with so many",
            True,
        ),
    ]


def _by_profile(profile: Profile) -> list[Recommendation]:
    decoders = [v for v in catalog.roster().values() if v.task == "text-generation"]
    estimates = [(_parameters(variant.id), variant) for variant in decoders]
    fitting = [
        (parameters, variant)
        for parameters, variant in estimates
        if parameters and _fits(_bytes(parameters), profile)
    ]
    threads = Recommendation(
        "threads",
        str(profile.usable_cores),
        "the physical cores that this process may use",
        False,
    )
    if not fitting:
        smallest = min((e for e in estimates if e[0]), key=lambda e: e[0])[1]
        reason = "the smallest; it takes more than half of the available memory: use --memory"
        return [Recommendation("variant", smallest.id, reason, False), _scheme(), threads]
    fast = [e for e in fitting if _speed(e[0], profile) >= FAST]
    chosen = _largest(fast) if fast else min(fitting, key=lambda e: e[0])
    rate = (
        f"at most {_speed(chosen[0], profile):.0f} tokens per second, by bandwidth (not measured)"
    )
    return [
        Recommendation("variant", chosen[1].id, f"{rate}; half of the memory holds it", False),
        _scheme(),
        threads,
    ]


def _largest(estimates: list[tuple[int, Variant]]) -> tuple[int, Variant]:
    """The first of the largest; of equals one that answers questions."""
    return max(estimates, key=lambda e: (e[0], "instruct" in e[1].id or "chat" in e[1].id))


def _scheme() -> Recommendation:
    rule = RULES[DEFAULT]
    return Recommendation("scheme", DEFAULT, f"{rule.words}; not measured here", False)


def _parameters(variant: str) -> int:
    known = shapes.known()
    name = catalog.find_variant(variant).alias_of or variant
    return known[name].parameters() if name in known else 0


def _bytes(parameters: int) -> int:
    """What the recommended scheme takes, by what it took of the model that it was measured on."""
    fact = fact_of(DEFAULT, DECODER)
    assert fact is not None
    return int(parameters * fact.bits_per_weight / 8)


def _fits(nbytes: int, profile: Profile) -> bool:
    return nbytes <= ROOM * profile.memory_available


def _speed(parameters: int, profile: Profile) -> float:
    return profile.read_bandwidth_gb_s * 1e9 / _bytes(parameters)
