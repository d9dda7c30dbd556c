"""What a measurement gives: a value, how sure it is, and from how many samples it comes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The value of a statistic over ``n`` units; ``low`` to ``high`` holds 95 %, None for extremes.

    The interval says how much the value would move on other text of the same kind. It is not
    the spread of single units.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str  # what is counted: "tokens", "texts", "pairs", "prompts"


@dataclass(frozen=True)
class Measurement:
    """The median, the 10th and the 90th percentile of n samples."""

    value: float
    low: float
    high: float
    n: int
