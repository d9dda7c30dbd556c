"""Advice from measured facts, and where there are none, estimates that say so."""

import pytest
from support.listed import SMOLLM2, VARIANT, entry, model

from llmkg_lab.base.machine import Profile
from llmkg_lab.llmkg import (
    LoadingError,
    ModelCapabilities,
    ModelRegistry,
    ModelRequirements,
    Quantization,
    assess_device_compatibility,
    estimate_memory_requirements,
    recommend_model,
)
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.presets import DECODER, fact_of
from llmkg_lab.results.registry import Registry

INT4, INT8 = Quantization.Int4, Quantization.Int8
SMOLLM2_PARAMETERS = 134_515_008


def device(available=8e9, bandwidth=20.0, cpu="a processor"):
    return Profile(cpu, 2, 4, 2, ("AVX2",), int(16e9), int(available), (), bandwidth)


@pytest.fixture
def empty(tmp_path):
    return ModelRegistry(tmp_path / "empty")


def test_memory_is_what_was_measured_else_an_estimate_that_says_so(registry, empty):
    measured = estimate_memory_requirements(SMOLLM2_PARAMETERS, INT8, registry=registry)
    assert (measured.nbytes, measured.measured) == (90_000_000, True)
    assert f"ran {VARIANT} at int8-rtn" in measured.reason
    near = estimate_memory_requirements(135_000_000, INT8, registry=registry)
    bits = registry.get_model(SMOLLM2).artifacts[1].bits_per_weight
    assert not near.measured
    assert f"{bits:.1f} bits per weight by what was measured of {VARIANT}" in near.reason
    for parameters in (1, 10**6, 10**9):
        sizes = [
            estimate_memory_requirements(parameters, Quantization[name], registry=empty)
            for name in ("Int4", "Int8", "F16", "None")
        ]
        assert [size.nbytes for size in sizes] == sorted(size.nbytes for size in sizes)
        assert not any(size.measured for size in sizes)
        assert all(size.nbytes > parameters / 2 for size in sizes)
        assert all("estimated" in size.reason for size in sizes)
    with pytest.raises(LoadingError):
        estimate_memory_requirements(0, INT4, registry=empty)


def test_a_device_is_judged_by_memory_and_by_what_it_was_seen_to_do(registry, empty):
    roomy = assess_device_compatibility(10**8, device=device(bandwidth=100.0), registry=empty)
    assert roomy.recommended == Quantization["None"]  # 100 GB/s read it 250 times a second
    bits = fact_of("int4", DECODER).bits_per_weight
    slow = assess_device_compatibility(10**9, device=device(), registry=empty)
    assert slow.recommended == INT4
    assert slow.speed[INT4].tokens_per_second == pytest.approx(20e9 / (1e9 * bits / 8))
    assert not slow.measured
    small = assess_device_compatibility(10**9, device=device(2.2e9), registry=empty)
    assert small.fits == (INT4,)
    none = assess_device_compatibility(10**11, device=device(), registry=empty)
    assert (none.is_compatible, none.fits) == (False, ())
    assert "does not hold it" in none.reason

    seen = assess_device_compatibility(SMOLLM2_PARAMETERS, device=device(), registry=registry)
    assert seen.speed[INT8].tokens_per_second == 50
    assert seen.speed[INT8].measured
    elsewhere = device(cpu="another one")
    other = assess_device_compatibility(SMOLLM2_PARAMETERS, device=elsewhere, registry=registry)
    assert not other.speed[INT8].measured
    assert "not measured" in other.speed[INT8].reason


def test_the_largest_that_meets_the_requirements_is_recommended(registry, outputs, llama_artifacts):
    models, here = registry.list_models(), device()
    best = recommend_model(models, device=here)
    assert (best.model.huggingface_id, best.artifact.scheme) == (SMOLLM2, "int8-rtn")
    assert best.measured
    assert "50 tokens per second measured here" in best.reason
    assert not recommend_model(models, device=device(cpu="another one")).measured

    embedder = recommend_model(models, ModelRequirements(task="sentence-embedding"), device=here)
    assert (embedder.artifact, embedder.measured, embedder.speed) == (None, False, None)
    assert "llmkg-lab run all_minilm_l12_v2" in embedder.reason
    reasoning = ModelRequirements(capabilities=ModelCapabilities(reasoning=True))
    assert recommend_model(models, reasoning, device=here).model.name == "SmolLM2 1.7B"
    assert recommend_model(models, reasoning, device=device(1e9)) is None
    for nothing in (
        ModelRequirements(max_memory=1000),
        ModelRequirements(max_kl=0.0001),
        ModelRequirements(licenses=["gpl-3.0"]),
        ModelRequirements(min_context_length=10**6),
        ModelRequirements(task="text-generation", min_tokens_per_second=1e6),
    ):
        assert recommend_model(models, nothing, device=here) is None

    tight = entry(
        llama_artifacts["fp32"],
        *("fp32", "somewhere"),
        quality={"kl_mean": Estimate(0.00001, 0.0, 0.00002, 9, "tokens")},
        speed={"tokens_per_second": Measurement(30.0, 29.0, 31.0, 9)},
    )
    loose = entry(llama_artifacts["int8-rtn"], "int8-rtn", "elsewhere")
    Registry({SMOLLM2: model(llama_artifacts["int8-rtn"], SMOLLM2, [tight, loose])}).save(outputs)
    exact = recommend_model(registry.list_models(), ModelRequirements(max_kl=0.0005), device=here)
    assert exact.artifact.scheme == "fp32"
    assert not exact.measured  # its memory was not
    fast = ModelRequirements(min_tokens_per_second=40)
    assert recommend_model(registry.list_models(), fast, device=here).artifact.scheme == "int8-rtn"
