"""The batch in real processes: Snakemake, papermill, kernels; failures, interruption, resuming.

The roster is the test's own, its notebook is tests/notebooks/tiny.ipynb, its weights are real.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from support.processes import command_of

from llmkg_lab.artifact import verify
from llmkg_lab.base import machine, paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.batch import jobs as batch
from llmkg_lab.batch import notebook
from llmkg_lab.batch.execute import execute
from llmkg_lab.batch.notebook import NotebookError
from llmkg_lab.roster import catalog

VARIANT = """\
title: {name}
tier: {tier}
task: sentence-embedding
architecture: bert
license: apache-2.0
description: For tests.
schemes: [fp32, int8-rtn]
limits: {{fp32: {{cosine_min: 0.9999}}, int8-rtn: {{cosine_mean: {limit}}}}}
sources: [{{local: {source}}}]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory, minilm_folder):
    """Environment variables that point at a roster of three: two that run, one without weights."""
    params = tmp_path_factory.mktemp("params")
    shutil.copy(paths.ROOT / "params" / "defaults.yaml", params)
    (params / "tiny").mkdir()
    variants = {
        "absent": VARIANT.format(name="Absent", tier=1, limit=0.9, source="/nowhere/model"),
        "good": VARIANT.format(name="Good", tier=2, limit=0.9, source=minilm_folder),
        "strict": VARIANT.format(name="Strict", tier=2, limit=0.99999, source=minilm_folder),
    }
    for name, text in variants.items():
        (params / "tiny" / f"{name}.yaml").write_text(text)
    folders = {"PARAMS": params, "NOTEBOOKS": Path(__file__).parents[1] / "notebooks"}
    return {f"LLMKG_LAB_{name}": str(folder) for name, folder in folders.items()}


@pytest.fixture
def in_process(environment, monkeypatch):
    """The same roster for code that runs in this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_a_family_without_a_notebook_is_told_those_that_have_one():
    with pytest.raises(NotebookError) as raised:
        notebook.template("mamba")
    named = raised.value.hint.removeprefix("there are notebooks for ").split(", ")
    assert named == sorted({variant.family for variant in catalog.roster().values()})


def start(environment, *arguments):
    """`llmkg-lab` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "llmkg_lab.cli", *map(str, arguments)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def call(environment, *arguments):
    """Run `llmkg-lab` to its end: (exit code, stdout, stderr)."""
    process = start(environment, *arguments)
    stdout, stderr = process.communicate(timeout=120)
    return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def finished(environment, tmp_path_factory):
    """A batch of all three: its outputs folder, and what the command said."""
    outputs = tmp_path_factory.mktemp("outputs")
    return outputs, call(environment, "run", "--all", "--out", outputs, "--jobs", "2", "--json")


def test_one_failure_does_not_stop_the_others(finished):
    outputs, (code, stdout, stderr) = finished
    outcomes = {outcome["variant"]: outcome for outcome in json.loads(stdout)}
    assert code == 1
    states = {name: (outcome["state"], outcome["verdict"]) for name, outcome in outcomes.items()}
    assert states == {
        "absent": ("failed", "fail"),
        "good": ("done", "pass"),
        "strict": ("done", "fail"),  # it ran; int8 lost more than its limit allows
    }
    assert outcomes["strict"]["schemes"]["fp32"]["verdict"] == "pass"
    assert outcomes["strict"]["schemes"]["int8-rtn"]["verdict"] == "fail"
    started = re.findall(r"report=\S+/(\w+)", (outputs / "batch.log").read_text())
    assert started == ["absent", "good", "strict"]  # tier by tier
    assert "good · running · " in stderr
    assert "convert" in stderr
    assert "time left unknown" in stderr  # the first run of its kind
    assert not re.search(r"time left \d", stderr)


def test_a_report_is_complete(finished):
    folder = finished[0] / "tiny" / "good"
    assert names(folder) == {"report.ipynb", "report.html", "result.json", "run.yaml", "artifacts"}
    report = nbformat.read(folder / "report.ipynb", as_version=4)
    assert all(cell.metadata.papermill.status == "completed" for cell in report.cells)
    outputs = [output for cell in notebook.code_cells(report) for output in cell.outputs]
    shown = [output.data["text/plain"] for output in outputs if "text/plain" in output.data]
    (converted,) = [text for text in shown if "writing" in text]  # one output, its last state
    assert re.fullmatch(
        r"fp32 · writing: [\d.]+ MB in .*\nint8-rtn · writing: [\d.]+ MB in .*", converted
    )
    html = (folder / "report.html").read_text()
    assert "<title>good</title>" in html
    assert "A small family for the batch" in html
    assert "convert_all" not in html  # the code is hidden
    result = json.loads((folder / "result.json").read_text())
    assert [verify(folder / s["artifact"]) for s in result["schemes"].values()] == [[], []]


