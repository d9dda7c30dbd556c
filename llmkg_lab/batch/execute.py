"""Executes one variant's notebook: the program that the workflow's rule starts.

    python -m llmkg_lab.batch.execute notebooks/minilm.ipynb outputs/minilm/all_minilm_l6_v2

The folder holds run.yaml, whose ``parameters`` the notebook takes. While the notebook runs it is
saved there as running.ipynb. A run that ends well leaves report.ipynb and report.html, one that
fails leaves failed.ipynb, and one that is interrupted leaves nothing.
"""

import shutil
import sys
from pathlib import Path

import nbformat
import papermill
import yaml
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from llmkg_lab.batch.notebook import (
    FAILED,
    PLAN,
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


def _clear(folder: Path) -> None:
    """Remove what an earlier run left, a killed one included; whole artifacts stay."""
    for name in (RUNNING, FAILED, REPORT, "report.html", "result.json"):
        (folder / name).unlink(missing_ok=True)
    for half_written in (folder / "artifacts").glob(".*"):
        shutil.rmtree(half_written, ignore_errors=True)


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
    # Of a progress bar the last state alone, as a terminal shows it
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    exporter = HTMLExporter(exclude_input=True, exclude_output_prompt=True)
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": folder.name}})
    temporary = folder / ".report.html"
    temporary.write_text(html)
    temporary.replace(folder / "report.html")
    _write(notebook, folder / REPORT)


def _write(notebook: NotebookNode, target: Path) -> None:
    """Whole or not at all."""
    temporary = target.with_name(f".{target.name}")
    nbformat.write(notebook, temporary)
    temporary.replace(target)


def _keep_failed(template: Path, running: Path, target: Path, error: Exception) -> Failure:
    """Write the notebook as far as it came, with the failure in its metadata."""
    notebook: NotebookNode = nbformat.read(running if running.exists() else template, as_version=4)
    failure = describe(notebook, error)
    record_failure(notebook, failure)
    _write(notebook, target)
    return failure


if __name__ == "__main__":
    try:
        execute(Path(sys.argv[1]), Path(sys.argv[2]))
    except NotebookError as error:
        sys.exit(str(error))
