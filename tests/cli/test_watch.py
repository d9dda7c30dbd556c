"""The batch where there is no terminal: a line for each step, and each minute of a long one."""

import re
import time
from datetime import UTC, datetime, timedelta

import nbformat
import pytest

from llmkg_lab.base.progress import Snapshot
from llmkg_lab.batch import jobs, notebook
from llmkg_lab.cli import watch
from llmkg_lab.roster.catalog import find_variant

STEPS = ("setup", "convert", "verdict")
LAYERS = "balanced · layers: {} of 30 layers"


@pytest.fixture
def job(tmp_path):
    """One that converts since two seconds ago."""
    variant = find_variant("all_minilm_l6_v2")
    (job,) = jobs.plan([variant], tmp_path, schemes=["int8-rtn"], settings={"quick": False})
    job.work.mkdir(parents=True)
    start = datetime.now(UTC) - timedelta(seconds=2)
    cells = [nbformat.v4.new_code_cell(f"# papermill_description={step}") for step in STEPS]
    cells[0].metadata["papermill"] = {"status": "completed", "duration": 1.0}
    cells[1].metadata["papermill"] = {"status": "running", "start_time": start.isoformat()}
    papermill = {"start_time": start.isoformat()}
    running = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": papermill})
    nbformat.write(running, job.work / notebook.RUNNING)
    return job


def comes_to(job, layer):
    snapshot = Snapshot(LAYERS.format(layer), each=4.0, units=30 - layer, at=time.time())
    (job.work / notebook.PROGRESS).write_text(snapshot.to_json())


def test_a_long_step_tells_each_minute_how_far_it_is(job, monkeypatch, capsys):
    now = 1_000.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)

    def said(layer):
        comes_to(job, layer)
        report()
        return capsys.readouterr().err

    with watch.watching([job]) as report:
        report()
        first = capsys.readouterr().err
        assert re.search(r"running · 2/3 · convert · 0:\d\d · time left unknown\n", first)
        assert said(1) == ""
        now += 59
        assert said(14) == ""
        now += 1
        assert re.search(
            rf"2/3 · convert: {LAYERS.format(15)} · .* · time left ≥ \d:\d\d\n", said(15)
        )
        now += 59
        assert said(29) == ""