def test_a_failed_run_keeps_its_notebook_and_says_where(finished):
    outputs, (_, stdout, _) = finished
    folder = outputs / "tiny" / "absent"
    assert names(folder) == {"failed.ipynb"}
    failure = json.loads(stdout)[0]["failure"]
    assert (failure["cell"], failure["step"]) == (4, "fetch")
    assert failure["error"].startswith("UnavailableError: absent: no source is available")
    assert "/nowhere/model does not exist" in failure["error"]
    kept = nbformat.read(folder / "failed.ipynb", as_version=4)
    assert "An Exception was encountered at" in kept.cells[0].source
    cells = notebook.code_cells(kept)
    assert cells[3].outputs[-1].ename == "UnavailableError"
    assert cells[4].execution_count is None


def test_the_registry_lists_what_passed(finished):
    registry = (finished[0] / "registry.json").read_text()
    assert "tiny/good/artifacts/int8-rtn" in registry
    assert "tiny/strict/artifacts/fp32" in registry
    assert "tiny/strict/artifacts/int8-rtn" not in registry
    assert "absent" not in registry


def test_list_tells_the_state_of_the_last_run(finished, environment):
    code, stdout, _ = call(environment, "list", "--out", finished[0], "--json")
    rows = {row["id"]: row for row in json.loads(stdout)}
    assert code == 0
    states = {name: row["last_run"] for name, row in rows.items()}
    assert states == {"absent": "failed", "good": "pass", "strict": "fail"}
    assert rows["good"]["sources"][0]["available"]
    assert "does not exist" in rows["absent"]["sources"][0]["reason"]
    code, stdout, _ = call(environment, "list", "--out", finished[0], "--tier", "2")
    assert "good" in stdout
    assert "absent" not in stdout


def test_what_is_done_is_not_run_again(finished, environment):
    outputs, _ = finished
    reports = [outputs / "tiny" / name / "report.ipynb" for name in ("good", "strict")]
    stamps = [report.stat().st_mtime_ns for report in reports]
    _, stdout, _ = call(environment, "run", "good", "strict", "--out", outputs, "--json")
    assert [outcome["state"] for outcome in json.loads(stdout)] == ["up to date", "up to date"]
    assert [report.stat().st_mtime_ns for report in reports] == stamps


def start_paused(environment, outputs):
    """A run that holds still while an artifact is half written, and all its child processes."""
    process = start(environment, "run", "good", "--out", outputs, "--set", "pause=100")
    half = outputs / ".batch" / "tiny" / "good" / "new" / "artifacts"
    before = set(half.glob(".slow*/half"))
    deadline = time.monotonic() + 60
    while not set(half.glob(".slow*/half")) - before:
        assert time.monotonic() < deadline, (outputs / "batch.log").read_text()
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    kernels = [child for child in children if "ipykernel_launcher" in " ".join(command_of(child))]
    assert [kernel.environ()["OMP_NUM_THREADS"] for kernel in kernels] == [
        str(machine.physical_cores())
    ]
    return process, children


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_an_interrupted_batch_leaves_nothing_half_written_and_goes_on(finished, environment):
    outputs, _ = finished
    good, strict = outputs / "tiny" / "good", outputs / "tiny" / "strict"
    manifests = [folder / "artifacts" / "fp32" / "manifest.json" for folder in (good, strict)]
    converted = [manifest.stat().st_mtime_ns for manifest in manifests]

    process, children = start_paused(environment, outputs)  # a new parameter: it runs again
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "goes on where it stopped" in stderr
    assert "Traceback" not in stderr
    assert psutil.wait_procs(children, timeout=30)[1] == []  # none is alive
    work = outputs / ".batch" / "tiny" / "good"
    assert names(work) == {"lock", "new", "run.yaml"}
    assert names(good) == {"report.ipynb", "report.html", "result.json", "run.yaml", "artifacts"}
    assert names(good / "artifacts") == names(work / "new" / "artifacts") == {"fp32", "int8-rtn"}
    assert "tiny/good" in (outputs / "registry.json").read_text()

    process, children = start_paused(environment, outputs)
    for each in [psutil.Process(process.pid), *children]:  # as when the machine goes down
        each.kill()
    process.communicate()
    assert "running.ipynb" in names(work)

    (strict / "artifacts" / "int8-rtn" / "config.json").unlink()  # reason enough to run again, too
    command = ("run", "good", "strict", "--out", outputs, "--jobs", "2", "--json")
    _, stdout, stderr = call(environment, *command)
    assert [outcome["state"] for outcome in json.loads(stdout)] == ["done", "done"], stderr
    for name in ("good", "strict"):
        assert re.search(rf"{name} · running · .* · time left 0:\d\d\n", stderr)  # as last time
    assert names(good) == {"report.ipynb", "report.html", "result.json", "run.yaml", "artifacts"}
    assert names(good / "artifacts") == {"fp32", "int8-rtn"}
    assert verify(strict / "artifacts" / "int8-rtn") == []
    assert [manifest.stat().st_mtime_ns for manifest in manifests] == converted  # not made again
    assert "tiny/good" in (outputs / "registry.json").read_text()


