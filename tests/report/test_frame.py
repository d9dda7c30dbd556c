"""The headline of a report: which artifact to take, why, and how to use it."""

import shlex
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmkg_lab.artifact import StoredScheme
from llmkg_lab.base import records
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.presets import DECODER, resolve
from llmkg_lab.presets.words import plain
from llmkg_lab.report.frame import QUICK, SYNTHETIC, answers
from llmkg_lab.results.choice import choose
from llmkg_lab.results.result import Result
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.scheme import Scheme

STORED = Path(__file__).parents[1] / "results" / "data" / "result-decoder.json"
FP32 = (538, 1.0, "pass")


def result_of(quick=False, synthetic=False, **schemes):
    """schemes: name -> (MB, perplexity ratio, verdict), a - in a name being written as _"""
    result = records.parse(STORED.read_bytes(), Result)
    template = next(iter(result.schemes.values()))
    entries = {
        name.replace("_", "-"): replace(
            template,
            scheme=StoredScheme.of(resolve(Scheme.parse(name.replace("_", "-")), DECODER), 4),
            bytes=megabytes * 10**6,
            verdict=Verdict(verdict),
            artifact=f"artifacts/{name.replace('_', '-')}",
            quality={"perplexity_ratio": Estimate(ratio, None, None, 1, "tokens")},
            speed={"decode_ms": Measurement(2.8, 2.5, 3.0, 9)},
            reasons=[],
        )
        for name, (megabytes, ratio, verdict) in schemes.items()
    }
    source = replace(result.source, synthetic=synthetic)
    return replace(result, schemes=entries, source=source, quick=quick)


@pytest.mark.parametrize(
    ("schemes", "chosen", "reason"),
    [
        (
            {"fp32": FP32, "int8-rtn": (156, 1.003, "pass"), "int4-rtn": (85, 1.2, "below target")},
            *("int8-rtn", "the smallest that reaches its targets"),
        ),
        (
            {"fp32": FP32, "int4-rtn": (85, 1.06, "undecided"), "int4_eq": (84, 1.05, "undecided")},
            *("int4-eq", "too little was measured"),
        ),
        (
            {"fp32": FP32, "int8-rtn": (156, 1.02, "below target"), "int4-rtn": (85, 3.0, "fail")},
            *("int8-rtn", "it misses a target"),
        ),
        (
            {"fp32": FP32, "fp16": (270, 1.0, "pass"), "int4-rtn": (85, 3.0, "fail")},
            "fp16",
            "nothing",
        ),
    ],
)
def test_one_artifact_is_chosen_and_a_worse_scheme_beside_it_changes_nothing(
    schemes, chosen, reason
):
    for more in ({}, {"int4_e4": (60, 9.0, "fail")}):
        choice = choose(result_of(**schemes, **more).schemes)
        assert choice
        assert choice.scheme == chosen
        assert reason in choice.reason


def shown(result, folder):
    """The headline as it stands when a report is finished."""
    return answers(result, folder, "30 of Q4_1", "generate {} 'Why?' --chat", seconds=72.0)


def test_the_headline_says_what_to_take_and_what_to_type(tmp_path):
    folder = tmp_path / "with space"
    html = shown(result_of(fp32=FP32, int8=(156, 1.003, "pass")), folder)
    assert "Take <b>int8</b> (int8-s16-eq: 8 bits, channels equalized), the smallest" in html
    assert "reaches its targets: 156.0 MB" in html
    path = shlex.quote(str(folder / "artifacts" / "int8")).replace("'", "&#x27;")
    assert f"llmkg-lab generate {path} &#x27;Why?&#x27; --chat" in html
    assert "these weights (tensors: 30 of Q4_1)" in html
    for fact in ("Measured: ", " UTC, in 1 min 12 s, on ", "onnxruntime "):
        assert fact in html
    assert QUICK not in html
    assert SYNTHETIC not in html


def test_figures_that_mean_little_are_marked_and_recommend_nothing(tmp_path):
    int8 = (156, 1.003, "pass")
    for mark, result in (
        (QUICK, result_of(quick=True, int8=int8)),
        (SYNTHETIC, result_of(synthetic=True, int8=int8)),
    ):
        html = shown(result, tmp_path)
        assert mark in html
        assert "Take" not in html
    assert "take none of them" in shown(result_of(int4=(85, 3.0, "fail")), tmp_path)


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("fp32", "32-bit floats"),
        ("int4-rtn", "4 bits, rounded to nearest"),
        ("int8-dyn", "8 bits, rounded to nearest, products in integers"),
        ("int4-s16-gptq-e8b64sym", "4 bits, calibrated, table 8 bits"),
        ("int4-b64-gptq-dwq", "4 bits, calibrated, distilled, blocks of 64"),
        ("budget-100mb", "mixed widths in 100 MB"),
        ("budget-5.2bpw", "mixed widths, 5.2 bits per weight"),
    ],
)
def test_schemes_have_names_in_plain_words(scheme, words):
    assert plain(Scheme.parse(scheme)) == words
