"""The registry over a real artifact; results as docs/design.md describes them."""

import hashlib
import json
import re
import subprocess
import sys

import pytest
from support.results import write_result

from llmkg_lab.base import paths
from llmkg_lab.results import registry
from llmkg_lab.results.registry import Registry, RegistryError
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster import catalog

PASS, BELOW, FAIL = Verdict.PASS, Verdict.BELOW_TARGET, Verdict.FAIL
MINILM, SMOLLM2 = "minilm/all_minilm_l6_v2", "smollm/smollm2_135m_instruct"


@pytest.fixture(scope="module")
def artifact(make_artifact):
    return make_artifact("minilm", "int4-rtn")


@pytest.fixture
def outputs(artifact, tmp_path):
    write_result(tmp_path, MINILM, artifact, {"int8-rtn": PASS, "int4-rtn": BELOW})
    return tmp_path


def listed(outputs):
    """Paths of what the written registry lists."""
    registry.build(outputs)[0].save(outputs)
    models = Registry.read(outputs).models
    return [entry.path for model in models.values() for entry in model.artifacts]


def test_a_model_is_listed_under_its_hub_id(outputs, artifact):
    registry.build(outputs)[0].save(outputs)
    written = json.loads((outputs / "registry.json").read_text())
    assert written["format"] == "llmkg-lab/registry/1"
    assert list(written["models"]) == ["sentence-transformers/all-MiniLM-L6-v2"]
    model = written["models"]["sentence-transformers/all-MiniLM-L6-v2"]
    entries = model.pop("artifacts")
    assert model == {
        "name": "all-MiniLM-L6-v2",
        "family": "minilm",
        # of the model card's 22,713,216, those that an output needs: without the pooler
        # (384 * 384 + 384)
        "parameters": 22_713_216 - 384 * 384 - 384,
        "size_category": "Tiny",
        "huggingface_id": "sentence-transformers/all-MiniLM-L6-v2",
        "architecture": "bert",
        "task": "sentence-embedding",
        "context_length": 512,
        "vocab_size": 30522,
        "license": "apache-2.0",
        "description": catalog.find_variant("all_minilm_l6_v2").description,
    }
    assert [(e["scheme"], e["verdict"]) for e in entries] == [
        ("int8-rtn", "pass"),
        ("int4-rtn", "below target"),
    ]
    for entry in entries:
        manifest = outputs / entry["path"] / "manifest.json"
        assert entry["manifest_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
        assert entry["bytes"] == artifact.nbytes
        assert entry["recipe"] == "int4-rtn"  # what the artifact is, whatever it is called
        assert entry["quality"]["cosine_mean"]["value"] == 0.99
        assert entry["source"] == {
            "kind": "package",
            "revision": "0.1.0",
            "fingerprint": artifact.manifest.source.fingerprint,
        }


def test_what_failed_is_synthetic_or_not_whole_is_left_out(outputs, artifact):
    write_result(outputs, SMOLLM2, artifact, {"fp32": PASS, "int8-rtn": FAIL})
    write_result(outputs, "minilm/all_minilm_l12_v2", artifact, {"int8-rtn": PASS}, synthetic=True)
    (outputs / MINILM / "artifacts" / "int8-rtn" / "tokenizer.json").unlink()
    assert listed(outputs) == [f"{SMOLLM2}/artifacts/fp32", f"{MINILM}/artifacts/int4-rtn"]
    reasons = registry.build(outputs)[1]
    assert "verdict is fail" in reasons[f"{SMOLLM2}/artifacts/int8-rtn"]
    assert "synthetic" in reasons["minilm/all_minilm_l12_v2/artifacts/int8-rtn"]
    assert "tokenizer.json is missing" in reasons[f"{MINILM}/artifacts/int8-rtn"]


@pytest.mark.parametrize("key", ["source", "scheme"])
def test_an_artifact_that_was_made_again_is_not_what_was_measured(outputs, key):
    path = outputs / MINILM / "artifacts" / "int8-rtn" / "manifest.json"
    manifest = json.loads(path.read_text())
    other = {"source": {"fingerprint": "0" * 64}, "scheme": {"block_size": 64}}
    manifest[key] |= other[key]
    path.write_text(json.dumps(manifest))
    assert listed(outputs) == [f"{MINILM}/artifacts/int4-rtn"]
    assert "made again" in registry.build(outputs)[1][f"{MINILM}/artifacts/int8-rtn"]


def test_two_ids_of_one_repository_are_one_model(artifact, tmp_path):
    ids = ["tinyllama/tinyllama_1_1b_chat_v1_0", "tinyllama/tinyllama_1_1b_chat"]
    for variant in ids:
        write_result(tmp_path, variant, artifact, {"int4-rtn": PASS})
    (model,) = registry.build(tmp_path)[0].models.values()
    assert model.huggingface_id == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert {entry.path for entry in model.artifacts} == {
        f"{name}/artifacts/int4-rtn" for name in ids
    }


def test_only_the_batch_folders_count(outputs, artifact):
    write_result(outputs, "notebooks/all_minilm_l12_v2", artifact, {"fp32": PASS})
    write_result(outputs, "minilm/unknown", artifact, {"fp32": PASS})
    assert len(listed(outputs)) == 2


def test_the_same_results_give_the_same_bytes_wherever_they_lie(outputs, artifact, tmp_path):
    write_result(outputs, SMOLLM2, artifact, {"fp32": PASS})
    other = tmp_path / "elsewhere"
    write_result(other, SMOLLM2, artifact, {"fp32": PASS})  # in another order
    write_result(other, MINILM, artifact, {"int8-rtn": PASS, "int4-rtn": BELOW})
    command = [sys.executable, "-m", "llmkg_lab.results.registry"]
    for folder in (outputs, other):
        subprocess.run([*command, folder], check=True, cwd=paths.ROOT)
    assert (outputs / "registry.json").read_bytes() == (other / "registry.json").read_bytes()
    assert [path.name for path in other.iterdir() if path.is_file()] == ["registry.json"]


def test_without_results_the_registry_is_empty(tmp_path):
    assert listed(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"result\.json: is not JSON"),
        ('{"format": 1}', r"result\.json: is not of the format llmkg-lab/result/1"),
        ('{"format": "llmkg-lab/result/1"}', "missing required field variant"),
    ],
)
def test_a_broken_result_is_named_and_left_out(outputs, artifact, content, message):
    write_result(outputs, SMOLLM2, artifact, {"fp32": PASS})
    (outputs / MINILM / "result.json").write_text(content)
    assert listed(outputs) == [f"{SMOLLM2}/artifacts/fp32"]
    assert re.search(message, registry.build(outputs)[1][MINILM])
    command = [sys.executable, "-m", "llmkg_lab.results.registry", outputs]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT, check=True)
    assert ended.stdout.startswith(f"not in the registry: {MINILM}: ")


def test_a_registry_is_read_as_it_was_written(outputs):
    built = registry.build(outputs)[0]
    built.save(outputs)
    assert Registry.read(outputs) == built
    (outputs / "registry.json").unlink()
    with pytest.raises(RegistryError, match="No such file"):
        Registry.read(outputs)


@pytest.mark.parametrize(
    ("parameters", "category"),
    [
        *((49_999_999, "Tiny"), (50_000_000, "Small"), (200_000_000, "Medium")),
        *((500_000_000, "Large"), (3_000_000_000, "Large")),
    ],
)
def test_size_categories_are_those_of_llmkg(parameters, category, artifact, tmp_path):
    folder = write_result(tmp_path, MINILM, artifact, {"int4-rtn": PASS}) / "artifacts" / "int4-rtn"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "parameters": parameters}))
    (model,) = registry.build(tmp_path)[0].models.values()
    assert model.size_category == category
