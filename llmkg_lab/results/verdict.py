"""The verdict on an artifact: how what was measured compares with what was asked for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from llmkg_lab.roster.metrics import BOUNDED

if TYPE_CHECKING:
    from llmkg_lab.measure.quality import Quality
    from llmkg_lab.measure.values import Estimate


class Verdict(StrEnum):
    """The verdicts, the worst first."""

    FAIL = "fail"  # beyond a limit
    BELOW_TARGET = "below target"  # within the limits, short of a goal
    PASS = "pass"

    @property
    def usable(self) -> bool:
        """Whether an artifact may be used."""
        return self is not Verdict.FAIL

    @classmethod
    def worst(cls, verdicts: Iterable["Verdict"]) -> "Verdict":
        """The verdict on several artifacts together."""
        return min(verdicts, key=list(cls).index)


@dataclass(frozen=True)
class Judgement:
    """A verdict, and a sentence for each bound that does not hold."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def judge(
    quality: "Quality", limits: Mapping[str, float], targets: Mapping[str, float]
) -> Judgement:
    """Compare what was measured with the limits, beyond which a scheme fails, and the targets.

    limits, targets: bounds by metric. A metric that was not measured, or is not a number, holds
    no bound.
    """
    broken = tuple(_misses(quality.metrics, limits, "limit"))
    short = tuple(_misses(quality.metrics, targets, "target"))
    verdict = Verdict.FAIL if broken else Verdict.BELOW_TARGET if short else Verdict.PASS
    return Judgement(verdict, broken + short)


def _misses(
    measured: Mapping[str, "Estimate"], bounds: Mapping[str, float], kind: str
) -> Iterator[str]:
    """The bounds that do not hold, each as a sentence."""
    for name, bound in bounds.items():
        wanted = f"its {kind} is {BOUNDED[name]} {bound:g}"
        if (estimate := measured.get(name)) is None:
            yield f"{name} was not measured; {wanted}"
        elif not BOUNDED[name].holds(estimate.value, bound):
            interval = ""
            if estimate.low is not None:
                interval = f" ({estimate.low:.4g} to {estimate.high:.4g})"
            yield f"{name} is {estimate.value:.4g}{interval}; {wanted}"
