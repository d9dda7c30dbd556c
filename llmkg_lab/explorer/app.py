"""The explorer as a notebook sees it: one object with one attribute for each panel."""

from collections.abc import Sequence

import ipywidgets as widgets
from IPython.display import display

from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.panels.budget import Budget
from llmkg_lab.explorer.panels.chooser import Chooser
from llmkg_lab.explorer.panels.own_text import OwnText
from llmkg_lab.explorer.panels.pareto import Pareto
from llmkg_lab.explorer.panels.sensitivity_map import SensitivityMap
from llmkg_lab.explorer.panels.side_by_side import SideBySide
from llmkg_lab.explorer.view import style


class Explorer:
    """Panels over one variant's trade-offs.

    variant, source: as ``sources.fetch`` takes them; the first panel chooses others.
    schemes: what the report measures; its last is the one that is compared in detail.
    wait: as ``Bench`` takes it.
    """

    def __init__(
        self, variant: str, source: str = "", schemes: Sequence[str] = (), wait: bool = False
    ) -> None:
        self.bench = Bench(wait)
        narrow = schemes[-1] if schemes else ""
        self.chooser = Chooser(self.bench, variant, source)
        self.budget = Budget(self.bench)
        self.map = SensitivityMap(self.bench)
        self.pareto = Pareto(self.bench, list(schemes))
        self.text = OwnText(self.bench, narrow)
        self.duel = SideBySide(self.bench, narrow)
        display(widgets.HTML(style.stylesheet()))
        self.chooser.choose()

    def close(self) -> None:
        """Stop what runs."""
        self.bench.close()
