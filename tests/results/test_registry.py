"""The registry over a real artifact; results as docs/design.md describes them."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from llmkg_lab.base import paths
from llmkg_lab.results import registry
from llmkg_lab.results.registry import RegistryError
from llmkg_lab.roster import catalog

MINILM, SMOLLM2 = "minilm/all_minilm_l6_v2", "smollm/smollm2_135m_instruct"


def write_result(outputs, variant, artifact, verdicts, synthetic=False):
    """A variant's folder: ``artifact`` once a scheme, and the result.json that measured it."""
    manifest, folder = artifact.manifest, outputs / variant
    schemes = {
        name: {
            "scheme": manifest["scheme"],
            "bytes": artifact.nbytes,
            "bits_per_weight": artifact.bits_per_weight,
            "artifact": f"artifacts/{name}",
            "groups": manifest["groups"],
            "quality": {"cosine_mean": {"value": 0.99, "low": 0.98, "high": 0.999, "n": 80}},
            "protocol": {"corpus": "stsb"},
            "speed": {"embed_ms": {"value": 4.0, "low": 3.9, "high": 4.2, "n": 10}},
            "conditions": {"threads": 2},
            "verdict": verdict,
            "reasons": [] if verdict == "pass" else ["cosine_mean is 0.99"],
        }
        for name, verdict in verdicts.items()
    }
    for name in verdicts:
        shutil.copytree(artifact.folder, folder / "artifacts" / name)
    source = {**manifest["source"], "kind": "package", "revision": "0.1.0", "synthetic": synthetic}
    result = {"source": source, "schemes": schemes}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


@pytest.fixture(scope="module")
def artifact(make_artifact):
    return make_artifact("minilm", "int4")


@pytest.fixture
def outputs(artifact, tmp_path):
    write_result(tmp_path, MINILM, artifact, {"int8": "pass", "int4": "below target"})
    return tmp_path


def listed(outputs):
    """Paths of what the written registry lists."""
    registry.save(registry.build(outputs), outputs)
    models = json.loads((outputs / "registry.json").read_text())["models"]
    return [entry["path"] for model in models.values() for entry in model["artifacts"]]


def test_a_model_is_listed_under_its_hub_id(outputs, artifact):
    registry.save(registry.build(outputs), outputs)
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
        ("int8", "pass"),
        ("int4", "below target"),
    ]
    for entry in entries:
        manifest = outputs / entry["path"] / "manifest.json"
        assert entry["manifest_sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
        assert entry["bytes"] == artifact.nbytes
        assert entry["quality"]["cosine_mean"]["value"] == 0.99
        assert entry["source"] == {
            "kind": "package",
            "revision": "0.1.0",
            "fingerprint": artifact.manifest["source"]["fingerprint"],
        }


def test_what_failed_is_synthetic_or_not_whole_is_left_out(outputs, artifact):
    write_result(outputs, SMOLLM2, artifact, {"fp32": "pass", "int8": "fail"})
    write_result(outputs, "minilm/all_minilm_l12_v2", artifact, {"int8": "pass"}, synthetic=True)
    (outputs / MINILM / "artifacts" / "int8" / "tokenizer.json").unlink()
    assert listed(outputs) == [f"{SMOLLM2}/artifacts/fp32", f"{MINILM}/artifacts/int4"]
    reasons = registry.build(outputs).left_out
    assert "verdict is fail" in reasons[f"{SMOLLM2}/artifacts/int8"]
    assert "synthetic" in reasons["minilm/all_minilm_l12_v2/artifacts/int8"]
    assert "tokenizer.json is missing" in reasons[f"{MINILM}/artifacts/int8"]


@pytest.mark.parametrize("key", ["source", "scheme"])
def test_an_artifact_that_was_made_again_is_not_what_was_measured(outputs, key):
    path = outputs / MINILM / "artifacts" / "int8" / "manifest.json"
    manifest = json.loads(path.read_text())
    other = {"source": {"fingerprint": "0" * 64}, "scheme": {"block_size": 64}}
    manifest[key] |= other[key]
    path.write_text(json.dumps(manifest))
    assert listed(outputs) == [f"{MINILM}/artifacts/int4"]
    assert "made again" in registry.build(outputs).left_out[f"{MINILM}/artifacts/int8"]


def test_two_ids_of_one_repository_are_one_model(artifact, tmp_path):
    ids = ["tinyllama/tinyllama_1_1b_chat_v1_0", "tinyllama/tinyllama_1_1b_chat"]
    for variant in ids:
        write_result(tmp_path, variant, artifact, {"int4": "pass"})
    (model,) = registry.build(tmp_path).models.values()
    assert model.metadata.huggingface_id == "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    assert {entry.path for entry in model.artifacts} == {f"{name}/artifacts/int4" for name in ids}


def test_only_the_batch_folders_count(outputs, artifact):
    write_result(outputs, "notebooks/all_minilm_l12_v2", artifact, {"fp32": "pass"})
    write_result(outputs, "minilm/unknown", artifact, {"fp32": "pass"})
    assert len(listed(outputs)) == 2


def test_the_same_results_give_the_same_bytes_wherever_they_lie(outputs, artifact, tmp_path):
    write_result(outputs, SMOLLM2, artifact, {"fp32": "pass"})
    other = tmp_path / "elsewhere"
    write_result(other, SMOLLM2, artifact, {"fp32": "pass"})  # in another order
    write_result(other, MINILM, artifact, {"int8": "pass", "int4": "below target"})
    command = [sys.executable, "-m", "llmkg_lab.results.registry"]
    for folder in (outputs, other):
        subprocess.run([*command, folder], check=True, cwd=paths.ROOT)
    assert (outputs / "registry.json").read_bytes() == (other / "registry.json").read_bytes()
    assert [path.name for path in other.iterdir() if path.is_file()] == ["registry.json"]


def test_without_results_the_registry_is_empty(tmp_path):
    assert listed(tmp_path) == []


def test_a_broken_result_is_named_and_the_registry_stays_as_it_was(outputs):
    before = listed(outputs)
    (outputs / MINILM / "result.json").write_text("{")
    with pytest.raises(RegistryError, match=r"all_minilm_l6_v2.result\.json is not JSON"):
        registry.build(outputs)
    command = [sys.executable, "-m", "llmkg_lab.results.registry", outputs]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=paths.ROOT)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    models = json.loads((outputs / "registry.json").read_text())["models"].values()
    assert [entry["path"] for model in models for entry in model["artifacts"]] == before


@pytest.mark.parametrize(
    ("parameters", "category"),
    [(49e6, "Tiny"), (50e6, "Small"), (200e6, "Medium"), (500e6, "Large"), (3e9, "Large")],
)
def test_size_categories_are_those_of_llmkg(parameters, category, artifact, tmp_path):
    folder = write_result(tmp_path, MINILM, artifact, {"int4": "pass"}) / "artifacts" / "int4"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "parameters": parameters}))
    (model,) = registry.build(tmp_path).models.values()
    assert model.metadata.size_category == category
