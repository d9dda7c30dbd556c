"""Which of a variant's artifacts to take, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.presets import DEFAULT
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster.metrics import METRICS, SUMMARY, Side
from llmkg_lab.scheme import FLOATS, Scheme


class Measured(Protocol):
    """What was measured of an artifact, as results and the registry have it."""

    @property
    def bytes(self) -> int: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def quality(self) -> dict[str, Estimate]: ...
    @property
    def speed(self) -> dict[str, Measurement]: ...


E = TypeVar("E", bound=Measured)


@dataclass(frozen=True)
class Choice(Generic[E]):
    """The artifact to take: its scheme's name, what was measured of it, and the reason."""

    scheme: str
    entry: E
    reason: str


def choose(schemes: Mapping[str, E]) -> Choice[E] | None:
    """Return the artifact to take of a model's, by scheme; None where none may be used.

    The default preset where it reaches its targets, for that is what ``convert`` makes and
    ``llmkg-lab schemes`` says; else the smallest that reaches its own; else the best that holds its
    limits. Floating point has no targets to reach, so it is for where nothing smaller may be used.
    """
    usable = {name: entry for name, entry in schemes.items() if entry.verdict.usable}
    packed = {name: entry for name, entry in usable.items() if _is_packed(name)}
    reached = {name: e for name, e in packed.items() if e.verdict is Verdict.PASS}
    if DEFAULT in reached:
        return Choice(DEFAULT, reached[DEFAULT], "the default, and it reaches its targets")
    if reached:
        return _smallest(reached, "the smallest that reaches its targets")
    if packed:
        name = max(packed, key=lambda name: _goodness(packed[name]))
        is_open = packed[name].verdict is Verdict.UNDECIDED
        but = "too little was measured to tell about a target" if is_open else "it misses a target"
        return Choice(name, packed[name], f"the best that holds its limits, but {but}")
    if usable:
        return _smallest(usable, "nothing smaller holds its limits")
    return None


def brief(entry: Measured) -> str:
    """What one artifact takes, loses and needs, in a few words."""
    measured: dict[str, Estimate | Measurement] = {**entry.quality, **entry.speed}
    named = [name for name in SUMMARY if name in measured]
    words = [METRICS[name].brief.format(measured[name].value) for name in named]
    return ", ".join([f"{entry.bytes / 1e6:.1f} MB", *words])


def _is_packed(name: str) -> bool:
    return Scheme.parse(name).base not in FLOATS


def _smallest(entries: dict[str, E], reason: str) -> Choice[E]:
    name = min(entries, key=lambda name: entries[name].bytes)
    return Choice(name, entries[name], reason)


def _goodness(entry: Measured) -> tuple[int, float]:
    """The verdict first; then the first metric of a summary, the larger the better."""
    rank = list(Verdict).index(entry.verdict)
    name = next((name for name in SUMMARY if name in entry.quality), None)
    if name is None:
        return rank, 0.0
    value = entry.quality[name].value
    return rank, value if METRICS[name].good is Side.AT_LEAST else -value
