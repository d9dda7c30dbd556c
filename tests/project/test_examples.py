"""The programs in examples/, run as a reader runs them."""

import re
import subprocess
import sys

import pytest

from llmkg_lab.artifact import Artifact
from llmkg_lab.base import paths
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.sources import fetch

pytestmark = pytest.mark.slow


def example(name, *arguments):
    """What a program prints; it must end well and say nothing else."""
    command = [sys.executable, "-W", "error", paths.ROOT / "examples" / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def checkpoint():
    """A small Llama with random weights and a tokenizer of its own."""
    return fetch(find_variant("smollm2_135m_instruct"), "synthetic:reduced").path


def test_a_checkpoint_of_ones_own_is_converted(checkpoint, tmp_path):
    printed = example("convert_your_own.py", checkpoint, tmp_path, "int8-rtn", "int4-b64")
    sizes = [Artifact.open(tmp_path / name).nbytes / 1e6 for name in ("int8-rtn", "int4-b64")]
    assert sizes[1] < sizes[0]
    assert [f"{size:.2f}" for size in sizes] == re.findall(r"([\d.]+) MB, .*, whole", printed)
    assert printed.count("The capital of France is …") == 2


def test_a_budget_is_chosen_and_kept(checkpoint, tmp_path):
    table = example("choose_by_budget.py", checkpoint, tmp_path)
    rows = [tuple(map(float, row)) for row in re.findall(r"^([\d.]+) +([\d.]+)", table, re.M)]
    assert rows == sorted(rows)
    assert [kl for _, kl in rows] == sorted((kl for _, kl in rows), reverse=True)
    budget = rows[len(rows) // 2][0]
    printed = example("choose_by_budget.py", checkpoint, tmp_path, f"{budget:g}")
    assert Artifact.open(tmp_path / f"budget-{budget:g}mb").nbytes <= budget * 1e6
    assert re.search(r"matrices by bits: \d+ at \d", printed)


def test_the_closest_line_is_found(make_artifact, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text(
        "The stock market fell sharply on Monday.\n\n"
        "A kitten is napping on the warm sofa.\n"
        "Rust prevents data races at compile time.\n"
        "The recipe needs two eggs and some flour.\n"
    )
    folder = make_artifact("minilm", "int8-rtn").folder
    printed = example("embed_and_search.py", folder, lines, "Where is the cat sleeping?")
    assert "kitten" in printed.splitlines()[0]
    assert len(printed.splitlines()) == 3
