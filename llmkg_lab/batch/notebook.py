"""A family's notebook as the batch sees it: its parameters, how far a run is, why it failed.

While papermill runs a notebook it saves it before and after each cell, with the cell's state in
its metadata. That file is all the batch knows of a run, and all it needs.
"""

import difflib
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from llmkg_lab.base import paths
from llmkg_lab.base.errors import LabError

PLAN = "run.yaml"  # what to run: the notebook's parameters, and the variant in full
BATCH = "LLMKG_LAB_BATCH"  # the process that started a run, in its environment: number:start
WORK = ".batch"  # in the outputs folder: where runs work, one folder per report
DONE = "done"  # a stamp: what run.yaml asks for has been made
PROGRESS = "progress.json"  # the step at hand in the cell at hand, as base.bar writes it
STATES = RUNNING, FAILED, REPORT = "running.ipynb", "failed.ipynb", "report.ipynb"
OTHERS = {"explore", "llmkg"}  # notebooks that are not a family's
# what a notebook raises that is not there, half written, or of another shape
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
METADATA = "llmkg_lab"  # our key in a failed notebook's metadata


class NotebookError(LabError):
    """A notebook that is missing, that does not take a parameter, or that failed."""


@dataclass(frozen=True)
class Cell:
    """A code cell: the step that it names, and the seconds that it took; None if it is not done."""

    step: str
    seconds: float | None


@dataclass(frozen=True)
class Run:
    """How far a run is: when it began, and when it entered the cell at hand."""

    cells: tuple[Cell, ...]
    started: datetime
    entered: datetime

    @property
    def at(self) -> int:
        """The index of the cell at hand; of a run that is done, the last."""
        done = sum(cell.seconds is not None for cell in self.cells)
        return min(done, len(self.cells) - 1)

    @property
    def step(self) -> str:
        """The step at hand."""
        return self.cells[self.at].step

    def seconds(self) -> float:
        """Since the run began."""
        return (datetime.now(UTC) - self.started).total_seconds()


@dataclass(frozen=True)
class Failure:
    """Where a run stopped, and the error in one line."""

    cell: int  # code cells are counted as Jupyter counts them: In [cell]
    step: str
    error: str

    def __str__(self) -> str:
        step = f" ({self.step})" if self.step else ""
        return f"cell {self.cell}{step}: {self.error}" if self.cell else self.error


def template(family: str) -> Path:
    """The family's notebook. Raises NotebookError where there is none."""
    path = paths.notebooks() / f"{family}.ipynb"
    if not path.is_file():
        families = sorted(p.stem for p in paths.notebooks().glob("*.ipynb") if p.stem not in OTHERS)
        raise NotebookError(
            f"{path}: the family {family} has no notebook",
            f"there are notebooks for {', '.join(families) or 'no family'}",
        )
    return path


def check_parameters(notebook: Path, names: Collection[str]) -> None:
    """Refuse names that the notebook's ``parameters`` cell lacks; papermill would only warn."""
    from papermill import inspect_notebook  # a second of imports

    known = inspect_notebook(notebook)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}"
            raise NotebookError(f"{notebook.name} has no parameter {name!r}", hint)


def read(path: Path) -> dict | None:
    """Read a notebook; None where there is none that can be read, for papermill may be writing."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def run_of(path: Path) -> Run | None:
    """How far the run that saves ``path`` is; None where nothing can be read (yet)."""
    try:
        notebook = json.loads(path.read_bytes())
        started = datetime.fromisoformat(notebook["metadata"]["papermill"]["start_time"])
        times = [_papermill(cell).get("start_time") for cell in code_cells(notebook)]
        entered = max([started, *map(datetime.fromisoformat, filter(None, times))])
    except UNREADABLE:  # papermill may just be writing it
        return None
    return Run(tuple(cells(notebook)), started, entered)


def parameters(notebook: dict) -> dict | None:
    """The parameters that a run was given; None of a notebook that was not run."""
    return notebook["metadata"].get("papermill", {}).get("parameters")


def cells(notebook: dict) -> list[Cell]:
    """The code cells of a run."""
    return [Cell(step(cell), _seconds(cell)) for cell in code_cells(notebook)]


def describe(notebook: dict, error: BaseException) -> Failure:
    """Where a notebook that papermill gave up stopped: its last cell that was started."""
    cells = code_cells(notebook)
    started = [i for i, cell in enumerate(cells) if _papermill(cell).get("start_time")]
    if not started:
        return Failure(0, "", _one_line(type(error).__name__, str(error)))
    last = cells[started[-1]]
    for output in last["outputs"]:
        if output["output_type"] == "error":
            line = _one_line(output["ename"], output["evalue"])
            return Failure(started[-1] + 1, step(last), line)
    return Failure(started[-1] + 1, step(last), _one_line(type(error).__name__, str(error)))


def record_failure(notebook: dict, failure: Failure) -> None:
    """Write the failure into the notebook's metadata, from which ``failure`` reads it."""
    notebook["metadata"][METADATA] = asdict(failure)


def failure(path: Path) -> Failure | None:
    """What ``record_failure`` wrote into the notebook at ``path``, if there is one."""
    try:
        return Failure(**json.loads(path.read_bytes())["metadata"][METADATA])
    except UNREADABLE:
        return None


def code_cells(notebook: dict) -> list[dict]:
    """The cells that are executed, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def step(cell: dict) -> str:
    """The step that a cell names in a comment, as papermill's own progress bar shows it."""
    found = re.search(r"# papermill_description=(\S+)", "".join(cell["source"]))
    return found[1] if found else ""


def _seconds(cell: dict) -> float | None:
    known = _papermill(cell)
    return known.get("duration") if known.get("status") == "completed" else None


def _papermill(cell: dict) -> dict:
    return cell["metadata"].get("papermill", {})


def _one_line(name: str, text: str) -> str:
    return " ".join(f"{name}: {text}".split())
