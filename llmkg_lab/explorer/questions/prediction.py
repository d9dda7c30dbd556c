"""What a budget buys, before anything is converted."""

from dataclasses import dataclass, field, replace
from functools import lru_cache

from llmkg_lab.base.errors import LabError
from llmkg_lab.quantize.budget.allocate import allocate, frontier, mix
from llmkg_lab.quantize.budget.options import Sensitivities
from llmkg_lab.scheme import Layout


@dataclass(frozen=True)
class Prediction:
    """The size and the divergence of the best mix that fits a budget."""

    nbytes: int  # that the mix takes
    kl: float  # nats per token
    next_megabyte: float  # nats that another 10⁶ bytes would take off it
    next_gain_at: int | None = None  # bytes from which it falls, where that is nothing
    layouts: dict[str, Layout] = field(default_factory=dict)  # by matrix; none where refused
    refusal: str = ""  # why no artifact will be made of it


def predict(sensitivities: Sensitivities, nbytes: int) -> Prediction:
    """Fill a budget; the last few hundred answers are remembered."""
    return _predict(_Key(sensitivities), nbytes)


class _Key:
    """Sensitivities as a key: by identity, because they hold dicts."""

    def __init__(self, sensitivities: Sensitivities) -> None:
        self.sensitivities = sensitivities

    def __hash__(self) -> int:
        return id(self.sensitivities)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.sensitivities is other.sensitivities


@lru_cache(maxsize=512)
def _predict(key: _Key, nbytes: int) -> Prediction:
    try:
        best, refusal = allocate(key.sensitivities, nbytes), ""
    except LabError as error:  # a budget that no acceptable model fits: shown all the same
        refusal = str(error)
        if (broken := mix(key.sensitivities, nbytes)) is None:
            smallest, kl = frontier(key.sensitivities)[0]
            return Prediction(nbytes, kl, 0.0, smallest, refusal=refusal)
        best = replace(broken, layouts={})
    return Prediction(
        best.nbytes, best.kl, best.next_megabyte, best.next_gain_at, best.layouts, refusal
    )
