"""How far work is: one channel from the innermost loop to whoever watches.

What may take long has a parameter ``progress``, hands it on to what it calls, and calls it with a
``Step`` when a step begins, after each unit of it, and when it is done. What ``progress`` raises
stops the work there. It should raise a BaseException that is not an Exception, as Ctrl-C does:
between the loop and the watcher, nothing takes that for a failure of its own.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """A step of some work, and how far it is.

    Args:
        name: what is done, such as "calibration".
        unit: what is counted, in the plural: bytes, layers, windows; "" where nothing is.
        done: units that are done.
        total: units in all; 0 where that is unknown.
        within: what the step is a part of, the outermost first, such as ("int4-gptq",).
    """

    name: str
    unit: str = ""
    done: int = 0
    total: int = 0
    within: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The step with what it is a part of: ``int4-gptq · calibration``."""
        return " · ".join((*self.within, self.name))

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1; 0 where the total is unknown."""
        return min(self.done / self.total, 1.0) if self.total else 0.0

    @property
    def is_over(self) -> bool:
        """Whether all units are done."""
        return 0 < self.total <= self.done

    @property
    def amount(self) -> str:
        """How much is done, in words: ``12 of 30 layers``, ``30 layers``, ``4.1 of 98.0 MB``."""
        if not self.unit:
            return ""
        scale, unit = _scale(max(self.done, self.total), self.unit)
        shown = [f"{n / scale:,.1f}" if scale > 1 else f"{n:,}" for n in (self.done, self.total)]
        of = f" of {shown[1]}" if self.done < self.total else ""
        return f"{shown[0]}{of} {unit}"

    def __str__(self) -> str:
        return f"{self.title}: {self.amount}" if self.amount else self.title


Progress = Callable[[Step], object]
ONE = {"processes": "process"}  # what loses more than its last letter where there is one alone


def silent(step: Step) -> None:
    """The progress that nobody watches."""


def inside(progress: Progress, name: str) -> Progress:
    """Return the progress to hand to a part of the work, whose steps are then steps of ``name``."""
    return lambda step: progress(replace(step, within=(name, *step.within)))


class Counter:
    """A step that counts its units; it begins when the counter is made."""

    def __init__(self, progress: Progress, name: str, unit: str, total: int) -> None:
        self.step = Step(name, unit, 0, total)
        self._progress = progress
        self._lock = threading.Lock()
        progress(self.step)

    def advance(self, units: int = 1) -> None:
        """Note that so many more units are done. May be called from any thread."""
        with self._lock:
            self._reach(self.step.done + units)

    def reach(self, done: int) -> None:
        """Note that so many units are done in all; fewer than before tell nothing new."""
        with self._lock:
            self._reach(done)

    def finish(self) -> None:
        """Note that the step is over, where rounding has left something of it."""
        self.reach(self.step.total)

    def _reach(self, done: int) -> None:
        if done > self.step.done:
            self.step = replace(self.step, done=done)
            self._progress(self.step)


def track(items: Sequence[T], progress: Progress, name: str, unit: str) -> Iterator[T]:
    """Go through ``items``, each a unit of one step; of no items, nothing is reported."""
    if len(items):
        counter = Counter(progress, name, unit, len(items))
        for item in items:
            yield item
            counter.advance()


class Pace:
    """The speed of one step, from the moments when its units were done.

    Units that came at once, as from a cache, tell nothing of those to come: where one takes longer
    than all before it together, the speed is counted from there.

    Args:
        now: seconds on any clock that does not go back, here and below.
    """

    def __init__(self, step: Step, now: float) -> None:
        self.step = step
        self.began = self.changed = now  # changed: when the last unit was done
        self._origin = (now, step.done)

    def is_of(self, step: Step) -> bool:
        """Whether ``step`` goes on with this one, and is not another or the same anew."""
        mine, other = (replace(s, done=0) for s in (self.step, step))
        return mine == other and step.done >= self.step.done

    def reach(self, step: Step, now: float) -> None:
        """Note how far the step is."""
        if step.done > self.step.done:
            if now - self.changed > self.changed - self._origin[0]:
                self._origin = (self.changed, self.step.done)
            self.step, self.changed = step, now

    @property
    def each(self) -> float | None:
        """Seconds a unit takes; None before that is known."""
        units = self.step.done - self._origin[1]
        return (self.changed - self._origin[0]) / units if units else None

    def left(self, now: float) -> float | None:
        """Seconds until the step is over; None while that is unknown."""
        if self.each is None or not self.step.total:
            return None
        return seconds_left(self.each, self.step.total - self.step.done, now - self.changed)

    @property
    def rate(self) -> str:
        """The speed in words: ``134.2 MB/s``, ``8.1 layers/s``, ``4.2 s each``, or nothing."""
        if not self.each:
            return ""
        scale, unit = _scale(1 / self.each, self.step.unit)
        return (
            f"{1 / self.each / scale:,.1f} {unit}/s" if self.each < 1 else f"{self.each:.1f} s each"
        )


def seconds_left(each: float, units: int, since: float) -> float:
    """Seconds that ``units`` still take, at ``each`` seconds, ``since`` seconds into the first.

    However long the first takes, the time left is never less than that of the units behind it.
    """
    return max(each * units - since, each * max(units - 1, 0))


@dataclass(frozen=True)
class Snapshot:
    """A step at one moment, for another process to read: a small file that is written anew.

    Args:
        each: seconds a unit takes, None where that is unknown yet.
        units: how many are still to do.
        at: when the last of them was done, or the step began, in seconds since the epoch.
    """

    step: str
    each: float | None
    units: int
    at: float

    @classmethod
    def of(cls, pace: Pace) -> Self:
        """The step as ``pace`` knows it."""
        step = pace.step
        at = time.time() - (time.monotonic() - pace.changed)
        return cls(str(step), pace.each, max(0, step.total - step.done), at)

    def left(self, now: float) -> float | None:
        """Seconds until the step is over; ``now`` as ``at``. None where that is unknown."""
        return None if self.each is None else seconds_left(self.each, self.units, now - self.at)

    def to_json(self) -> str:
        """The content of the file."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read the file; None where there is none, or one that another program wrote."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


def clock(seconds: float) -> str:
    """Minutes and seconds, hours where there are some: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _scale(count: float, unit: str) -> tuple[float, str]:
    """What to divide a count by, and the name of its unit then."""
    if unit != "bytes":
        return 1, ONE.get(unit, unit.removesuffix("s")) if count == 1 else unit
    return next(s for s in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, unit)) if count >= s[0])
