"""The batch as a person sees it: a live table, or plain lines where there is no terminal."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.live import Live
from rich.table import Table

from llmkg_lab.batch import notebook
from llmkg_lab.batch.jobs import Job, Outcome, read_result, stamps
from llmkg_lab.cli import console

# metric -> how the summary says it; the first that was measured is shown
QUALITY = {
    "perplexity_ratio": "perplexity ×{:.3f}",
    "kl_mean": "KL {:.4f} nats",
    "cosine_mean": "cosine {:.5f}",
    "score_spearman": "scores ρ {:.5f}",
}
SPEED = {
    "decode_ms": "{:.2f} ms/token",
    "embed_ms": "{:.2f} ms/text",
    "pair_ms": "{:.2f} ms/pair",
}


@dataclass
class Watched:
    """One job of a running batch, read from its folder."""

    job: Job
    expected: float | None  # seconds that the last report took
    before: dict[str, int | None]
    state: str = "waiting"
    progress: notebook.Progress | None = None
    elapsed: float = 0.0
    saved: int | None = None  # when the running notebook was, as far as it has been read

    def update(self) -> None:
        """Look at the files again; a notebook is parsed only if it was saved since."""
        now = stamps(self.job.folder)
        if now[notebook.RUNNING]:
            self._update_running(now[notebook.RUNNING])
        elif now[notebook.FAILED] and now[notebook.FAILED] != self.before[notebook.FAILED]:
            self.state = "failed"
        elif now[notebook.REPORT] and now[notebook.REPORT] != self.before[notebook.REPORT]:
            self.state = (read_result(self.job.folder) or {"verdict": "done"})["verdict"]

    def _update_running(self, saved: int) -> None:
        if saved != self.saved and (
            progress := notebook.progress(self.job.folder / notebook.RUNNING)
        ):
            self.state, self.progress, self.saved = "running", progress, saved
        if self.progress:
            self.elapsed = self.progress.seconds()

    @property
    def remaining(self) -> float | None:
        """Seconds left, by what the last report took, or else by the cells that are done."""
        if self.state != "running":
            return None
        if self.expected:
            return max(0.0, self.expected - self.elapsed)
        done = self.progress.cell - 1
        return self.elapsed * (self.progress.cells - done) / done if done else None

    def cells(self) -> tuple[str, str, str, str, str]:
        """Its row: state, cell, step, elapsed, time left."""
        if self.progress is None:
            return self.state, "", "", "", ""
        running = self.state == "running"
        return (
            self.state,
            f"{self.progress.cell}/{self.progress.cells}",
            self.progress.step if running else "",
            clock(self.elapsed),
            "" if self.remaining is None else clock(self.remaining),
        )


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
            shown = [w for w in shown if w.state in ("running", "failed", "fail")][-room:]
        rows = []
        for watched in shown:
            state, *rest = watched.cells()
            rows.append((watched.job.variant.id, console.state(state), *rest))
        table = console.table(("variant", "state", "cell", "step", "elapsed", "left"), rows)
        counts = Counter(watched.state for watched in self.jobs)
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        table.caption = f"{states} · {clock(time.monotonic() - self.started)} in all"
        table.caption_justify = "left"
        return table


@contextlib.contextmanager
def watching(jobs: Sequence[Job]) -> Iterator[Callable[[], object]]:
    """A function that shows how far ``jobs`` are each time it is called, on stderr."""
    watch = Watch([Watched(job, _expected(job), stamps(job.folder)) for job in jobs])
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
    """One line a variant and scheme (size, quality, speed, verdict), then what failed and why."""
    rows = [row for outcome in outcomes for row in _rows(outcome)]
    columns = ("variant", "scheme", "MB", "quality", "speed", "verdict")
    console.out.print(console.table(columns, rows))
    for outcome in outcomes:
        if outcome.failure:
            line = f"{outcome.job.variant.id}: {outcome.failure}"
            console.out.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
            if outcome.state == "failed":
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
            f"{entry['bytes'] / 1e6:.1f}",
            _first(entry["quality"], QUALITY),
            _first(entry["speed"], SPEED),
            console.state(entry["verdict"]),
        )
        for scheme, entry in outcome.result["schemes"].items()
    ]


def clock(seconds: float) -> str:
    """Minutes and seconds, hours where there are some: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _lines(watch: Watch) -> Callable[[], object]:
    """Prints a line whenever a job comes to another state or step."""
    last: dict[str, tuple[str, str]] = {}

    def report() -> None:
        for watched in watch.jobs:
            watched.update()
            state, cell, step, elapsed, left = watched.cells()
            name = watched.job.variant.id
            if state != "waiting" and last.get(name) != (state, step):
                last[name] = state, step
                parts = (name, state, cell, step, elapsed, f"{left} left" if left else "")
                console.err.print(" · ".join(filter(None, parts)), highlight=False, markup=False)

    return report


def _expected(job: Job) -> float | None:
    """Seconds that the last report of this variant took, or one of its family's."""
    reports = [job.folder / notebook.REPORT, *job.folder.parent.glob(f"*/{notebook.REPORT}")]
    return next(filter(None, map(notebook.duration, reports)), None)


def _first(measured: dict, forms: dict[str, str]) -> str:
    """The first metric of ``forms`` that was measured, in words."""
    found = (
        form.format(measured[name]["value"]) for name, form in forms.items() if name in measured
    )
    return next(found, "")
