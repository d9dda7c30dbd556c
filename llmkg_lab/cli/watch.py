"""The batch as a person sees it: a live table, or plain lines where there is no terminal."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.live import Live
from rich.table import Table

from llmkg_lab.base.progress import Snapshot, clock
from llmkg_lab.batch import notebook, timing
from llmkg_lab.batch.jobs import Job, Outcome, last_state, stamps
from llmkg_lab.batch.states import RunState
from llmkg_lab.cli import console
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster.metrics import METRICS, SUMMARY

MINUTE = 60.0  # seconds between two lines of a step that lasts, where there is no terminal


@dataclass
class Watched:
    """One job of a running batch, read from its folder."""

    job: Job
    expected: tuple[notebook.Cell, ...] | None  # of the last report, where it compares
    before: dict[str, int | None]
    state: RunState | Verdict = RunState.WAITING
    run: notebook.Run | None = None
    at_hand: Snapshot | None = None  # the step of the cell at hand
    elapsed: float = 0.0
    saved: int | None = None  # when the running notebook was, as far as it has been read

    def update(self) -> None:
        """Look at the files again; a notebook is parsed only if it was saved since."""
        now = stamps(self.job)
        if saved := now[notebook.RUNNING]:
            self._update_running(saved)
        elif now[notebook.FAILED] and now[notebook.FAILED] != self.before[notebook.FAILED]:
            self.state = RunState.FAILED
        elif now[notebook.REPORT] and now[notebook.REPORT] != self.before[notebook.REPORT]:
            self.state = last_state(self.job.folder)

    def _update_running(self, saved: int) -> None:
        if saved != self.saved and (run := notebook.run_of(self.job.work / notebook.RUNNING)):
            self.state, self.run, self.saved = RunState.RUNNING, run, saved
        if self.run:
            self.elapsed = self.run.seconds()
            at_hand = Snapshot.load(self.job.work / notebook.PROGRESS)
            entered = self.run.entered.timestamp()
            self.at_hand = at_hand if at_hand and at_hand.at >= entered else None

    def cells(self) -> tuple[str, str, str, str, str]:
        """Its row: state, cell, step, elapsed, time left."""
        if self.run is None:
            return self.state, "", "", "", ""
        cell = f"{self.run.at + 1}/{len(self.run.cells)}"
        if self.state is not RunState.RUNNING:
            return self.state, cell, "", clock(self.elapsed), ""
        left = timing.left(self.run, self.expected, self.at_hand, datetime.now(UTC))
        step = self.run.step
        if step and self.at_hand:
            step = f"{step}: {self.at_hand.step}"
        return self.state, cell, step, clock(self.elapsed), str(left or "unknown")


@dataclass
class Watch:
    """All jobs of a running batch."""

    jobs: list[Watched]
    started: float = field(default_factory=time.monotonic)

    def table(self) -> Table:
        """The jobs' states; where they are more than the terminal's lines, those that matter."""
        room = console.err.height - 4
        shown = self.jobs
        if len(shown) > room:
            matter = (RunState.RUNNING, RunState.FAILED, Verdict.FAIL)
            shown = [watched for watched in shown if watched.state in matter][-room:]
        rows = []
        for watched in shown:
            state, cell, step, elapsed, left = watched.cells()
            name = watched.job.variant.id
            rows.append((name, console.state(state), cell, step, elapsed, left))
        table = console.table(("variant", "state", "cell", "step", "elapsed", "left"), rows)
        counts = Counter(watched.state for watched in self.jobs)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        table.caption = f"{states} · {clock(time.monotonic() - self.started)} in all"
        table.caption_justify = "left"
        return table


@contextlib.contextmanager
def watching(jobs: Sequence[Job]) -> Iterator[Callable[[], object]]:
    """A function that shows how far ``jobs`` are each time it is called, on stderr."""
    watch = Watch([_watched(job) for job in jobs])
    if not console.err.is_terminal:
        yield _lines(watch)
        return
    with Live(watch.table(), console=console.err, auto_refresh=False, transient=True) as live:

        def redraw() -> None:
            for watched in watch.jobs:
                watched.update()
            live.update(watch.table(), refresh=True)

        yield redraw


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """One line per variant and scheme (size, quality, speed, verdict), then what failed and why."""
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    columns = ("variant", "scheme", "MB", "quality", "speed", "verdict")
    console.out.print(console.table(columns, rows))
    for outcome in outcomes:
        if outcome.failure:
            line = f"{outcome.job.variant.id}: {outcome.failure}"
            console.out.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
            if outcome.state is RunState.FAILED:
                console.out.print(
                    f"  → open {outcome.job.folder / notebook.FAILED}", soft_wrap=True
                )


def _rows(outcome: Outcome) -> list[tuple]:
    name = outcome.job.variant.id
    if outcome.result is None:
        return [(name, "", "", "", "", console.state(outcome.state))]
    return [
        (
            name,
            scheme,
            f"{entry.bytes / 1e6:.1f}",
            _brief(entry.quality),
            _brief(entry.speed),
            console.state(entry.verdict),
        )
        for scheme, entry in outcome.result.schemes.items()
    ]


def _lines(watch: Watch) -> Callable[[], object]:
    """Prints a line when a job comes to another state or step, and each minute of a long step."""
    last: dict[str, tuple[tuple[str, str], float]] = {}  # by name: what was said, and when

    def report() -> None:
        now = time.monotonic()
        for watched in watch.jobs:
            watched.update()
            state, *cells, left = watched.cells()
            name, step = watched.job.variant.id, watched.run.step if watched.run else ""
            said, at = last.get(name, (None, now))
            lasts = state == RunState.RUNNING and now - at >= MINUTE
            if state != RunState.WAITING and (said != (state, step) or lasts):
                last[name] = (state, step), now
                parts = (name, state, *cells, left and f"time left {left}")
                console.err.print(" · ".join(filter(None, parts)), highlight=False, markup=False)

    return report


def _watched(job: Job) -> Watched:
    expected = timing.expected(job.folder, job.parameters, job.variant)
    return Watched(job, expected, stamps(job))


def _brief(measured: Mapping[str, Estimate | Measurement]) -> str:
    """The first metric of a summary that was measured, in words."""
    named = (name for name in SUMMARY if name in measured)
    return next((METRICS[name].brief.format(measured[name].value) for name in named), "")
