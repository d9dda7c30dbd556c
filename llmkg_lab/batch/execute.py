"""Executes one variant's notebook: the program that the workflow's rule starts.

    python -m llmkg_lab.batch.execute notebooks/minilm.ipynb outputs/minilm/all_minilm_l6_v2

The folder holds run.yaml, whose ``parameters`` the notebook takes. While the notebook runs it is
saved there as running.ipynb. A run that ends well leaves report.ipynb and report.html, one that
fails leaves failed.ipynb, and one that is interrupted leaves nothing.
"""

import os
import sys
from pathlib import Path

import nbformat
import papermill
import yaml
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from llmkg_lab.base import bar, files
from llmkg_lab.batch.notebook import (
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


def execute(template: Path, folder: Path) -> None:
    """Run ``template`` with the parameters of the folder's run.yaml and keep its report.

    Raises NotebookError where it fails, having kept failed.ipynb.
    """
    running = folder / RUNNING
    _clear(folder)
    try:
        _run(template, running)
        _publish(running, folder)
    except Exception as error:
        failure = _keep_failed(template, running, folder / FAILED, error)
        raise NotebookError(f"{folder}: {failure}", f"open {folder / FAILED}") from error
    finally:
        running.unlink(missing_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what an earlier run left, a killed one included; whole artifacts stay."""
    for name in (RUNNING, PROGRESS, FAILED, REPORT, "report.html", "result.json"):
        (folder / name).unlink(missing_ok=True)
    for half_written in (folder / "artifacts").glob(".*"):
        files.remove(half_written)


def _run(template: Path, running: Path) -> None:
    folder = running.parent
    papermill.execute_notebook(
        template,
        running,
        yaml.safe_load((folder / PLAN).read_text())["parameters"],
        cwd=template.parent,  # as Jupyter opens it
        progress_bar=False,
        report_mode=True,  # code cells are folded
    )
    if not (folder / "result.json").is_file():
        raise NotebookError(f"{template.name} wrote no result.json")


def _publish(running: Path, folder: Path) -> None:
    notebook: NotebookNode = nbformat.read(running, as_version=4)
    # Of what a library prints over and over in one line the last state alone
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    exporter = HTMLExporter(exclude_input=True, exclude_output_prompt=True)
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": folder.name}})
    files.write(folder / "report.html", html)
    _write(notebook, folder / REPORT)


def _write(notebook: NotebookNode, target: Path) -> None:
    files.write(target, nbformat.writes(notebook) + "\n")


def _keep_failed(template: Path, running: Path, target: Path, error: Exception) -> Failure:
    """Write the notebook as far as it came, with the failure in its metadata."""
    notebook: NotebookNode = nbformat.read(running if running.exists() else template, as_version=4)
    failure = describe(notebook, error)
    record_failure(notebook, failure)
    _write(notebook, target)
    return failure


if __name__ == "__main__":
    asked = Path(sys.argv[1]), Path(sys.argv[2])
    os.environ[bar.FILE] = str(asked[1].resolve() / PROGRESS)  # the kernel inherits it
    try:
        execute(*asked)
    except NotebookError as error:
        sys.exit(str(error))
