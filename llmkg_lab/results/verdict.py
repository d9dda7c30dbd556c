"""The verdict on an artifact: how what was measured compares with what was asked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from llmkg_lab.roster.metrics import BOUNDED, Side

if TYPE_CHECKING:
    from llmkg_lab.measure.quality import Quality
    from llmkg_lab.measure.values import Estimate


class Verdict(StrEnum):
    """The verdicts, the worst first."""

    FAIL = "fail"  # beyond a limit
    BELOW_TARGET = "below target"  # within the limits, short of a goal
    UNDECIDED = "undecided"  # within the limits; too little was measured to tell about a goal
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
    """A verdict, and a sentence for each bound that does not hold or is not known to."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def judge(
    quality: "Quality", limits: Mapping[str, float], targets: Mapping[str, float]
) -> Judgement:
    """Compare what was measured with the limits, beyond which a scheme fails, and the targets.

    limits, targets: bounds by metric. A metric that was not measured, or is not a number, holds
    no bound. A target that lies within the interval of what was measured is neither reached nor
    missed. A limit is compared with the value alone.
    """
    found = [_hold(name, bound, quality, "limit") for name, bound in limits.items()]
    found += [_hold(name, bound, quality, "target") for name, bound in targets.items()]
    reasons = tuple(judgement.reasons[0] for judgement in found if judgement.reasons)
    verdicts = [judgement.verdict for judgement in found]
    return Judgement(Verdict.worst([Verdict.PASS, *verdicts]), reasons)


def _hold(name: str, bound: float, quality: "Quality", kind: str) -> Judgement:
    """What one bound makes of what was measured."""
    side, estimate = BOUNDED[name], quality.metrics.get(name)
    missed = Verdict.FAIL if kind == "limit" else Verdict.BELOW_TARGET
    wanted = f"its {kind} is {side} {bound:.12g}"
    if estimate is None:
        return Judgement(missed, (f"{name} was not measured; {wanted}",))
    is_open = kind == "target" and _holds_within(estimate, bound)
    if side.holds(estimate.value, bound) and not is_open:
        return Judgement(Verdict.PASS)
    interval = ""
    if estimate.low is not None:
        interval = f" ({estimate.low:.4g} to {estimate.high:.4g})"
    text = f"{name} is {deciding(estimate.value, bound, side)}{interval}; {wanted}"
    if is_open:
        return Judgement(Verdict.UNDECIDED, (f"{text}, which lies within that interval",))
    return Judgement(missed, (text,))


def _holds_within(estimate: "Estimate", bound: float) -> bool:
    """Whether a bound lies inside the interval of what was measured."""
    if estimate.low is None or estimate.high is None:
        return False
    return estimate.low < bound < estimate.high


def deciding(value: float, bound: float, side: Side) -> str:
    """Write a value with as many digits as show on which side of a bound it lies, at least 4."""
    texts = (f"{value:.{digits}g}" for digits in range(4, 18))
    side_of_it = side.holds(value, bound)
    return next((t for t in texts if side.holds(float(t), bound) is side_of_it), f"{value!r}")
