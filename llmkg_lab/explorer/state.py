"""What the panels share: the variant under study and what was chosen of it. No widgets.

Each attribute is a trait: whoever shows it observes it, whoever changes it need not know of them.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from traitlets import HasTraits, Instance, Int, Tuple, Unicode

from llmkg_lab.base.errors import LabError
from llmkg_lab.explorer.session import Session
from llmkg_lab.quantize.budget.allocate import allocate, frontier, mix
from llmkg_lab.quantize.budget.options import Sensitivities
from llmkg_lab.scheme import Layout


@dataclass(frozen=True)
class Prediction:
    """What a budget buys, before anything is converted."""

    nbytes: int  # that the mix takes
    kl: float  # nats a token
    next_megabyte: float  # nats that another 10⁶ bytes would take off it
    next_gain_at: int | None = None  # bytes from which it falls, where that is nothing
    layouts: dict[str, Layout] = field(default_factory=dict)  # by matrix; none where refused
    refusal: str = ""  # why no artifact will be made of it


class State(HasTraits):
    """Set from any thread; observers run on the thread that sets."""

    session = Instance(Session, allow_none=True)
    sensitivities = Instance(Sensitivities, allow_none=True)
    budget = Int(0)  # bytes of graph and weights
    matrix = Unicode("")  # tensor under the lens
    points = Tuple()  # measured artifacts: Point

    def open(self, session: Session) -> None:
        """Study another checkpoint; nothing of the last one stays."""
        self.sensitivities = None
        self.matrix = ""
        self.points = ()
        self.session = session
        self.points = tuple(session.points())

    def predict(self) -> Prediction:
        """What the present budget buys. Needs sensitivities."""
        assert self.sensitivities is not None
        return _predict(_Key(self.sensitivities), self.budget)


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
    refusal = ""
    try:
        found = allocate(key.sensitivities, nbytes)
    except LabError as error:  # a budget that no acceptable model fits: shown all the same
        refusal, found = str(error), mix(key.sensitivities, nbytes)
        if found is None:
            smallest, kl = frontier(key.sensitivities)[0]
            return Prediction(nbytes, kl, 0.0, smallest, refusal=refusal)
    layouts = {} if refusal else found.layouts
    return Prediction(
        found.nbytes, found.kl, found.next_megabyte, found.next_gain_at, layouts, refusal
    )
