"""What a bundle's manifest says of an artifact: what its report measured, and no other's."""

import json

import pytest
from support.results import write_result
from typer.testing import CliRunner

from llmkg_lab.artifact import Artifact
from llmkg_lab.cli import app
from llmkg_lab.conversion.to_web import FILE
from llmkg_lab.results import measured
from llmkg_lab.results.verdict import Verdict

MINILM = "minilm/all_minilm_l6_v2"


@pytest.fixture
def folder(make_artifact, tmp_path):
    verdicts = {"int8-rtn": Verdict.PASS, "int4-rtn": Verdict.BELOW_TARGET}
    return write_result(tmp_path, MINILM, make_artifact("minilm", "int4-rtn"), verdicts)


def test_the_facts_are_those_of_this_folder_and_these_weights(folder, make_artifact):
    artifact = Artifact.open(folder / "artifacts" / "int4-rtn")
    facts = measured.facts(artifact)
    size = f"{artifact.nbytes / 1e6:.1f} MB"
    assert facts["summary"] == f"{size}, cosine 0.99000, 4.00 ms/text"
    assert (facts["verdict"], facts["smoke"]) == ("below target", False)
    cosine = {"title": "cosine mean", "value": 0.99, "low": 0.98, "high": 0.999}
    assert facts["quality"] == {"cosine_mean": cosine}
    assert measured.facts(make_artifact("minilm", "int4-rtn")) == {}  # no report there
    content = json.loads((folder / "result.json").read_text())
    content["source"]["fingerprint"] = "0" * 64
    (folder / "result.json").write_text(json.dumps(content))
    assert measured.facts(artifact) == {}


def test_a_bundle_says_what_was_measured(folder, tmp_path, monkeypatch):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "llmkg-lab.js").write_text("export {};")
    monkeypatch.setenv("LLMKG_LAB_WEB", str(tmp_path / "web"))
    artifact, made = folder / "artifacts" / "int8-rtn", tmp_path / "made"
    command = ["bundle", str(artifact), "--out", str(made), "--smaller", "../other/"]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    manifest = json.loads((made / FILE).read_text())
    assert manifest["performance"] == measured.facts(Artifact.open(artifact))
    assert manifest["smaller"] == ["../other/"]
