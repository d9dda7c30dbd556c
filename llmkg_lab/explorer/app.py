"""The explorer as a notebook sees it: one object, one attribute a panel."""

from collections.abc import Sequence

import ipywidgets as widgets
from IPython.display import display

from llmkg_lab.explorer.jobs import Job, Worker
from llmkg_lab.explorer.panels.budget import Budget
from llmkg_lab.explorer.panels.chooser import Chooser
from llmkg_lab.explorer.panels.own_text import OwnText
from llmkg_lab.explorer.panels.pareto import Pareto
from llmkg_lab.explorer.panels.sensitivity_map import SensitivityMap
from llmkg_lab.explorer.panels.side_by_side import SideBySide
from llmkg_lab.explorer.state import State
from llmkg_lab.explorer.view import style


class Explorer:
    """Panels over one variant's trade-offs.

    variant, source: as ``sources.fetch`` takes them; the first panel chooses others.
    schemes: what the report measures; its last is the one that is compared in detail.
    wait: a cell that shows a panel first does its work, so that the notebook is a report.
    """

    def __init__(
        self, variant: str, source: str = "", schemes: Sequence[str] = (), wait: bool = False
    ) -> None:
        self.state, self.worker, self.wait = State(), Worker(), wait
        narrow = schemes[-1] if schemes else ""
        self.chooser = Chooser(self, variant, source)
        self.budget = Budget(self)
        self.map = SensitivityMap(self)
        self.pareto = Pareto(self, list(schemes))
        self.text = OwnText(self, narrow)
        self.duel = SideBySide(self, narrow)
        display(widgets.HTML(style.stylesheet()))
        self.chooser.choose()

    @property
    def opening(self) -> tuple[Job, ...]:
        """The work that every panel needs: opening the model, then its sensitivities."""
        self.chooser.bar.job.wait()
        job = self.budget.bar.job
        return (self.chooser.bar.job, *([job] if job else []))

    def close(self) -> None:
        """Stop what runs."""
        self.worker.close()
