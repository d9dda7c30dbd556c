"""What every panel has: a title, a bar for its work, and a figure that stays without a kernel."""

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML, display

from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.bench.jobs import CANCELLED, FAILED, FINISHED, Job, describe
from llmkg_lab.explorer.view import style

DEADLINE = 600  # seconds that a cell waits for a panel's work


class JobBar(widgets.HBox):
    """Progress, time left and a Cancel button; nothing while there is no work."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._bar = widgets.FloatProgress(max=1.0, layout={"width": "220px"})
        self._text = widgets.HTML()
        self._cancel = widgets.Button(description="Cancel", icon="stop", layout={"width": "96px"})
        self._cancel.on_click(lambda _: self.cancel())
        self.job: Job | None = None
        super().__init__([self._bar, self._cancel, self._text])
        self.add_class("lab-job")
        self.layout.display = "none"

    def start(self, title: str, work: Callable[[Job], Any]) -> Job:
        """Put work into the queue; what the bar showed before is cancelled."""
        self.cancel()
        self.job = Job(title, work, self._show)
        self._show(self.job)
        return self._bench.worker.start(self.job)

    def cancel(self) -> None:
        """Stop the work, if there is any."""
        if self.job and self.job.state not in FINISHED:
            self.job.cancel()

    def _show(self, job: Job) -> None:
        if job is not self.job:
            return
        self._bar.value = job.fraction
        text = describe(job)
        self._text.value = style.error(text) if job.state == FAILED else f"<span>{text}</span>"
        is_over = job.state in FINISHED
        for widget in (self._bar, self._cancel):
            widget.layout.display = "none" if is_over else ""
        shows = not is_over or job.state in (CANCELLED, FAILED)
        self.layout.display = "" if shows else "none"


class Panel(widgets.VBox):
    """A question and its answer. Displayed as a widget, and beside it as a static figure."""

    title = ""
    note = ""  # what it answers; may hold HTML

    def __init__(self, bench: Bench) -> None:
        self.bench, self.state = bench, bench.state
        self.bar = JobBar(bench)
        super().__init__()
        self.add_class("lab-panel")

    def fill(self, *rows: widgets.Widget) -> None:
        """Put the panel together: heading, rows, and the bar behind the first row."""
        heading = widgets.HTML(style.heading(self.title, self.note))
        self.children = [heading, *rows[:1], self.bar, *rows[1:]]

    def prepare(self) -> Sequence[Job]:
        """Start the work whose result a report should show; by default none."""
        return ()

    def static(self) -> str:
        """The panel's present answer as HTML without widgets, "" where there is none yet."""
        return ""

    def _ipython_display_(self) -> None:
        """Show the widget; where no widget lives, as in an exported page, its figure."""
        if self.bench.wait:
            self.bench.wait_until_open(DEADLINE)
            for job in self.prepare():
                job.wait(DEADLINE)
        display({"text/plain": self.title, **self._repr_mimebundle_()}, raw=True)
        heading = style.heading(self.title, self.note)
        static = f'<div class="lab-static">{heading}{self.static()}</div>'
        display(HTML(style.stylesheet() + static))


def row(*children: widgets.Widget) -> widgets.HBox:
    """Widgets side by side, below one another where there is no room."""
    box = widgets.HBox(list(children))
    box.add_class("lab-row")
    return box


def primary(text: str, icon: str = "", width: str = "150px") -> widgets.Button:
    """The button that a panel is about."""
    return widgets.Button(
        description=text, icon=icon, button_style="primary", layout={"width": width}
    )


class ChartView(widgets.Box):
    """A figure with a cursor that moves over it without the figure being drawn again."""

    def __init__(self) -> None:
        self._figure, self._overlay = widgets.HTML(), widgets.HTML()
        super().__init__([self._figure, self._overlay])
        self.add_class("lab-chart")
        self._overlay.add_class("lab-overlay")

    def show(self, figure: str) -> None:
        """figure: an <img>."""
        self._figure.value = figure

    def point(self, overlay: str) -> None:
        """overlay: an SVG of the figure's own size."""
        self._overlay.value = overlay
