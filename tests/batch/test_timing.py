"""Time left: what the last run of the same kind tells, what the step at hand tells, and no more."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import nbformat
import pytest
import yaml

from llmkg_lab.base.progress import Snapshot
from llmkg_lab.batch import jobs, notebook, timing
from llmkg_lab.batch.notebook import Cell, Run
from llmkg_lab.batch.timing import Left, left
from llmkg_lab.roster.catalog import find_variant

STARTED = datetime(2025, 6, 1, 12, tzinfo=UTC)
STEPS = ("setup", "fetch", "convert", "", "reference", "verdict")
LAST = tuple(map(Cell, STEPS, (4.0, 2.0, 100.0, 1.0, 60.0, 3.0)))


def run_at(*taken):
    """A run whose first cells took so many seconds, and which has just entered the next."""
    cells = [Cell(step, seconds) for step, seconds in zip(STEPS, taken, strict=False)]
    cells += [Cell(step, None) for step in STEPS[len(taken) :]]
    return Run(tuple(cells), STARTED, STARTED + timedelta(seconds=sum(taken)))


def later(run, seconds):
    return run.entered + timedelta(seconds=seconds)


def step_at(now, each, units):
    return Snapshot("int4-gptq · calibration", each, units, now.timestamp())


def test_the_last_run_of_the_same_kind_tells_cell_by_cell():
    run = run_at(4, 2)
    assert left(run, LAST, None, later(run, 0)) == Left(164)
    assert left(run, LAST, None, later(run, 30)) == Left(134)
    assert str(left(run, LAST, None, later(run, 30))) == "2:14"


def test_the_step_at_hand_is_believed_where_it_says_more():
    run = run_at(4, 2)
    now = later(run, 30)
    assert left(run, LAST, step_at(now, each=4.0, units=25), now) == Left(100 + 64)
    assert left(run, LAST, step_at(now, each=4.0, units=5), now) == Left(70 + 64)
    late = step_at(now - timedelta(seconds=500), each=4.0, units=25)  # its layer takes for ever
    assert left(run, LAST, late, now) == Left(96 + 64)


def test_of_a_first_run_the_least_is_told_or_nothing():
    run = run_at(4, 2)
    now = later(run, 30)
    assert left(run, None, None, now) is None
    told = left(run, None, step_at(now, each=4.0, units=25), now)
    assert (told, str(told)) == (Left(100, at_least=True), "≥ 1:40")
    assert left(run, None, step_at(now, each=None, units=25), now) is None
    assert left(run, LAST[1:], None, now) is None  # another notebook


def test_what_takes_longer_than_last_time_is_not_nearly_done():
    run = run_at(4, 2)
    now = later(run, 130)
    assert left(run, LAST, None, now) == Left(64, at_least=True)
    assert left(run, LAST, step_at(now, each=4.0, units=25), now) == Left(164, at_least=True)
    last = run_at(4, 2, 100, 1, 60)
    assert left(last, LAST, None, later(last, 5)) is None


def test_a_slower_run_stays_slower_but_one_cell_alone_tells_nothing():
    slower = run_at(8, 4, 200)
    assert left(slower, LAST, None, later(slower, 0)) == Left(2 * 64)
    cached = run_at(4, 2, 0.1)  # artifacts were there already
    assert left(cached, LAST, None, later(cached, 0)) == Left(64)
    first = run_at(8, 4)
    assert left(first, LAST, None, later(first, 0)) == Left(164)


@pytest.fixture
def job(tmp_path):
    """A variant's job, and the plan and report that a run of it left."""
    variant = find_variant("all_minilm_l6_v2")
    (job,) = jobs.plan([variant], tmp_path, schemes=["int8-rtn"], settings={"quick": False})
    write_report(job)
    return job


def write_report(job):
    job.folder.mkdir(parents=True, exist_ok=True)
    jobs._write_plan(job, "0")
    cells = [nbformat.v4.new_code_cell(f"# papermill_description={cell.step}") for cell in LAST]
    for cell, then in zip(cells, LAST, strict=True):
        cell.metadata["papermill"] = {"status": "completed", "duration": then.seconds}
    shutil.copyfile(job.work / notebook.PLAN, job.folder / notebook.PLAN)
    parameters = yaml.safe_load((job.folder / notebook.PLAN).read_text())["parameters"]
    papermill = {"parameters": parameters, "duration": 170.0}
    report = nbformat.v4.new_notebook(cells=cells, metadata={"papermill": papermill})
    nbformat.write(report, job.folder / notebook.REPORT)


def expected(job, **parameters):
    return timing.expected(job.folder, {**job.parameters, **parameters}, job.variant)


def test_only_a_run_of_the_same_kind_is_compared(job):
    assert expected(job) == LAST
    assert expected(job, quick=True) is None
    assert expected(job, source="synthetic:reduced") is None
    assert expected(job, schemes=["int8-rtn", "int4-gptq"]) is None
    other = replace(job.variant, schemes=("fp32",))
    assert timing.expected(job.folder, job.parameters, other) is None
    elsewhere = replace(job.variant, sources=job.variant.sources[:1])
    assert timing.expected(job.folder, job.parameters, elsewhere) is None


def test_a_report_that_is_not_whole_or_not_there_is_not_compared(job):
    report = job.folder / notebook.REPORT
    content = report.read_text()
    report.write_text(content[: len(content) // 2])
    assert expected(job) is None
    report.write_text(content.replace('"completed"', '"pending"', 1))
    assert expected(job) is None
    report.unlink()
    assert expected(job) is None


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "3", '{"metadata": 3}', '{"metadata": {"papermill": []}}', "{"]
)
def test_a_notebook_of_another_shape_says_nothing(content, tmp_path):
    path = tmp_path / "running.ipynb"
    path.write_text(content)
    assert notebook.run_of(path) is None
    assert notebook.failure(path) is None
