"""The files for programs: the bytes that the first writers wrote, wrong contents, the schemas.

``data`` holds files that were written before there were types for them. They are the measure of
what has to stay readable, and of the bytes that have to come out.
"""

import copy
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from llmkg_lab.artifact import CONFIG, MANIFEST, Artifact, ArtifactError, Manifest, verify
from llmkg_lab.base import paths, records
from llmkg_lab.batch import jobs as batch
from llmkg_lab.batch.states import RunState
from llmkg_lab.results import schemas
from llmkg_lab.results.registry import Registry, RegistryError
from llmkg_lab.results.result import Result, ResultError, results
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster.metrics import METRICS
from llmkg_lab.runtime.backend import artifact_metadata

DATA = Path(__file__).parent / "data"
GOLDEN = sorted(DATA.glob("*.json"))
WRONG = (None, True, -1, 1.5, 10**400, "", "../x", [], [1], [[]], {}, {"x": 1}, {"x": {}})


def form_of(path):
    return schemas.FILES[path.stem.split("-")[0]]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_files_of_the_first_writers_are_read_and_written_byte_for_byte(path):
    content = path.read_bytes()
    assert records.text(records.parse(content, form_of(path))).encode() == content


@pytest.mark.slow
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_real_files_hold_the_published_schemas(path):
    published = paths.ROOT / "docs" / "reference" / f"{path.stem.split('-')[0]}.schema.json"
    schema = json.loads(published.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    content = json.loads(path.read_bytes())
    jsonschema.validate(content, schema, jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content | {"more": 1}, schema, jsonschema.Draft202012Validator)


def test_the_published_schemas_are_up_to_date(tmp_path):
    command = [sys.executable, "-m", "llmkg_lab.results.schemas", str(tmp_path)]
    subprocess.run(command, check=True)
    for path in tmp_path.iterdir():
        published = paths.ROOT / "docs" / "reference" / path.name
        assert path.read_text() == published.read_text(), f"run {' '.join(command[1:3])} again"


def test_every_metric_that_was_measured_is_in_the_table():
    for path in DATA.glob("result-*.json"):
        for scheme in records.parse(path.read_bytes(), Result).schemes.values():
            assert scheme.quality.keys() | scheme.speed.keys() <= METRICS.keys()


def places(value, place=()):
    """Every place in a JSON document, the whole first; of equal lists' items the first."""
    yield place
    if isinstance(value, dict):
        for key, child in value.items():
            yield from places(child, (*place, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*place, 0))


def changed(document, place, value):
    """A document with another value at a place; or, where it is Ellipsis, without any."""
    if not place:
        return value
    document = copy.deepcopy(document)
    inside = document
    for key in place[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return document


def wrong_contents(document):
    """The document with each of its values replaced by wrong ones, left out, and with one more."""
    for place in places(document):
        for value in WRONG if not place else (*WRONG, ...):
            yield changed(document, place, value)
        if isinstance(at(document, place), dict):
            yield changed(document, (*place, "unknown"), 1)


def at(document, place):
    for key in place:
        document = document[key]
    return document


def refusals(document, path, read, error):
    """Write what is wrong to ``path``, one after another: what is said of each that is refused.

    The document itself must be read; an exception of another kind than ``error`` is a fault.
    """
    path.write_text(json.dumps(document))
    read(path.parent)
    said = []
    for content in wrong_contents(document):
        path.write_text(json.dumps(content))
        try:
            read(path.parent)
        except error as refused:
            said.append(refused.message)
    return said


def use_artifact(folder):
    """Ask an artifact what programs ask it."""
    verify(folder)
    artifact = Artifact.open(folder)
    artifact_metadata(artifact, "onnxruntime")
    assert artifact.bits_per_weight >= 0
    assert isinstance(artifact.manifest.warning, str)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["budget", "calibrated-encoder", "gguf", "uncalibrated"])
def test_a_wrong_manifest_is_an_error_that_names_it(name, tmp_path):
    manifest = json.loads((DATA / f"manifest-{name}.json").read_bytes())
    for file in manifest["files"]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        content = b'{"max_position_embeddings": 8, "vocab_size": 9}' if file == CONFIG else b""
        (tmp_path / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][file] = {"bytes": len(content), "sha256": digest}
    said = refusals(manifest, tmp_path / MANIFEST, use_artifact, ArtifactError)
    assert len(said) > 400
    assert all(str(tmp_path) in message for message in said)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["decoder", "encoder"])
