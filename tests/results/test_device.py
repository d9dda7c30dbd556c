"""The device profile against the system's own files, recommendations against stored results."""

import json
from dataclasses import replace

import pytest

from llmkg_lab.base import machine as device
from llmkg_lab.results.recommendation import recommend

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
    """schemes: name -> (bytes, tokens a second, perplexity ratio, verdict)"""
    folder = outputs / "smollm" / variant
    folder.mkdir(parents=True)
    result = {"variant": {"id": variant}, "source": {"synthetic": synthetic}, "schemes": {}}
    for name, (nbytes, speed, ratio, verdict) in schemes.items():
        result["schemes"][name] = {
            "bytes": nbytes,
            "verdict": verdict,
            "conditions": {"cpu": cpu, "threads": 3},
            "speed": {"tokens_per_second": {"value": speed}},
            "quality": {"perplexity_ratio": {"value": ratio}},
        }
    (folder / "result.json").write_text(json.dumps(result))


def advice(profile, outputs):
    return {entry.what: entry for entry in recommend(profile, outputs)}


def test_measured_facts_come_first(tmp_path):
    small = {"int4": (9e7, 90, 1.3, "pass"), "int8": (15e7, 60, 1.01, "pass")}
    write_result(tmp_path, "smollm2_135m", **small, fp32=(5e8, 15, 1.0, "pass"))
    large = {"int4": (2e8, 40, 1.2, "pass"), "int8": (4e8, 12, 1.0, "pass")}
    write_result(tmp_path, "smollm2_360m", **large)
    write_result(tmp_path, "smollm2_1_7b", cpu="Another", int4=(9e8, 99, 1.0, "pass"))
    found = advice(PROFILE, tmp_path)
    assert (found["variant"].value, found["scheme"].value) == ("smollm2_360m", "int4")
    assert found["threads"].value == "3"
    assert all(entry.measured for entry in found.values())
    little = advice(replace(PROFILE, memory_available=350_000_000), tmp_path)
    assert (little["variant"].value, little["scheme"].value) == ("smollm2_135m", "int8")


def test_what_failed_or_is_synthetic_recommends_nothing(tmp_path):
    write_result(tmp_path, "smollm2_135m", int4=(9e7, 90, 1.0, "fail"))
    write_result(tmp_path, "smollm2_360m", synthetic=True, int4=(2e8, 40, 1.0, "pass"))
    (tmp_path / "smollm" / "cut_off").mkdir()
    (tmp_path / "smollm" / "cut_off" / "result.json").write_text('{"schemes": ')
    found = advice(PROFILE, tmp_path)
    assert not any(entry.measured for entry in found.values())
    assert "not measured" in found["variant"].reason


def test_without_results_memory_and_bandwidth_decide(tmp_path):
    slow, fast = (advice(replace(PROFILE, read_bandwidth_gb_s=b), tmp_path) for b in (3, 300))
    assert slow["variant"].value.startswith("smollm")
    assert fast["variant"].value == "openelm_3b_instruct"
    assert fast["threads"].value == "4"
    tiny = advice(replace(PROFILE, memory_available=50_000_000), tmp_path)
    assert "--memory" in tiny["variant"].reason
