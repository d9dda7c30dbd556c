"""The metrics as `evaluate` modules, and the intervals around them."""

import socket
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from llmkg_lab.measure import metrics
from llmkg_lab.measure.estimate import estimate
from llmkg_lab.measure.metrics.continuation import Continuation
from llmkg_lab.measure.metrics.divergence import Divergence
from llmkg_lab.measure.metrics.embedding_fidelity import EmbeddingFidelity
from llmkg_lab.measure.metrics.human_agreement import HumanAgreement

RNG = np.random.default_rng(7)
VECTORS = RNG.normal(size=(40, 8))
TOKENS = {
    "kl": RNG.exponential(0.1, 300),
    "nll_reference": RNG.exponential(3, 300),
    "nll_candidate": RNG.exponential(3.1, 300),
    "same_top1": RNG.integers(0, 2, 300).astype(float),
    "block": np.arange(300) // 50,
}
PAIRS = {name: RNG.normal(size=60) for name in ("predictions", "references", "scores")}
INPUTS = {
    "divergence": (Divergence, TOKENS),
    "continuation": (Continuation, {"predictions": [[1, 2], [3]], "references": [[1, 5], [3]]}),
    "embedding_fidelity": (
        EmbeddingFidelity,
        {"predictions": VECTORS + 0.1, "references": VECTORS},
    ),
    "human_agreement": (HumanAgreement, PAIRS),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INPUTS)
def test_evaluate_loads_the_metric_without_a_network(name, monkeypatch):
    import evaluate

    def refuse(*args):
        raise AssertionError("the metric reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric, inputs = INPUTS[name]
    loaded = evaluate.load(str(Path(metrics.__file__).parent / f"{name}.py"), keep_in_memory=True)
    result = loaded.compute(**inputs)
    assert result == metric(keep_in_memory=True).compute(**inputs)
    for entry in result.values():
        assert set(entry) == {"value", "low", "high", "n", "unit"}
        assert entry["low"] is None or entry["low"] <= entry["value"] <= entry["high"]
    assert loaded.citation.strip().startswith("@")


def test_divergence_is_what_its_definition_says():
    result = Divergence(keep_in_memory=True).compute(**TOKENS)
    value = {name: entry["value"] for name, entry in result.items()}
    assert value["kl_mean"] == TOKENS["kl"].mean()  # in float64 all the way
    assert value["kl_max"] == TOKENS["kl"].max()
    assert result["kl_max"]["high"] is None
    assert value["kl_p99"] == np.quantile(TOKENS["kl"], 0.99)
    assert value["perplexity"] == pytest.approx(np.exp(TOKENS["nll_candidate"].mean()))
    assert value["perplexity_ratio"] == pytest.approx(
        value["perplexity"] / value["perplexity_reference"]
    )
    assert {entry["n"] for entry in result.values()} == {300}


def test_the_ratio_of_perplexities_is_paired():
    """A candidate that is worse by the same on every token is worse for certain."""
    worse = TOKENS | {"nll_candidate": TOKENS["nll_reference"] + np.log(1.1)}
    result = Divergence(keep_in_memory=True).compute(**worse)
    assert result["perplexity_ratio"]["low"] == pytest.approx(1.1)
    assert result["perplexity_ratio"]["high"] == pytest.approx(1.1)
    assert result["perplexity"]["high"] > 1.2 * result["perplexity"]["low"]


@pytest.mark.parametrize(
    ("prediction", "reference", "length"),
    [
        ([1, 2, 3], [1, 2, 3], 3),
        ([1, 2, 9, 3], [1, 2, 3, 3], 2),
        ([9], [1, 2], 0),
        ([1, 2], [1, 2, 3], 2),
        ([], [1], 0),
    ],
)
def test_common_prefix(prediction, reference, length):
    rows = {"predictions": [prediction], "references": [reference]}
    result = Continuation(keep_in_memory=True).compute(**rows)["common_prefix"]
    assert result == {"value": length, "low": None, "high": None, "n": 1, "unit": "prompts"}


def test_neighbours_by_counting():
    moved = VECTORS + 0.5 * RNG.normal(size=VECTORS.shape)
    metric = EmbeddingFidelity(keep_in_memory=True)
    result = metric.compute(predictions=moved, references=VECTORS)

    def nearest(vectors, i):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        others = sorted(set(range(40)) - {i}, key=lambda j: -(unit[i] @ unit[j]))
        return set(others[:10])

    shared = [len(nearest(moved, i) & nearest(VECTORS, i)) / 10 for i in range(40)]
    assert 0.2 < np.mean(shared) < 0.95
    # the vectors pass through float32
    assert result["neighbours10"]["value"] == pytest.approx(np.mean(shared), abs=1e-9)


def test_a_rotation_keeps_neighbours_and_not_cosines():
    rotation, _ = np.linalg.qr(RNG.normal(size=(8, 8)))
    metric = EmbeddingFidelity(keep_in_memory=True)
    result = metric.compute(predictions=3 * VECTORS @ rotation, references=VECTORS)
    assert result["neighbours10"]["value"] == 1
    assert result["cosine_mean"]["value"] < 0.5


@pytest.mark.slow
def test_human_agreement_is_spearmans():
    result = HumanAgreement(keep_in_memory=True).compute(**PAIRS)
    own = spearmanr(PAIRS["predictions"], PAIRS["scores"]).statistic
    theirs = spearmanr(PAIRS["references"], PAIRS["scores"]).statistic
    assert result["spearman"]["value"] == pytest.approx(own)
    assert result["spearman_ratio"]["value"] == pytest.approx(own / theirs)


def correlated(rng, blocks, size):
    """A series of mean 0 whose neighbours resemble one another (autoregressive, 0.7)."""
    noise = rng.normal(size=blocks * size)
    for i in range(1, len(noise)):
        noise[i] += 0.7 * noise[i - 1]
    return noise


@pytest.mark.slow
def test_intervals_cover_the_truth_and_only_blocks_do_for_correlated_tokens():
    rng = np.random.default_rng(3)
    trials, blocks, size = 60, 24, 16
    labels = np.repeat(np.arange(blocks), size)
    covered = {"blocks": 0, "tokens": 0}
    for _ in range(trials):
        series = correlated(rng, blocks, size)
        for name, labelled in (("blocks", labels), ("tokens", None)):
            interval = estimate(np.mean, series, unit="tokens", blocks=labelled)
            covered[name] += interval.low <= 0 <= interval.high
    assert covered["blocks"] / trials >= 0.85  # 0.95 is promised; few blocks cost a little
    assert covered["tokens"] / trials <= 0.75


def test_an_interval_is_reproducible_and_shrinks_with_the_sample():
    sample = RNG.normal(size=4000)
    few, many = (estimate(np.mean, sample[:n], unit="texts") for n in (40, 4000))
    assert few == estimate(np.mean, sample[:40], unit="texts")
    assert many.high - many.low < 0.2 * (few.high - few.low)
    # the normal interval, 1.96 standard errors each side
    assert many.high - many.low == pytest.approx(3.92 * sample.std() / 4000**0.5, rel=0.1)


def test_blocks_need_not_be_sorted_or_equal():
    values, blocks = np.array([1.0, 2, 3, 4, 5]), np.array([7, 3, 7, 3, 9])
    order = np.argsort(blocks, kind="stable")
    shuffled = estimate(np.mean, values, unit="tokens", blocks=blocks)
    assert shuffled == estimate(np.mean, values[order], unit="tokens", blocks=blocks[order])
    assert estimate(np.mean, values, unit="tokens", blocks=np.zeros(5, int)).low is None
