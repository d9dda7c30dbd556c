"""What to run on a machine: from what was measured on it, and from its profile where nothing was.

A decoder reads all its weights for each token. So, where nothing was measured, bytes over
bandwidth tell how fast it can be at best.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmkg_lab.base.machine import Profile
from llmkg_lab.models import published as shapes
from llmkg_lab.results.result import results
from llmkg_lab.roster import catalog
from llmkg_lab.roster.catalog import Variant

FAST = 20.0  # tokens per second: as fast as one reads along
ROOM = 0.5  # of the available memory, for weights and cache
BITS = 5.1  # a weight, of an int4 artifact with its table at 8 bits


@dataclass(frozen=True)
class Recommendation:
    """One piece of advice. ``measured``: it rests on a result.json of this processor."""

    what: str
    value: str
    reason: str
    measured: bool


@dataclass(frozen=True)
class Fact:
    """A scheme of one variant, as its result.json has it."""

    variant: str
    scheme: str
    nbytes: int
    tokens_per_second: float
    perplexity_ratio: float
    threads: int


def recommend(profile: Profile, outputs: Path) -> list[Recommendation]:
    """A decoder, its scheme and the threads, each with its reason."""
    measured = [fact for fact in facts(outputs, profile.cpu) if _fits(fact.nbytes, profile)]
    if measured:
        return _by_measurement(measured, profile)
    return _by_profile(profile)


def facts(outputs: Path, cpu: str) -> Iterator[Fact]:
    """Decoders in ``outputs`` that passed on real weights, measured on a processor of this name."""
    roster = catalog.roster()
    for _, result in results(outputs):
        if result.source.synthetic or result.variant.id not in roster:
            continue
        for name, scheme in result.schemes.items():
            conditions, speed = scheme.conditions, scheme.speed.get("tokens_per_second")
            loss = scheme.quality.get("perplexity_ratio")
            threads, here = conditions.get("threads"), conditions.get("cpu") == cpu
            if here and scheme.verdict.usable and speed and loss and isinstance(threads, int):
                variant, measured = result.variant.id, (speed.value, loss.value)
                yield Fact(variant, name, scheme.bytes, *measured, threads)


def _by_measurement(measured: list[Fact], profile: Profile) -> list[Recommendation]:
    """The largest variant that is fast enough; of it, what costs least quality."""
    fast = [fact for fact in measured if fact.tokens_per_second >= FAST]
    sizes = {fact.variant: _parameters(fact.variant) for fact in measured}
    pool = fast or [max(measured, key=lambda fact: fact.tokens_per_second)]
    largest = max(pool, key=lambda fact: sizes[fact.variant]).variant
    best = min(
        (fact for fact in pool if fact.variant == largest),
        key=lambda fact: (round(fact.perplexity_ratio, 3), fact.nbytes),
    )
    speed = f"{best.tokens_per_second:.0f} tokens per second measured here"
    return [
        Recommendation("variant", best.variant, f"the largest that is fast: {speed}", True),
        Recommendation(
            "scheme",
            best.scheme,
            f"perplexity {100 * (best.perplexity_ratio - 1):+.1f} % at "
            f"{best.nbytes / 1e6:.0f} MB, the least of those measured that are as fast",
            True,
        ),
        Recommendation("threads", str(best.threads), "measured with so many", True),
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
        return [Recommendation("variant", smallest.id, reason, False), _scheme(profile), threads]
    fast = [e for e in fitting if _speed(e[0], profile) >= FAST]
    chosen = _largest(fast) if fast else min(fitting, key=lambda e: e[0])
    rate = (
        f"at most {_speed(chosen[0], profile):.0f} tokens per second, by bandwidth (not measured)"
    )
    return [
        Recommendation("variant", chosen[1].id, f"{rate}; half of the memory holds it", False),
        _scheme(profile),
        threads,
    ]


def _largest(estimates: list[tuple[int, Variant]]) -> tuple[int, Variant]:
    """The first of the largest; of equals one that answers questions."""
    return max(estimates, key=lambda e: (e[0], "instruct" in e[1].id or "chat" in e[1].id))


def _scheme(profile: Profile) -> Recommendation:
    fast = [s for s in profile.instruction_sets if "VNNI" in s or "AMX" in s or "dotprod" in s]
    kernels = f"with {fast[0]}" if fast else f"with {', '.join(profile.instruction_sets) or 'this'}"
    reason = f"decoding waits for memory {kernels}, and int4 reads least; not measured here"
    return Recommendation("scheme", "int4", reason, False)


def _parameters(variant: str) -> int:
    known = shapes.known()
    name = catalog.find_variant(variant).alias_of or variant
    return known[name].parameters() if name in known else 0


def _bytes(parameters: int) -> int:
    return int(parameters * BITS / 8)


def _fits(nbytes: int, profile: Profile) -> bool:
    return nbytes <= ROOM * profile.memory_available


def _speed(parameters: int, profile: Profile) -> float:
    return profile.read_bandwidth_gb_s * 1e9 / _bytes(parameters)
