"""A budget in bytes: what it buys at once, and what its artifact really costs on demand."""

import math

import ipywidgets as widgets

from llmkg_lab.base.progress import Step
from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.bench.jobs import Job
from llmkg_lab.explorer.panels.base import ChartView, Panel, primary, row
from llmkg_lab.explorer.questions.points import Point
from llmkg_lab.explorer.questions.prediction import Prediction
from llmkg_lab.explorer.view import charts, style
from llmkg_lab.explorer.view.charts import Chart
from llmkg_lab.quantize.budget import price as sensitivity
from llmkg_lab.quantize.budget.allocate import ACCEPTABLE, curve, frontier

STEPS = 150  # of the slider, at least


class Budget(Panel):
    """What a number of bytes buys, before anything is converted."""

    title = "Budget"
    note = (
        "How small may it be? Each matrix gets the bits that its sensitivity earns. The slider "
        "predicts at once; <i>Measure</i> converts the mix and runs it beside the reference."
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.chart: Chart | None = None
        self.curve: list[tuple[int, float]] = []  # the optimizer's own answers
        self.slider = widgets.FloatSlider(
            description="Budget, MB", readout_format=".1f", layout={"width": "min(620px, 100%)"}
        )
        self.measure = primary("Measure", "play")
        self.retry = widgets.Button(description="Measure sensitivities", layout={"width": "190px"})
        self.numbers = widgets.HTML()
        self.view = ChartView()
        self.measure.on_click(lambda _: self.run())
        self.retry.on_click(lambda _: self.sensitivities())
        self.slider.observe(self._moved, "value")
        self.fill(row(self.slider, self.measure, self.retry), self.numbers, self.view)
        self._enable(False)
        self.state.observe(lambda _: self.state.session and self.sensitivities(), "session")
        self.state.observe(lambda _: self._renew(), "sensitivities")
        self.state.observe(lambda _: self._draw(), "points")
        self.state.observe(lambda _: self._point(), "budget")

    def sensitivities(self) -> Job:
        """Measure what each layout of each matrix costs, or take it from the cache."""
        session = self.state.opened

        def work(job: Job) -> None:
            job.progress(Step("measuring sensitivities"))
            found = sensitivity.measure(session.checkpoint, progress=job.progress)
            if session is self.state.session:
                self.state.sensitivities = found

        self.bench.weighing = self.bar.start("measuring sensitivities", work)
        return self.bench.weighing

    def run(self) -> Job:
        """Convert the present mix and measure it."""
        session, scheme = self.state.opened, self.scheme

        def work(job: Job) -> Point:
            point = session.measure(scheme, job.progress)
            if session is self.state.session:
                self.state.points = tuple(session.points())
            return point

        return self.bar.start(f"measuring {scheme}", work)

    @property
    def scheme(self) -> str:
        """The name under which ``convert`` knows the present budget."""
        return f"budget:{self.slider.value:g}MB"

    def prepare(self) -> tuple[Job, ...]:
        return (self.run(),) if self.chart else ()

    def _enable(self, is_ready: bool) -> None:
        self.slider.disabled = self.measure.disabled = not is_ready
        self.retry.layout.display = "none" if is_ready else ""
        self.retry.disabled = self.state.session is None

    def _renew(self) -> None:
        """Other sensitivities: another range for the slider, another figure."""
        found = self.state.sensitivities
        self._enable(found is not None)
        if found is None:
            self.chart = None
            self.numbers.value = ""
            self.view.show("")
            self.view.point("")
            return
        points, self.curve = frontier(found), curve(found)
        sizes = [nbytes / 1e6 for nbytes, _ in points]
        step = _step((sizes[-1] - sizes[0]) / STEPS)
        low, high = math.ceil(sizes[0] / step) * step, math.ceil(sizes[-1] / step) * step
        fine = [nbytes / 1e6 for nbytes, kl in points if kl <= ACCEPTABLE] or sizes[-1:]
        middle = math.ceil(fine[len(fine) // 2] / step) * step  # half of what may still be bought
        with self.slider.hold_sync():  # or the page would clip the old value to the new range
            self.slider.min, self.slider.max = 0, round(high, 3)
            self.slider.min = round(low, 3)
            self.slider.step, self.slider.value = step, round(middle, 3)
            self.slider.readout_format = ".1f" if step >= 0.1 else ".2f"
        self.state.budget = round(self.slider.value * 1e6)
        self._draw()

    def _moved(self, _: dict) -> None:
        if self.state.sensitivities:
            self.state.budget = round(self.slider.value * 1e6)

    def _draw(self) -> None:
        if self.state.sensitivities:
            self.chart = charts.frontier(self.curve, self.state.points, ACCEPTABLE)
            self.view.show(self.chart.html())
            self._point()

    def _point(self) -> None:
        if self.chart is None:
            return
        self.numbers.value = self._answer()
        prediction = self.state.predict()
        label = f"{self.slider.value:g} MB: {prediction.kl:.3g} nats"
        self.view.point(self.chart.cursor(self.slider.value, prediction.kl, label))

    def _answer(self) -> str:
        prediction = self.state.predict()
        bits = 8 * prediction.nbytes / self.state.weighed.record["parameters"]
        items = [
            (f"{prediction.kl:.3g}", "nats", "predicted KL a token"),
            (f"{prediction.nbytes / 1e6:.2f}", "MB", "graph and weights"),
            (f"{bits:.2f}", "bits", "a parameter"),
            _next_gain(prediction),
        ]
        if point := self._measured():
            interval = "" if point.low is None else f" ({point.low:.3g} to {point.high:.3g})"
            label = f"measured KL{interval}, {point.tokens:,} tokens"
            items.append((f"{point.kl:.3g}", "nats", label))
        refusal = style.warning(prediction.refusal) if prediction.refusal else ""
        return style.numbers(items) + refusal

    def _measured(self) -> Point | None:
        """What the artifact of this very budget was measured at, if it was."""
        name = self.scheme.lower().replace(":", "-")
        return next((point for point in self.state.points if point.label == name), None)

    def static(self) -> str:
        if not self.chart:
            return ""
        prediction = self.state.predict()
        cursor = self.chart.cursor(self.slider.value, prediction.kl, f"{self.slider.value:g} MB")
        overlay = f'<div class="lab-overlay">{cursor}</div>'
        return f'{self._answer()}<div class="lab-chart">{self.chart.html()}{overlay}</div>'


def _next_gain(prediction: Prediction) -> tuple[str, str, str]:
    """What the next megabyte buys, or where something begins to be bought."""
    if prediction.next_gain_at is None:
        return f"−{prediction.next_megabyte:.2g}", "nats", "for the next megabyte"
    label = "is the next size that brings anything"
    return f"{prediction.next_gain_at / 1e6:.2f}", "MB", label


def _step(width: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most ``width``."""
    power = 10 ** math.floor(math.log10(max(width, 1e-3)))
    return round(max(m for m in (1, 2, 5) if m * power <= max(width, 1e-3) * 1.0001) * power, 6)
