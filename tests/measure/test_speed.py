"""Measured speed: sample sizes, memory of the child alone, bytes that a token reads."""

import json

import numpy as np
import pytest

from llmkg_lab.base import machine
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.measure.speed import SpeedError, Workload, measure, summarize, weight_bytes_per_token
from llmkg_lab.scheme import Scheme

SHORT = Workload(prompt_tokens=20, prefills=2, decode_steps=7, embeddings=6, batches=3)


@pytest.fixture(scope="module")
def tiny(tiny_llama, tmp_path_factory):
    out = tmp_path_factory.mktemp("speed") / "fp32"
    return convert(open_checkpoint(tiny_llama[1]), Scheme.parse("fp32"), out)


@pytest.mark.slow
def test_a_decoder_s_measures_come_with_their_sample_sizes(tiny):
    parents_memory = np.ones(1 << 27)  # 1 GB that the children must not be charged with
    speed = measure(tiny, SHORT, processes=2)
    sizes = {name: metric.n for name, metric in speed.metrics.items()}
    assert sizes == {
        "load_ms": 2,
        "first_token_ms": 4,
        "decode_ms": 14,
        "tokens_per_second": 14,
        "peak_memory_mb": 2,
        "bandwidth_gb_s": 1,
        "floor_ms": 1,
    }
    assert all(0 < m.low <= m.value <= m.high for m in speed.metrics.values())
    # Python with numpy and ONNX Runtime, and a model of 0.2 MB
    assert 30 < speed.metrics["peak_memory_mb"].high < 300 < parents_memory.nbytes / 1e6
    assert speed.metrics["floor_ms"].value < speed.metrics["decode_ms"].value
    assert speed.conditions["prompt_tokens"] == 20
    json.dumps(speed.conditions)
    again = measure(tiny, SHORT, processes=1)  # beside which it is compared: with the same floor
    assert again.metrics["floor_ms"] == speed.metrics["floor_ms"]


def test_an_embedder_s_measures(make_artifact):
    speed = measure(make_artifact("minilm", "int4-rtn"), SHORT, processes=1)
    assert {name: metric.n for name, metric in speed.metrics.items()} == {
        "load_ms": 1,
        "embed_ms": 6,
        "sentences_per_second": 3,
        "peak_memory_mb": 1,
    }
    assert all(0 < m.low <= m.value <= m.high for m in speed.metrics.values())


def test_a_token_reads_the_head_and_one_row_of_an_embedding_of_its_own(tiny, tiny_llama):
    weights = dict(tiny_llama[0].named_parameters())
    assert "lm_head.weight" in weights
    table = weights.pop("model.embed_tokens.weight")
    assert weight_bytes_per_token(tiny) == 4 * sum(w.numel() for w in weights.values())
    assert table.numel() * 4 == tiny.manifest.groups[0].bytes


@pytest.mark.slow
def test_a_failure_in_the_child_is_reported(tiny_llama, tmp_path):
    artifact = convert(
        open_checkpoint(tiny_llama[1]), Scheme.parse("int4-rtn"), tmp_path / "int4-rtn"
    )
    artifact.model_path.write_bytes(b"\0" * artifact.model_path.stat().st_size)
    with pytest.raises(SpeedError, match="cannot load"):
        measure(artifact, SHORT, processes=1)


def test_the_spread_is_that_of_the_samples():
    measured = summarize([float(x) for x in range(101)])
    assert (measured.low, measured.value, measured.high, measured.n) == (10, 50, 90, 101)


def test_threads_are_as_many_as_the_environment_allows(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.default_threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert machine.default_threads() == machine.physical_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert machine.default_threads() == machine.physical_cores()
