"""The model under study and what was chosen of it, as traits.

Whoever shows a trait observes it; whoever changes it need not know of them.
"""

from traitlets import HasTraits, Instance, Int, Tuple, Unicode

from llmkg_lab.explorer.questions.prediction import Prediction, predict
from llmkg_lab.explorer.questions.session import Session
from llmkg_lab.quantize.budget.options import Sensitivities


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

    @property
    def opened(self) -> Session:
        """The session, where there is one."""
        assert self.session is not None
        return self.session

    @property
    def weighed(self) -> Sensitivities:
        """The sensitivities, where they are known."""
        assert self.sensitivities is not None
        return self.sensitivities

    def predict(self) -> Prediction:
        """What the present budget buys. Needs sensitivities."""
        return predict(self.weighed, self.budget)