def test_two_batches_do_not_share_a_folder(environment, tmp_path):
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, stderr = call(environment, "run", "good", "--out", tmp_path)
    assert code == 2
    assert "another batch is writing" in stderr
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def ask(**options):
    return batch.plan(batch.select(["good"]), Path("outputs"), **options)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (lambda: batch.select(["goood"]), "did you mean 'good'"),
        (lambda: batch.select(family="tine"), "did you mean 'tiny'"),
        (lambda: batch.select(), "give --all"),
        (lambda: batch.select(tier=9), "no variant is chosen"),
        (lambda: batch.parse_settings(["pause"]), "write KEY=VALUE"),
        (lambda: batch.parse_settings(["pause=[1"]), "not YAML"),
        (lambda: ask(settings={"paus": 1}), "did you mean 'pause'"),
        (lambda: ask(settings={"out": "x"}), "use: --out"),
        (lambda: ask(schemes=["int5"]), "unknown scheme 'int5'"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(request_, message, in_process):
    with pytest.raises(LabError, match=message):
        request_()


def test_settings_are_typed_as_yaml(in_process):
    parsed = batch.parse_settings(["pause=3", "quick=true", "note=a=b"])
    assert parsed == {"pause": 3, "quick": True, "note": "a=b"}
    job = ask(settings={"pause": 3}, schemes=["INT8-rtn"])[0]
    expected = {
        "variant": "good",
        "schemes": ["int8-rtn"],
        "source": "",
        "quick": False,
        "pause": 3,
    }
    assert job.parameters == expected | {"out": str(Path("outputs/tiny/good").resolve())}


def test_reports_that_do_not_compare_lie_apart(in_process, tmp_path):
    def folder(**options):
        (job,) = batch.plan(batch.select(["good"]), tmp_path, **options)
        return job.name

    assert folder() == "tiny/good"
    assert folder(settings={"quick": True}) == "quick/tiny/good"
    assert folder(source="synthetic") == folder(source="synthetic:full") == "synthetic/tiny/good"
    assert folder(source="synthetic:reduced") == "synthetic-reduced/tiny/good"
    assert folder(source="hub", settings={"quick": True}) == "quick/hub/tiny/good"
    for name in ("a", "b"):
        (tmp_path / name / "model").mkdir(parents=True)
    places = [folder(source=str(tmp_path / name / "model")) for name in ("a", "b")]
    assert [re.sub(r"-\w{8}/", "/", path) for path in places] == ["model/tiny/good"] * 2
    assert places[0] != places[1]


def write_notebook(path, *cells):
    new = nbformat.v4
    sources = ["# papermill_description=first\nprint('hello')", *cells]
    cells = [new.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("# papermill_description=die\nimport os; os._exit(1)", r"\(die\): DeadKernelError"),
        ("1 + 1", "wrote no result.json"),
    ],
)
def test_a_notebook_may_fail_without_an_error_of_its_own(cell, message, tmp_path):
    write_notebook(tmp_path / "template.ipynb", cell)
    folder, work = tmp_path / "out", tmp_path / "work"
    work.mkdir()
    (work / "run.yaml").write_text("parameters: {}\n")
    with pytest.raises(NotebookError, match=message):
        execute(tmp_path / "template.ipynb", work, folder)
    assert names(folder) == {"failed.ipynb"}
    assert notebook.failure(folder / "failed.ipynb").cell == 3  # behind the two of parameters


def test_progress_survives_a_half_written_notebook(finished, tmp_path):
    whole = (finished[0] / "tiny" / "strict" / "report.ipynb").read_bytes()
    path = tmp_path / "running.ipynb"
    path.write_bytes(whole[: len(whole) // 2])
    assert notebook.run_of(path) is None
    path.write_bytes(whole)
    run = notebook.run_of(path)
    assert (run.at, len(run.cells), run.step) == (7, 8, "verdict")
