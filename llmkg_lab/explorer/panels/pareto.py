"""All that was measured, ours and the peers', by bytes and divergence."""

import html

import ipywidgets as widgets

from llmkg_lab.explorer.bench import Bench
from llmkg_lab.explorer.bench.jobs import Job
from llmkg_lab.explorer.panels.base import ChartView, Panel, primary, row
from llmkg_lab.explorer.questions.peers import Peers, peers_of
from llmkg_lab.explorer.questions.points import Point, front
from llmkg_lab.explorer.view import charts, style
from llmkg_lab.scheme import Scheme


class Pareto(Panel):
    """Which scheme is worth its bytes."""

    title = "Pareto front"
    note = (
        "Which scheme is worth its bytes? Each point is an artifact as it runs, against PyTorch in "
        "float32, with its 95 % interval; the line joins those that nothing beats."
    )

    def __init__(self, bench: Bench, schemes: list[str]) -> None:
        super().__init__(bench)
        self.schemes = schemes
        self.scheme = widgets.Combobox(
            description="Scheme", placeholder="int4-b64-gptq", ensure_option=False
        )
        self.measure = primary("Measure", "play")
        self.measure.on_click(lambda _: self.run([self.scheme.value]))
        self.view, self.list, self.peers = ChartView(), widgets.HTML(), widgets.HTML()
        self.fill(row(self.scheme, self.measure), self.view, self.peers, self.list)
        self.state.observe(lambda _: self._renew(), "session")
        self.state.observe(lambda _: self._draw(), "points")

    def run(self, schemes: list[str]) -> Job:
        """Convert where there is not an artifact yet, and measure."""
        session = self.state.opened

        def work(job: Job) -> None:
            for scheme in schemes:
                session.measure(Scheme.parse(scheme).name, job.progress)
                if session is self.state.session:
                    self.state.points = tuple(session.points())

        return self.bar.start(f"measuring {', '.join(schemes)}", work)

    def prepare(self) -> tuple[Job, ...]:
        return (self.run(self.schemes),) if self.schemes and self.state.session else ()

    def _renew(self) -> None:
        self.scheme.options = self.state.opened.schemes()
        self.scheme.value = next((s for s in self.schemes), self.scheme.options[-1])
        self._draw()

    def _draw(self) -> None:
        if self.state.session:
            self.view.show(self._figure())
            self.peers.value, self.list.value = self._peers_note(), self._table()

    def _peers(self) -> Peers:
        session = self.state.opened
        if session.is_synthetic:
            return Peers([], "Random weights have no peers.")
        fingerprint, text = session.checkpoint.fingerprint(), session.reading.text.sha256
        return peers_of(session.variant.id, fingerprint, text)

    def _figure(self) -> str:
        points, others = self.state.points, self._peers().points
        if not points and not others:
            return '<p class="lab-note">Nothing is measured yet: choose a scheme.</p>'
        return charts.pareto(points, others).html()

    def _peers_note(self) -> str:
        return f'<p class="lab-note">{html.escape(self._peers().note)}</p>'

    def _table(self) -> str:
        points = [*self.state.points, *self._peers().points]
        best = front(points)
        rows = [
            {
                "artifact": point.label,
                "made by": point.maker,
                "MB": f"{point.nbytes / 1e6:.2f}",
                "KL, nats per token": f"{point.kl:.4g}",
                "95 % interval": _interval(point),
                "tokens": f"{point.tokens:,}",
                "unbeaten": "yes" if point in best else "",
            }
            for point in sorted(points, key=lambda point: point.nbytes)
        ]
        return style.table(rows)

    def static(self) -> str:
        if not self.state.session:
            return ""
        return self._figure() + self._peers_note() + self._table()


def _interval(point: Point) -> str:
    return "" if point.low is None else f"{point.low:.4g} to {point.high:.4g}"
