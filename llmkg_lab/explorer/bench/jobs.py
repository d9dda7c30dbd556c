"""Work in the background: one thing at a time, with progress, time left, and a way to stop it.

Measurements share the machine's cores, so a queue of one worker keeps their times honest and
the interface alive. Work is stopped where it reports progress: what it had already put into
the cache is kept, and nothing half written is left.
"""

import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Pace, Step

INTERVAL = 0.1  # seconds between two reports of progress to the interface

WAITING, RUNNING, DONE, CANCELLED, FAILED = "waiting", "running", "done", "cancelled", "failed"
FINISHED = (DONE, CANCELLED, FAILED)

Work = Callable[["Job"], Any]


class Cancelled(BaseException):  # no error, as Ctrl-C is none: somebody pressed a button
    """Raised inside of work that was cancelled, where it reports progress."""


class Job:
    """One piece of work: ``state``, how far it is, and what came of it.

    work: called with the job, on the worker's thread; it calls ``job.progress`` often.
    changed: called with the job whenever there is something new to show, on any thread.
    """

    def __init__(self, title: str, work: Work, changed: Callable[["Job"], None]) -> None:
        self.title = title
        self.state = WAITING
        self.pace = Pace(Step(title), 0.0)
        self.result: Any = None
        self.error = ""
        self._work = work
        self._changed = changed
        self._cancelled = threading.Event()
        self._finished = threading.Event()
        self._reported = 0.0

    def progress(self, step: Step) -> None:
        """Take note of how far the work is. Raises Cancelled where it is to stop."""
        if self._cancelled.is_set():
            raise Cancelled(self.title)
        now = time.monotonic()
        is_new = not self.pace.is_of(step)
        if is_new:
            self.pace = Pace(step, now)
        else:
            self.pace.reach(step, now)
        if is_new or step.is_over or now - self._reported >= INTERVAL:
            self._reported = now
            self._changed(self)

    @property
    def fraction(self) -> float:
        """How much of the present step is done, 0 to 1."""
        return self.pace.step.fraction

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the present step is over; None while that is unknown."""
        return self.pace.left(time.monotonic()) if self.state == RUNNING else None

    def cancel(self) -> None:
        """Stop at the next report of progress; work that waits does not begin."""
        self._cancelled.set()
        if self.state == WAITING:
            self._end(CANCELLED)

    def wait(self, timeout: float | None = None) -> "Job":
        """Until the job has finished, one way or another. Raises TimeoutError."""
        if not self._finished.wait(timeout):
            raise TimeoutError(f"{self.title} takes longer than {timeout:g} s")
        return self

    def run(self) -> None:
        """Do the work on the calling thread."""
        if self.state != WAITING:
            return
        self.state = RUNNING
        self._changed(self)
        try:
            self.result = self._work(self)
        except Cancelled:
            self._end(CANCELLED)
        except LabError as error:
            self._fail(str(error))
        except Exception as error:  # a fault of ours: shown, and told in full in the log
            traceback.print_exc()
            self._fail(f"{type(error).__name__}: {error}")
        else:
            self._end(DONE)

    def _fail(self, error: str) -> None:
        self.error = error
        self._end(FAILED)

    def _end(self, state: str) -> None:
        self.state = state
        try:
            self._changed(self)
        finally:
            self._finished.set()


class Worker:
    """A thread that takes jobs one after another."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "explorer")
        self._jobs: list[Job] = []

    def start(self, job: Job) -> Job:
        """Put a job at the end of the queue."""
        self._jobs = [other for other in self._jobs if other.state not in FINISHED]
        self._jobs.append(job)
        self._pool.submit(job.run)
        return job

    def cancel_all(self) -> None:
        """Stop what runs and drop what waits."""
        for job in self._jobs:
            job.cancel()

    def close(self) -> None:
        """Stop everything and end the thread."""
        self.cancel_all()
        self._pool.shutdown(wait=True)


def describe(job: Job) -> str:
    """The job's state in a line: ``int8 · writing: 40 %, about 5 s left``."""
    if job.state == WAITING:
        return f"{job.title}: waiting for its turn"
    if job.state == DONE:
        return f"{job.title}: done"
    if job.state == CANCELLED:
        return f"{job.title}: cancelled; what was finished is kept"
    if job.state == FAILED:
        return job.error
    left = job.seconds_left
    ending = "" if left is None else f", about {duration(left)} left"
    step = job.pace.step
    return f"{step.title}: {100 * step.fraction:.0f} %{ending}" if step.total else f"{step.title} …"


def duration(seconds: float) -> str:
    """Seconds for people: ``8 s``, ``1 min 20 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