def test_a_wrong_result_is_an_error_that_names_it(name, tmp_path):
    result, path = json.loads((DATA / f"result-{name}.json").read_bytes()), tmp_path / "result.json"
    said = refusals(result, path, Result.find, ResultError)
    assert len(said) > 1000
    assert all(message.startswith(str(path)) for message in said)


@pytest.mark.slow
def test_a_wrong_registry_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "registry.json"
    listed = json.loads((DATA / "registry.json").read_bytes())
    said = refusals(listed, path, Registry.read, RegistryError)
    assert len(said) > 500
    assert all(message.startswith(str(path)) for message in said)


def test_an_unreadable_result_disturbs_nobody(tmp_path):
    good, broken = (tmp_path / "minilm" / name for name in ("all_minilm_l6_v2", "other"))
    for folder in (good, broken):
        folder.mkdir(parents=True)
        shutil.copy(DATA / "result-encoder.json", folder / "result.json")
    text = (broken / "result.json").read_text()
    (broken / "result.json").write_text(text.replace('"n": 72', '"n": "72"'))
    assert [path.parent for path, _ in results(tmp_path)] == [good]
    assert batch.last_state(good) is Verdict.BELOW_TARGET
    assert batch.last_state(broken) is RunState.UNREADABLE
    assert batch.last_state(tmp_path) is RunState.NOT_RUN


def test_keys_that_came_later_may_be_missing():
    manifest = json.loads((DATA / "manifest-encoder.json").read_bytes())
    del manifest["calibration"], manifest["pooling"], manifest["scheme"]["dynamic"]
    read = records.parse(json.dumps(manifest).encode(), Manifest)
    assert read.pooling is None
    assert not read.calibration
    assert not read.scheme.dynamic


@pytest.fixture(scope="module")
def artifact(make_artifact):
    return make_artifact("minilm", "int8-rtn")


def rewrite(folder, **changes):
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_verify_names_files_that_are_there_and_not_listed(artifact, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(artifact.folder, folder)
    assert verify(folder) == []
    (folder / "README.md").write_text("for people")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "config.json").write_text("of a program")
    assert verify(folder) == []
    for name in ("chat_template.jinja", "onnx/model.onnx", "added_tokens.json"):
        (folder / name).write_text("{}")
        assert verify(folder) == [f"{name} is not in the manifest, and programs would read it"]
        (folder / name).unlink()
    files = json.loads((folder / MANIFEST).read_text())["files"]
    rewrite(folder, files={name: file for name, file in files.items() if name[:3] != "tok"})
    assert [problem.split()[0] for problem in verify(folder)] == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("a" * 5000, "names 'aaa"), ("a\x00b", "names 'a.x00b'"), ("onnx", "onnx is missing")],
)
def test_a_name_that_no_file_has(name, problem, artifact, tmp_path):
    folder = shutil.copytree(artifact.folder, tmp_path / "copy")
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / "onnx").mkdir(exist_ok=True)
    with pytest.raises(ArtifactError, match=problem):
        Artifact.open(folder)


@pytest.mark.parametrize("left", [{}, {"config.json": {"bytes": 1, "sha256": "0" * 64}}])
def test_a_manifest_lists_its_config_and_model(left, artifact, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(artifact.folder, folder)
    rewrite(folder, files=left)
    with pytest.raises(ArtifactError, match=f"files lacks {'onnx/model' if left else 'config'}"):
        verify(folder)


@pytest.mark.parametrize("config", ["{", "[]", '{"vocab_size": "many"}', '{"vocab_size": true}'])
def test_a_damaged_config_is_named(config, artifact, tmp_path):
    (tmp_path / CONFIG).write_text(config)
    with pytest.raises(ArtifactError, match=r"config\.json"):
        _ = Artifact(tmp_path, artifact.manifest).vocab_size
