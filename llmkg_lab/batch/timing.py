"""How long a run still takes, and when nobody can know.

Two sources tell: the last report of the same kind, cell by cell, and the step at hand, which counts
its own units. Of a run that is the first of its kind the first is missing: then what is known is
the least that it takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from llmkg_lab.base.progress import Snapshot, clock
from llmkg_lab.batch import notebook
from llmkg_lab.batch.notebook import Cell, Run
from llmkg_lab.roster.catalog import Variant

TELLING = 1.0  # seconds of a cell that is long enough to compare two runs by
ENOUGH = 3  # such cells, so that one that was served from a cache does not count


@dataclass(frozen=True)
class Left:
    """Seconds until a run is done; ``at_least`` where more is to come of which nothing is known."""

    seconds: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'≥ ' if self.at_least else ''}{clock(self.seconds)}"


def expected(
    folder: Path, parameters: Mapping[str, object], variant: Variant
) -> tuple[Cell, ...] | None:
    """Return the cells of the last report where it was of the same kind, else None.

    Of the same kind is a run of the same variant, sources and schemes among it, with the same
    parameters: a quick run tells nothing of a whole one, nor one scheme of another.
    """
    wanted = _plain({"variant": asdict(variant), "parameters": dict(parameters)})
    report = notebook.read(folder / notebook.REPORT)
    if report is None or notebook.parameters(report) != wanted["parameters"]:
        return None
    try:
        last = yaml.safe_load((folder / notebook.PLAN).read_text())
        same = last["variant"] == wanted["variant"]
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return None
    cells = notebook.cells(report)
    return tuple(cells) if same and all(cell.seconds is not None for cell in cells) else None


def left(
    run: Run, expected: Sequence[Cell] | None, step: Snapshot | None, now: datetime
) -> Left | None:
    """Return how long ``run`` still takes; None where nothing is known.

    Never less than the step at hand alone says. A run that is slower than the last one so far is
    taken to stay so.

    Args:
        expected: the cells of the last run of the same kind.
        step: the step at hand, in the cell at hand.
    """
    own = (step.left(now.timestamp()) if step else None) or 0.0
    names = [cell.step for cell in run.cells]
    if expected is None or [cell.step for cell in expected] != names:
        return Left(own, at_least=True) if own else None
    slower = _slower(run.cells, expected)
    planned, *later = [slower * (cell.seconds or 0.0) for cell in expected[run.at :]]
    spent = (now - run.entered).total_seconds()
    seconds = max(planned - spent, own) + sum(later)
    overdue = spent > planned
    return None if overdue and not seconds else Left(seconds, at_least=overdue)


def _slower(cells: Sequence[Cell], expected: Sequence[Cell]) -> float:
    """How many times as long this run takes as the last one, by its finished cells; 1 at least."""
    ratios = [
        cell.seconds / then.seconds
        for cell, then in zip(cells, expected, strict=True)
        if cell.seconds is not None and then.seconds is not None and then.seconds >= TELLING
    ]
    return max(1.0, median(ratios)) if len(ratios) >= ENOUGH else 1.0


def _plain(value: object) -> Any:
    """What of ``value`` a YAML file keeps: a tuple comes back as a list."""
    return yaml.safe_load(yaml.safe_dump(value))
