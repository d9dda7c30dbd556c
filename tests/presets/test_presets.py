"""Presets: rules over measured facts, names that stay what they were, answers to wrong ones."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmkg_lab import presets
from llmkg_lab.artifact import Artifact, StoredScheme
from llmkg_lab.base import records
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.cli import app
from llmkg_lab.conversion.to_onnx import convert, convert_all
from llmkg_lab.presets import (
    DECODER,
    ENCODER,
    PLAIN,
    RULES,
    guide,
    kinds,
    recipe_of,
    resolve,
    speeds,
)
from llmkg_lab.report.frame import answers
from llmkg_lab.results.result import Result, Subject
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.scheme import PRESETS, Scheme, SchemeError

DATA = Path(__file__).parents[1] / "results" / "data"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(autouse=True)
def untimed(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))


def points_of(name):
    return json.loads((RESULTS / name).read_text())["points"]


def test_facts_are_what_the_benchmarks_measured():
    before = {p["name"]: p for p in points_of("quality.json") if p["runtime"] == "llmkg-lab"}
    hows = ("normal", "nothing", "WikiText-2")  # the usual effort, what reads nothing, the peer
    today = {p["name"]: p for p in points_of("travel.json") if p["how"] in hows}
    for fact in kinds()[DECODER].facts:
        point = today.get(fact.recipe, before[fact.recipe])
        bits = before[fact.recipe]["bits_per_weight"]
        assert fact.megabytes == pytest.approx(point["bytes"] / 1e6, abs=0.05)
        assert fact.bits_per_weight == pytest.approx(bits, abs=0.01)
        assert (fact.elsewhere is None) == (fact.recipe not in today)
        measured = point["kinds"]["WikiText-2"] if fact.recipe in today else point
        assert fact.distance == pytest.approx(measured["kl"]["value"], rel=0.02)
        ratio = measured["perplexity_ratio"]
        found = [100 * (ratio[end] - 1) for end in ("value", "low", "high")]
        assert fact.loss == pytest.approx(found, abs=0.06)
        if fact.recipe in today:
            ratio = point["kinds"]["news"]["perplexity_ratio"]["value"]
            assert fact.elsewhere == pytest.approx(100 * (ratio - 1), abs=0.06)
    peer = today["Q4_K_M imatrix"]["kinds"]["WikiText-2"]
    assert kinds()[DECODER].near == pytest.approx(peer["kl"]["value"], abs=0.0005)
    points = points_of("encoders.json")
    whole = next(p["spearman"]["value"] for p in points if p["name"] == "fp32")
    ours = {p["name"]: p for p in points}
    for fact in kinds()[ENCODER].facts:
        point = ours[fact.recipe]
        assert fact.megabytes == pytest.approx(point["bytes"] / 1e6, abs=0.05)
        assert 1 - fact.distance == pytest.approx(point["cosine_mean"]["value"], abs=0.0001)
        change = point["spearman_change"]
        found = [-100 * change[end] / whole for end in ("value", "high", "low")]
        assert fact.loss == pytest.approx(found, abs=0.06)


def test_each_preset_is_the_best_by_its_rule():
    assert tuple(RULES) == PRESETS
    for name, kind in kinds().items():
        chosen = {preset: presets.fact_of(preset, name) for preset in PRESETS}
        for fact in kind.facts:
            within = fact.loss[0] <= 5 and fact.distance <= max(kind.near, kind.same)
            if within:
                assert chosen["small"].megabytes <= fact.megabytes
            if fact.distance <= kind.near:
                assert chosen["balanced"].megabytes <= fact.megabytes
            if fact.recipe.startswith(("int4", "int8")):
                assert chosen[fact.recipe[:4]].distance <= fact.distance
            if fact.loss[1] <= 0 and fact.distance <= kind.same:
                assert chosen["best"].megabytes <= fact.megabytes
        assert chosen["best"].distance < chosen["balanced"].distance
        assert chosen["best"].megabytes > chosen["balanced"].megabytes
    for preset in PRESETS:  # what no solver walks is rounded, not refused
        assert not Scheme.parse(recipe_of(preset, PLAIN)).calibrates
    assert find_variant("openelm_270m").scheme("balanced").recipe == "int8-rtn"


def test_fast_follows_what_was_timed_on_this_processor(monkeypatch):
    timed = {fact.recipe: 5.0 for fact in kinds()[DECODER].facts}
    speeds.remember(DECODER, timed | {"int8-s16-eq": 2.0, "int4-rtn": 1.0})
    assert recipe_of("fast", DECODER) == "int8-s16-eq"  # int4-rtn loses 40 %
    speeds.remember(DECODER, timed | {"int4-s16-gptq-e8b64sym": 2.0})
    assert recipe_of("fast", DECODER) == "int4-s16-gptq-e8b64sym"
    speeds.remember(DECODER, timed | {"int8-s16-eq": 2.0})
    monkeypatch.setattr(speeds, "cpu_name", lambda: "Another")
    assert recipe_of("fast", DECODER) != "int8-s16-eq"  # timed elsewhere


def test_a_budget_serves_a_model_of_any_size():
    (budget,) = (fact for fact in kinds()[DECODER].facts if fact.recipe.startswith("budget"))
    assert presets.portable(budget) == "budget-5.94bpw"


def test_a_preset_keeps_its_name_and_says_what_it_came_to(minilm_folder, tmp_path):
    checkpoint = open_checkpoint(minilm_folder)
    artifact = convert(checkpoint, Scheme.parse("best"), tmp_path / "best")
    stored = Artifact.open(artifact.folder).manifest.scheme
    assert (stored.preset, stored.name) == ("best", recipe_of("best", ENCODER))
    assert stored.asked == "best"
    assert stored.meaning == resolve(Scheme.parse("best"), ENCODER)


def test_an_int4_of_before_is_not_taken_for_the_int4_of_now(tiny_llama, tmp_path):
    """Before presets, int4 named what is int4-rtn now."""
    checkpoint, source = open_checkpoint(tiny_llama[1]), {"kind": "hub"}
    made = convert(checkpoint, Scheme.parse("int4-rtn"), tmp_path / "int8", source=source)
    manifest = made.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"int4-rtn"', '"int4"'))
    old = Artifact.open(made.folder).manifest.scheme
    assert old.name == "int4"
    assert old.recipe == old.asked == "int4-rtn"
    stamp = made.model_path.stat().st_mtime_ns
    again = convert_all(checkpoint, ["int8"], tmp_path, source=source)  # it lies where int8 would
    assert again["int8"].manifest.scheme.recipe == "int8-s16-eq"
    assert again["int8"].model_path.stat().st_mtime_ns > stamp
    kept = again["int8"].model_path.stat().st_mtime_ns
    once_more = convert_all(checkpoint, ["int8"], tmp_path, source=source)
    assert once_more["int8"].model_path.stat().st_mtime_ns == kept
    tomorrow = StoredScheme(name="int3", base="int3", method="magic")
    assert (tomorrow.meaning, tomorrow.recipe) == (None, "int3")
    export = StoredScheme(name="gguf-Q4_0", type="Q4_0")
    assert export.asked == export.recipe == "gguf-Q4_0"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("100MB", "budget-100mb"),
        ("budget:100 MB", "budget-100mb"),
        ("Budget:0.1GB", "budget-100mb"),
        ("budget-100mb", "budget-100mb"),
        ("budget:95MiB", "budget-99.6147mb"),
        ("5.2 bpw", "budget-5.2bpw"),
        ("budget:100MB-dwq", "budget-100mb-dwq"),
        (" INT4 ", "int4"),
        ("int4-b32", "int4-rtn"),
        ("int4-rtn-b64", "int4-b64"),
    ],
)
def test_units_and_spellings_are_understood(text, name):
    assert Scheme.parse(text).name == name
    assert Scheme.parse(name) == Scheme.parse(text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("int5", "did you mean 'int4'?"),
        ("int7", "did you mean 'int8'?"),
        ("balanct", "did you mean 'balanced'?"),
        ("smal", "did you mean 'small'?"),
        ("Q4_K_M", "did you mean 'int4'?"),
        ("q8_0", "did you mean 'int8'?"),
        ("float16", "did you mean 'fp16'?"),
        ("int4-gtpq", "did you mean 'gptq'?"),
        ("budget:100M", "did you mean 'mb'?"),
        ("budget:many", "write budget:100MB or budget:5.2bpw"),
        ("100", "write 100MB or 100bpw"),
        ("int4,int8", "name one here"),
    ],
)
def test_what_is_not_a_scheme_is_answered_with_the_nearest_one(text, hint):
    with pytest.raises(SchemeError) as caught:
        Scheme.parse(text)
    assert hint in caught.value.hint


def test_several_schemes_may_be_written_with_commas():
    names = [s.name for s in Scheme.parse_all(["int8, balanced", "INT8", "budget:100 MB,"])]
    assert names == ["int8", "balanced", "budget-100mb"]


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "schemes.md"


def test_the_guide_shows_what_is_measured():
    page = GUIDE.read_text(encoding="utf-8")
    assert page == guide.filled(page), "python -m llmkg_lab.presets.guide docs/guide/schemes.md"
    for preset in set(PRESETS) - {"fast"}:
        assert f"| `{preset}` | decoder | `{recipe_of(preset, DECODER)}`" in page


def test_the_question_which_one_has_the_same_answer_everywhere(tmp_path, capsys):
    """``schemes``, a report's headline, ``device``, the guide, and what convert makes unasked."""
    app(["schemes", "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)["take"]
    report = records.parse((DATA / "result-decoder.json").read_bytes(), Result)
    template = next(iter(report.schemes.values()))
    passed = replace(template, verdict=Verdict.PASS, scheme=template.scheme)
    schemes = dict.fromkeys(["fp32", "int8", "balanced", "small"], passed)
    kinds_of = {name: find_variant("smollm2_135m").scheme(name) for name in schemes}
    schemes = {
        name: replace(passed, scheme=StoredScheme.of(kinds_of[name], 4), artifact=name)
        for name in schemes
    }
    report = replace(report, schemes=schemes)
    headline = answers(report, tmp_path, "30 of F32", "generate {}", 1.0)
    assert f"Take <b>{said}</b>" in headline
    assert GUIDE.read_text().split("\n\n")[1].startswith(f"**Take `{said}`.**")
    folder = tmp_path / "smollm" / "smollm2_135m"
    folder.mkdir(parents=True)
    replace(report, variant=Subject("smollm2_135m", "SmolLM2 135M", "smollm")).save(folder)
    app(["schemes", "smollm2_135m", "--out", str(tmp_path), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["take"] == said
    assert said == presets.DEFAULT
