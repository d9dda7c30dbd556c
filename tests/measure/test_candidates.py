"""Recipes timed on this processor: the layouts of what is recommended, and fast follows."""

import json

import pytest

from llmkg_lab.cli import app
from llmkg_lab.measure import candidates
from llmkg_lab.presets import DECODER, ENCODER, kinds, recipe_of, speeds
from llmkg_lab.presets.speeds import remembered
from llmkg_lab.scheme import Scheme


@pytest.fixture(autouse=True)
def little(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(speeds, "LAYERS", 1)
    for name in ("ROUNDS", "CALLS"):
        monkeypatch.setattr(candidates, name, 1)


@pytest.mark.slow
def test_what_is_timed_decides_what_fast_is(tmp_path, capsys):
    app(["device", "--measure", "--json", "--out", str(tmp_path)], standalone_mode=False)
    timed = json.loads(capsys.readouterr().out)["ms"]
    for kind in (DECODER, ENCODER):
        wanted = {f.recipe for f in kinds()[kind].facts if not Scheme.parse(f.recipe).budget}
        assert set(timed[kind]) == wanted
        assert all(0 < ms < 5000 for ms in timed[kind].values())
        assert remembered(kind) == pytest.approx(timed[kind])
        close = {
            fact.recipe: fact.megabytes
            for fact in kinds()[kind].facts
            if fact.recipe in wanted and fact.distance <= kinds()[kind].near
        }
        least = min(timed[kind][recipe] for recipe in close)
        fast = recipe_of("fast", kind)
        assert timed[kind][fast] <= 1.05 * least  # and of those that are as fast, the smallest
        alike = [recipe for recipe in close if timed[kind][recipe] <= 1.05 * least]
        assert close[fast] == min(close[recipe] for recipe in alike)
    assert not list(tmp_path.glob("llmkg-lab-*"))  # nothing stays
    app(["schemes", "--json"], standalone_mode=False)
    shown = json.loads(capsys.readouterr().out)["kinds"][ENCODER]
    fast = next(entry for entry in shown if entry["preset"] == "fast")
    assert fast["measured"]["ms"] == pytest.approx(timed[ENCODER][recipe_of("fast", ENCODER)])


def test_a_recipe_is_timed_in_its_own_layouts():
    for kind in kinds().values():
        for fact in kind.facts:
            scheme = Scheme.parse(fact.recipe)
            rounded = candidates._rounded(scheme)
            assert not rounded.calibrates
            assert rounded.linear() == scheme.linear()
            assert rounded.table(is_head=True) == scheme.table(is_head=True)
