"""What earlier runs made, under every way in which a later one can end.

LLMKG_LAB_KILLS says at how many random points runs are killed.
"""

import json
import os
import random
import shutil
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
from batch.test_batch import call, environment, finished, start  # noqa: F401  (fixtures)
from support.processes import command_of

from llmkg_lab.artifact import verify
from llmkg_lab.base import files
from llmkg_lab.batch import notebook
from llmkg_lab.results.registry import Registry
from llmkg_lab.results.result import Result

pytestmark = [pytest.mark.slow, pytest.mark.real]
KILLS = int(os.environ.get("LLMKG_LAB_KILLS", "4"))
LONGEST = 9.0  # seconds: as long as a run takes


@pytest.fixture
def outputs(finished, tmp_path):  # noqa: F811
    """A copy of the finished batch's outputs."""
    shutil.copytree(finished[0], tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs"


def content(folder):
    """Every file's SHA-256."""
    return {
        path.relative_to(folder).as_posix(): files.sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def is_whole(folder):
    result = Result.find(folder)
    assert result
    assert all((folder / name).is_file() for name in ("report.html", "report.ipynb"))
    return [verify(folder / scheme.artifact) for scheme in result.schemes.values()] == [[], []]


def listed(outputs):
    models = Registry.read(outputs).models.values()
    return sorted(entry.path for model in models for entry in model.artifacts)


def test_runs_that_fail_or_do_not_compare_change_nothing(outputs, environment):  # noqa: F811
    good = outputs / "tiny" / "good"
    before, entries = content(good), listed(outputs)
    for arguments in (["--source", "hub"], ["--source", "hubb"], ["--set", "quick=true"]):
        call(environment, "run", "good", "--out", outputs, *arguments)
        assert content(good) == before, arguments
        assert listed(outputs) == entries
    assert is_whole(outputs / "quick" / "tiny" / "good")
    quick = json.loads((outputs / "quick" / "tiny" / "good" / "result.json").read_text())
    assert quick["quick"] is True
    _, stdout, _ = call(environment, "list", "--out", outputs, "--json")
    (row,) = [row for row in json.loads(stdout) if row["id"] == "good"]
    assert (row["last_run"], row["apart"]["quick"]) == ("pass", "pass")
    assert row["apart"]["hub"] == "failed"


def test_a_scheme_is_added_to_a_report(outputs, environment):  # noqa: F811
    code, _, stderr = call(environment, "run", "good", "--scheme", "fp16", "--out", outputs)
    assert code == 0, stderr
    result = Result.find(outputs / "tiny" / "good")
    assert list(result.schemes) == ["fp32", "int8-rtn", "fp16"]
    _, stdout, _ = call(environment, "run", "good", "--out", outputs, "--json")
    assert json.loads(stdout)[0]["state"] == "up to date"


def test_a_run_that_is_killed_anywhere_loses_nothing(outputs, environment):  # noqa: F811
    """The command alone, the workflow alone, or all its processes; then the batch goes on."""
    good, chance = outputs / "tiny" / "good", random.Random(0)
    before, entries = content(good), listed(outputs)
    for point in range(KILLS):
        process = start(environment, "run", "good", "--force", "--out", outputs)
        time.sleep(chance.uniform(0.5, LONGEST))
        children = psutil.Process(process.pid).children(recursive=True)
        workflows = [child for child in children if "snakemake" in " ".join(command_of(child))]
        doomed = [[process], workflows[:1] or [process], [process, *children]][point % 3]
        for each in doomed:
            with suppress(psutil.NoSuchProcess):  # it was done just now
                each.kill()
        process.communicate(timeout=60)
        alive = psutil.wait_procs(children, timeout=60)[1]
        assert alive == [], f"outlives its batch: {[*map(command_of, alive)]}"
        now = content(good)
        if now["report.ipynb"] == before["report.ipynb"]:
            assert now == before
        assert is_whole(good)
        assert listed(outputs) == entries
        before = now
    code, stdout, stderr = call(environment, "run", "good", "--out", outputs)
    assert code == 0, stdout + stderr
    assert is_whole(good)
    assert not list(good.parent.glob(".*"))


def test_a_run_whose_process_is_killed_is_told(outputs, environment):  # noqa: F811
    """As the system does where memory is short: the batch goes on, and says which cell it was."""
    good = outputs / "tiny" / "good"
    before, entries = content(good), listed(outputs)
    process = start(environment, "run", "good", "--force", "--out", outputs, "--json")
    running = outputs / ".batch" / "tiny" / "good" / "running.ipynb"
    deadline = time.monotonic() + 60
    while notebook.run_of(running) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    for child in psutil.Process(process.pid).children(recursive=True):
        if command_of(child)[1:3] == ["-m", "llmkg_lab.batch.execute"]:
            child.kill()
    stdout, _ = process.communicate(timeout=120)
    (outcome,) = json.loads(stdout)
    assert process.returncode == 1
    assert (outcome["state"], outcome["verdict"]) == ("not run", "fail")
    assert "its process was killed" in outcome["failure"]["error"]
    assert outcome["failure"]["cell"] > 0
    assert content(good) == before
    assert listed(outputs) == entries


def test_a_synthetic_run_changes_nothing(environment, tmp_path):  # noqa: F811
    """Of a variant whose shape is known; its real weights are run first."""
    name, params = "all_minilm_l6_v2", tmp_path / "params"
    shutil.copytree(environment["LLMKG_LAB_PARAMS"], params)
    (params / "tiny" / "good.yaml").rename(params / "tiny" / f"{name}.yaml")
    with_shape = environment | {"LLMKG_LAB_PARAMS": str(params)}
    outputs = tmp_path / "outputs"
    assert call(with_shape, "run", name, "--out", outputs)[0] == 0
    before, entries = content(outputs / "tiny"), listed(outputs)
    arguments = ["--source", "synthetic:reduced", "--set", "quick=true", "--json"]
    _, stdout, stderr = call(with_shape, "run", name, "--out", outputs, *arguments)
    (outcome,) = json.loads(stdout)
    assert outcome["state"] == "done", stdout + stderr
    apart = outputs / "quick" / "synthetic-reduced" / "tiny" / name
    assert Result.find(apart).source.synthetic
    assert content(outputs / "tiny") == before
    assert (
        listed(outputs) == entries == [f"tiny/{name}/artifacts/{s}" for s in ("fp32", "int8-rtn")]
    )


def test_a_full_disk_is_told_and_leaves_nothing(environment, tmp_path):  # noqa: F811
    """On a file system of 64 kB, where this user may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        (small / "filler").write_bytes(bytes(60_000))
        code, _, stderr = call(environment, "run", "good", "--out", small)
        assert code == 2
        assert "Traceback" not in stderr
        assert "No space left on device" in stderr
        assert "free some space" in stderr
        assert all(path.stat().st_size for path in small.rglob("run.yaml"))  # whole, or not there
        assert not list(small.glob(".registry*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
