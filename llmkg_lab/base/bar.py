"""One bar for all that takes long, drawn as the place allows where it is seen.

On a terminal, a line on stderr with a bar, what is done, the speed and the time left of the step at
hand; it goes when the work is done. Where stderr is a file, a line when a step has taken a while,
and one at its end. In a notebook, one output in each cell, with a line for each step: what is kept
is its last state.
"""

import contextlib
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Lines
from rich.table import Column
from rich.text import Text

from llmkg_lab.base import files
from llmkg_lab.base.progress import Pace, Snapshot, Step, clock

FILE = "LLMKG_LAB_PROGRESS"  # names a file that is to hold the step at hand, for another process
INTERVAL = 0.5  # seconds between two pictures of a step, at least
LONG = 3.0  # seconds after which a log is told of a step


@dataclass(frozen=True)
class Took:
    """What the steps of one name took together, and how many units they did."""

    seconds: float = 0.0
    units: int = 0


class View(Protocol):
    """How steps are shown: one after another, each begun, moved and ended."""

    def begin(self, pace: Pace) -> None:
        """Another step is at hand."""

    def move(self, pace: Pace) -> None:
        """More of it is done."""

    def end(self, pace: Pace) -> None:
        """It is over, or given up for another."""

    def close(self) -> None:
        """Nothing comes any more."""


class Bar:
    """Shows the steps of some work; is itself the ``progress`` to hand to it.

    Leaving its ``with`` block takes the bar off the terminal. In a notebook it needs no block, and
    serves in one cell after another.

    Attributes:
        took: what each step took that is over, by its name, whatever it was a part of.
    """

    def __init__(self) -> None:
        self.took: dict[str, Took] = {}
        self._pace: Pace | None = None
        self._views: list[View] = [_view()]
        if name := os.environ.get(FILE):
            self._views.append(_File(Path(name)))

    def __call__(self, step: Step) -> None:
        """Show how far a step is."""
        now = time.monotonic()
        if self._pace and self._pace.is_of(step):
            self._pace.reach(step, now)
            for view in self._views:
                view.move(self._pace)
        else:
            self._end()
            self._pace = Pace(step, now)
            for view in self._views:
                view.begin(self._pace)
        if step.is_over:
            self._end()

    def _end(self) -> None:
        if self._pace:
            step, seconds = self._pace.step, time.monotonic() - self._pace.began
            known = self.took.get(step.name, Took())
            self.took[step.name] = Took(known.seconds + seconds, known.units + step.done)
            for view in self._views:
                view.end(self._pace)
            self._pace = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        for view in self._views:
            view.close()


class _Terminal:
    """A line that is drawn anew."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        width = 40 if console.width >= 110 else 12
        unbroken = [Column(no_wrap=True) for _ in range(2)]
        columns = (
            TextColumn("{task.description}", markup=False, table_column=unbroken[0]),
            BarColumn(width),
            _Words(unbroken[1]),
        )
        # stdout is not redirected: a program may read it while a person watches stderr
        self._lines = Lines(*columns, console=console, transient=True, redirect_stdout=False)
        self._task: TaskID | None = None

    def begin(self, pace: Pace) -> None:
        self._lines.start()
        total = pace.step.total or None  # rich's word for unknown
        self._task = self._lines.add_task(pace.step.title, total=total, pace=pace)

    def move(self, pace: Pace) -> None:
        assert self._task is not None
        self._lines.update(self._task, completed=pace.step.done)

    def end(self, pace: Pace) -> None:
        assert self._task is not None
        self._lines.remove_task(self._task)

    def close(self) -> None:
        self._lines.stop()


class _Words(ProgressColumn):
    """What is done of a task's step, how fast, and the time left."""

    def render(self, task: Task) -> Text:
        pace: Pace = task.fields["pace"]
        return Text(_line(pace.step.amount, pace))


class _Log:
    """Lines on stderr, of steps that take long alone."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None
        self._told = False

    def begin(self, pace: Pace) -> None:
        self._told = False
        self._timer = _timer(LONG, lambda: self._tell(pace))

    def _tell(self, pace: Pace) -> None:
        self._told = True
        _say(_line(f"{pace.step} …", pace))

    def move(self, pace: Pace) -> None:
        pass

    def end(self, pace: Pace) -> None:
        if self._timer:  # none where Ctrl-C came as the step began
            self._timer.cancel()
        if self._told:
            _say(_summary(pace))

    def close(self) -> None:
        pass


class _Notebook:
    """One output of the cell that runs, updated in place."""

    def __init__(self) -> None:
        self._cell: object = None
        self._lines: list[str] = []
        self._shown = 0.0
        self._output: Any = None  # IPython's handle of the output

    def begin(self, pace: Pace) -> None:
        if (cell := _kernel_cell()) != self._cell:
            self._cell, self._lines, self._output = cell, [], None
        self._draw(str(pace.step))

    def move(self, pace: Pace) -> None:
        if time.monotonic() - self._shown >= INTERVAL:
            self._draw(_line(str(pace.step), pace))

    def end(self, pace: Pace) -> None:
        self._lines.append(_summary(pace))
        self._draw()

    def close(self) -> None:
        pass

    def _draw(self, *last: str) -> None:
        from IPython.display import display

        content = {"text/plain": "\n".join([*self._lines, *last])}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)
        self._shown = time.monotonic()


class _File:
    """The step at hand in a small file, for a process that watches this one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._latest: Pace | None = None
        self._waiting = False
        self._written = 0.0

    def begin(self, pace: Pace) -> None:
        self.move(pace)

    def move(self, pace: Pace) -> None:
        """Write soon: what comes in between goes into the same writing."""
        with self._lock:
            self._latest = pace
            if self._waiting:
                return
            self._waiting = True
        wait = self._written + INTERVAL - time.monotonic()
        if wait > 0:
            _timer(wait, self._write)
        else:
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._waiting, pace = False, self._latest
            self._written = time.monotonic()
        if pace:
            with contextlib.suppress(OSError):  # no room, or no folder: the work itself will say so
                files.write(self._path, Snapshot.of(pace).to_json(), durable=False)

    def end(self, pace: Pace) -> None:
        self.move(pace)

    def close(self) -> None:
        with self._lock:
            self._latest = None
        self._path.unlink(missing_ok=True)


def _view() -> View:
    if _kernel_cell() is not None:
        return _Notebook()
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return _Terminal() if is_terminal else _Log()


def _kernel_cell() -> object:
    """The number of the notebook's cell that runs; None outside of a kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell.execution_count if shell and hasattr(shell, "kernel") else None


def _line(start: str, pace: Pace) -> str:
    """A line that goes on with the speed and the time left, as far as they are known."""
    seconds = pace.left(time.monotonic())
    left = "" if seconds is None else f"{clock(seconds)} left"
    return ", ".join(filter(None, (start, pace.rate, left)))


def _summary(pace: Pace) -> str:
    """How much a step did, and how long that took: ``int8 · writing: 98.0 MB in 0:04``."""
    return f"{pace.step} in {clock(time.monotonic() - pace.began)}"


def _timer(seconds: float, call: Any) -> threading.Timer:
    timer = threading.Timer(seconds, call)
    timer.daemon = True  # the program may end before
    timer.start()
    return timer


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
