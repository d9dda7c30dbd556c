"""The device profile against the system's own files, recommendations against stored results."""

from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replace_fields

from llmkg_lab.artifact import StoredScheme
from llmkg_lab.base import machine as device
from llmkg_lab.base import records
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.presets import DECODER, DEFAULT, resolve
from llmkg_lab.results.choice import choose
from llmkg_lab.results.recommendation import recommend
from llmkg_lab.results.result import Result, Subject
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.scheme import Scheme

DATA = Path(__file__).parent / "data"

PROFILE = device.Profile(
    cpu="Some CPU",
    physical_cores=4,
    logical_cores=8,
    usable_cores=4,
    instruction_sets=("AVX2",),
    memory_total=8 * 10**9,
    memory_available=6 * 10**9,
    accelerators=(),
    read_bandwidth_gb_s=20.0,
)


@pytest.mark.slow
def test_this_machine_has_a_profile():
    profile = device.profile()
    assert 1 <= profile.usable_cores <= profile.physical_cores <= profile.logical_cores
    assert 0 < profile.memory_available <= profile.memory_total
    assert profile.read_bandwidth_gb_s > 0.1
    assert profile.cpu


def test_instruction_sets_are_read_by_their_systems_names(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text(
        "model name\t: X\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_int8\n\nflags : no"
    )
    assert device.instruction_sets(info) == ("AVX2", "AVX-512", "AVX-512 VNNI", "AMX int8")
    info.write_text("Features\t: fp asimd asimddp\n")
    assert device.instruction_sets(info) == ("NEON", "NEON dotprod")
    assert device.instruction_sets(tmp_path / "none") == ()


@pytest.mark.parametrize(
    ("files", "memory", "share"),
    [
        ({"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        ({"memory.max": "500000000", "cpu.max": "150000 100000"}, 500_000_000, 1.5),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        (
            {
                "memory/memory.limit_in_bytes": "1048576",
                "cpu/cpu.cfs_quota_us": "50000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            1048576,
            0.5,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
    ],
    ids=["version 2, none", "version 2", "version 1, none", "version 1", "version 1, no quota"],
)
def test_limits_of_a_control_group_count(files, memory, share, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content + "\n")
    assert device.memory_limit(tmp_path) == memory
    assert device.cpu_share(tmp_path) == share


def write_result(outputs, variant, cpu="Some CPU", synthetic=False, **schemes):
    """schemes: name -> (bytes, tokens per second, perplexity ratio, verdict)"""
    folder = outputs / "smollm" / variant
    folder.mkdir(parents=True)
    result = records.parse((DATA / "result-decoder.json").read_bytes(), Result)
    template = next(iter(result.schemes.values()))
    measured = {
        name: replace_fields(
            template,
            scheme=StoredScheme.of(resolve(Scheme.parse(name), DECODER), 4),
            bytes=nbytes,
            verdict=Verdict(verdict),
            conditions={"cpu": cpu, "threads": 3},
            speed={"tokens_per_second": Measurement(speed, speed, speed, 1)},
            quality={"perplexity_ratio": Estimate(ratio, None, None, 1, "tokens")},
        )
        for name, (nbytes, speed, ratio, verdict) in schemes.items()
    }
    replace_fields(
        result,
        variant=Subject(variant, variant, "smollm"),
        source=replace_fields(result.source, synthetic=synthetic),
        schemes=measured,
    ).save(folder)


def advice(profile, outputs):
    return {entry.what: entry for entry in recommend(profile, outputs)}


def test_what_reports_recommend_comes_first(tmp_path):
    """The largest variant that is fast; of it what its own report's headline says, never fp32."""
    small = {"int4-rtn": (90_000_000, 90.0, 1.3, "below target")}
    small["int8-rtn"] = (150_000_000, 60.0, 1.01, "pass")
    write_result(tmp_path, "smollm2_135m", **small, fp32=(500_000_000, 45.0, 1.0, "pass"))
    large = {"balanced": (200_000_000, 40.0, 1.04, "pass")}
    large["small"] = (180_000_000, 42.0, 1.05, "pass")
    write_result(tmp_path, "smollm2_360m", **large, fp32=(700_000_000, 25.0, 1.0, "pass"))
    write_result(tmp_path, "smollm2_1_7b", cpu="Another", int4=(900_000_000, 99.0, 1.0, "pass"))
    found = advice(PROFILE, tmp_path)
    assert (found["variant"].value, found["scheme"].value) == ("smollm2_360m", "balanced")
    assert "the default, and it reaches its targets: 200.0 MB" in found["scheme"].reason
    assert found["threads"].value == "3"
    assert all(entry.measured for entry in found.values())
    report = Result.find(tmp_path / "smollm" / "smollm2_360m")
    assert choose(report.schemes).scheme == found["scheme"].value
    little = advice(replace(PROFILE, memory_available=350_000_000), tmp_path)
    assert (little["variant"].value, little["scheme"].value) == ("smollm2_135m", "int8-rtn")


@pytest.mark.slow
def test_what_failed_or_is_synthetic_recommends_nothing(tmp_path):
    write_result(tmp_path, "smollm2_135m", int4=(90_000_000, 90.0, 1.0, "fail"))
    write_result(tmp_path, "smollm2_360m", synthetic=True, int4=(200_000_000, 40.0, 1.0, "pass"))
    (tmp_path / "smollm" / "cut_off").mkdir()
    (tmp_path / "smollm" / "cut_off" / "result.json").write_text('{"schemes": ')
    found = advice(PROFILE, tmp_path)
    assert not any(entry.measured for entry in found.values())
    assert "not measured" in found["variant"].reason
    assert found["scheme"].value == DEFAULT


@pytest.mark.slow
def test_without_results_memory_and_bandwidth_decide(tmp_path):
    slow, fast = (advice(replace(PROFILE, read_bandwidth_gb_s=b), tmp_path) for b in (3, 300))
    assert slow["variant"].value.startswith("smollm")
    assert fast["variant"].value == "openelm_3b_instruct"
    assert fast["threads"].value == "4"
    tiny = advice(replace(PROFILE, memory_available=50_000_000), tmp_path)
    assert "--memory" in tiny["variant"].reason
