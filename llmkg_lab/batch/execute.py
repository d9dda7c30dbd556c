"""Executes one variant's notebook: the program that the workflow's rule starts.

    python -m llmkg_lab.batch.execute notebooks/minilm.ipynb .batch/minilm/x minilm/x

The second folder is where it works. It holds run.yaml, whose ``parameters`` the notebook takes;
while the notebook runs it is saved there as running.ipynb, and its artifacts and figures come to
lie in ``new``. A run that ends well puts ``new``, with report.ipynb and report.html, in the place
of the third folder, whole. One that fails leaves failed.ipynb there, beside what an earlier run
made; one that is interrupted leaves nothing there, and the next one goes on with its artifacts.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import psutil
import yaml
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from llmkg_lab.base import bar, files
from llmkg_lab.batch.notebook import (
    BATCH,
    FAILED,
    PLAN,
    PROGRESS,
    REPORT,
    RUNNING,
    Failure,
    NotebookError,
    describe,
    record_failure,
)
from llmkg_lab.report import page

NEW = "new"
MADE = {REPORT, FAILED, PLAN, "report.html", "result.json", "artifacts"}
POLL = 1.0  # seconds


def execute(template: Path, work: Path, folder: Path) -> None:
    """Run ``template`` with the parameters of run.yaml in ``work``, and publish its report.

    Raises NotebookError where it fails, having kept failed.ipynb in ``folder``.
    """
    with _alone(work):
        _prepare(work, folder)
        try:
            _run(template, work)
            _render(work, folder)
            _publish(work, folder)
        except Exception as error:
            failure = _keep_failed(template, work, folder, error)
            raise NotebookError(f"{folder}: {failure}", f"open {folder / FAILED}") from error
        finally:
            for name in (RUNNING, PROGRESS):
                (work / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold a folder to one run: a batch that was killed may have left one behind."""
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotebookError(f"another run is at work in {work}", "wait for it") from None
        yield


def _prepare(work: Path, folder: Path) -> None:
    """Begin with the whole artifacts that are there: an interrupted run's, then the published."""
    artifacts = work / NEW / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    for left in (*(work / NEW).iterdir(), *artifacts.glob(".*"), work / RUNNING, work / PROGRESS):
        if left != artifacts:
            files.remove(left)
    for published in (folder / "artifacts").glob("[!.]*/"):
        if not (artifacts / published.name).exists():
            files.link_tree(published, artifacts / published.name)


def _run(template: Path, work: Path) -> None:
    parameters = yaml.safe_load((work / PLAN).read_text())["parameters"]
    papermill.execute_notebook(
        template,
        work / RUNNING,
        {**parameters, "out": str(work / NEW)},
        cwd=template.parent,  # as Jupyter opens it
        progress_bar=False,
        report_mode=True,  # code cells are folded
    )
    if not (work / NEW / "result.json").is_file():
        raise NotebookError(f"{template.name} wrote no result.json")


def _render(work: Path, folder: Path) -> None:
    """Make the report of the notebook that was run: as if it had run where it will lie."""
    text = (work / RUNNING).read_text()
    text = text.replace(json.dumps(str(work / NEW))[1:-1], json.dumps(str(folder))[1:-1])
    notebook: NotebookNode = nbformat.reads(text, as_version=4)
    # Of what a library prints over and over in one line the last state alone
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    files.write(work / NEW / "report.html", page.render(notebook, folder.name))
    _write(notebook, work / NEW / REPORT)
    shutil.copyfile(work / PLAN, work / NEW / PLAN)


def _publish(work: Path, folder: Path) -> None:
    """Put the new folder in the place of the old one; what a user keeps there stays."""
    new = work / NEW
    for kept in folder.iterdir() if folder.is_dir() else ():
        if kept.name not in MADE and not (new / kept.name).exists():
            copy = files.link_tree if kept.is_dir() else shutil.copy2
            copy(kept, new / kept.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    files.exchange(new, folder)
    files.remove(new)


def _write(notebook: NotebookNode, target: Path) -> None:
    files.write(target, nbformat.writes(notebook) + "\n")


def _keep_failed(template: Path, work: Path, folder: Path, error: Exception) -> Failure:
    """Write the notebook as far as it came, with the failure in its metadata."""
    running = work / RUNNING
    notebook: NotebookNode = nbformat.read(running if running.exists() else template, as_version=4)
    failure = describe(notebook, error)
    record_failure(notebook, failure)
    folder.mkdir(parents=True, exist_ok=True)
    _write(notebook, folder / FAILED)
    return failure


def _end_with(batch: str) -> None:
    """End this process when the batch that started it is gone, killed without a word.

    The kernel, in turn, watches this process.
    """
    number, started = batch.split(":")
    while True:
        time.sleep(POLL)
        try:
            is_there = psutil.Process(int(number)).create_time() == float(started)
        except psutil.NoSuchProcess:
            is_there = False
        if not is_there:
            os.kill(os.getpid(), signal.SIGINT)
            return


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start jobs without it
    template, work, folder = Path(sys.argv[1]), *(Path(path).resolve() for path in sys.argv[2:4])
    os.environ[bar.FILE] = str(work / PROGRESS)  # the kernel inherits it
    if batch := os.environ.get(BATCH):
        threading.Thread(target=_end_with, args=[batch], daemon=True).start()
    try:
        execute(template, work, folder)
    except NotebookError as error:
        sys.exit(str(error))
