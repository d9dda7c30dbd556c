"""What the benchmarks make of samples. That they run, `make bench` and `make quality` show."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.convert import convert
from llmkg_lab.quality import score_windows
from llmkg_lab.quantize import Scheme
from llmkg_lab.reference import decoder_reference

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """The folder's modules import one another as scripts do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == BENCHMARKS:
            del sys.modules[name]


def test_ratios_are_of_runs_side_by_side():
    """A slow spell hits both of a round: the rounds' ratios are 4, 2, 2, the medians' 4."""
    from common import compare

    samples = {
        "a": [{"s": 1.0}, {"s": 5.0}, {"s": 1.0}],
        "b": [{"s": 4.0}, {"s": 10.0}, {"s": 2.0}],
    }
    lines = compare(samples, {"s": "seconds"}).splitlines()
    assert lines[2] == "| a | 1 (1 – 5) | 1.00 |"
    assert lines[3] == "| b | 4 (2 – 10) | 2.00 |"


def test_a_point_holds_what_was_measured(tiny_llama, tmp_path):
    """Two tiny models for two seeds: sizes and divergences are their means."""
    import quality
    from contestants import Contestant

    checkpoint = open_checkpoint(tiny_llama[1])
    windows = np.random.default_rng(0).integers(0, 131, (2, 200))
    reference = decoder_reference(checkpoint, windows, [], 0)
    runs = []
    for name in ("int4", "int8"):
        artifact = convert(checkpoint, Scheme.parse(name), tmp_path / name)
        files = tuple(artifact.model_path.parent.iterdir())
        entrant = Contestant("tiny", "llmkg-lab", artifact.folder, files, artifact.nbytes)
        assert entrant.file_bytes == entrant.nbytes
        with entrant.opened() as decoder:
            runs.append((entrant, score_windows(decoder, reference)))
    point = quality.point(runs, reference)
    parameters = sum(p.numel() for p in tiny_llama[0].parameters())
    assert point["bytes"] == round(np.mean([entrant.nbytes for entrant, _ in runs]))
    assert point["bits_per_weight"] == pytest.approx(8 * point["bytes"] / parameters)
    assert point["kl"]["value"] == pytest.approx(np.mean(point["kl_by_seed"]))
    assert point["kl_by_seed"][0] > 5 * point["kl_by_seed"][1] > 0
    assert point["kl"]["low"] < point["kl"]["value"] < point["kl"]["high"]
    assert point["kl"]["n"] == 2 * 199
    assert json.loads(json.dumps(point)) == point


def test_the_table_marks_what_nothing_smaller_beats():
    import quality

    def entry(name: str, megabytes: int, kl: float) -> dict:
        interval = {"value": kl, "low": kl, "high": kl, "n": 9}
        point = {"name": name, "runtime": "x", "bytes": megabytes * 10**6, "bits_per_weight": 4.0}
        return point | dict.fromkeys(quality.METRICS, interval)

    table = quality.table([entry("a", 1, 0.2), entry("b", 2, 0.3), entry("c", 3, 0.1)])
    assert ["**`" in line for line in table.splitlines()[2:]] == [True, False, True]


def test_an_answers_likelihood_is_pytorchs():
    from tasks import log_likelihood, share

    logits = np.random.default_rng(0).normal(size=(5, 11)).astype(np.float32)
    targets = np.array([3, 0, 10, 3, 7])
    expected = torch.log_softmax(torch.tensor(logits).double(), 1)[range(5), targets].sum()
    assert log_likelihood(logits, targets) == pytest.approx(float(expected), rel=1e-6)
    mean, error = share(np.array([True] * 30 + [False] * 70))
    assert (mean, error) == (0.3, pytest.approx((0.3 * 0.7 / 100) ** 0.5))
