"""Bundles: the same bytes each time, whole, and a graph that computes what the artifact's does."""

import hashlib
import json

import numpy as np
import onnx
import onnxruntime
import pytest
from support import tiny_folders

from llmkg_lab.artifact import ArtifactError
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import FILE, RANGE, bundle
from llmkg_lab.conversion.web_graph import WebGraph
from llmkg_lab.scheme import Scheme

SCHEMES = ("int4-rtn", "int8-rtn", "int4-s16-e8b64sym", "int4-e4", "int4-b128-sym-e4", "fp16")


@pytest.fixture(autouse=True)
def built_page(tmp_path, monkeypatch):
    """A folder in the place of the page, with one script."""
    folder = tmp_path / "web"
    folder.mkdir()
    (folder / "llmkg-lab.js").write_text("export {};")
    monkeypatch.setenv("LLMKG_LAB_WEB", str(folder))
    return folder


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    tiny_folders.llama(folder / "llama", tie_word_embeddings=True, hidden_size=80, head_dim=16)
    opened = open_checkpoint(folder / "llama")
    return {name: convert(opened, Scheme.parse(name), folder / name) for name in SCHEMES}


def run(path, ids, keep):
    session = onnxruntime.InferenceSession(path)
    feeds = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    feeds["num_logits_to_keep"] = np.array(keep)
    return session.run(["logits"], feeds)[0][0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_web_graph_computes_the_same(artifacts, scheme, tmp_path):
    artifact, ids = artifacts[scheme], np.arange(20)
    made = bundle(artifact, tmp_path / "bundle")
    path = made / artifact.manifest.model
    wanted = run(artifact.model_path, ids, 0)
    np.testing.assert_array_equal(run(path, ids, 0), wanted)
    np.testing.assert_array_equal(run(path, ids, 2), wanted[-2:])
    model = onnx.load(path, load_external_data=False)
    assert not {node.op_type for node in model.graph.node} & {"GatherBlockQuantized"}
    stored = {tensor.name for tensor in model.graph.initializer}
    assert "num_logits_to_keep" not in stored  # or nobody would feed it
    engine = json.loads((made / FILE).read_text())["engine"]
    assert ("decoder" in engine) == (scheme != "fp16")


def test_a_bundle_is_whole_and_the_same_each_time(artifacts, tmp_path):
    first, second = (bundle(artifacts["int4-rtn"], tmp_path / name) for name in ("a", "b"))
    files = {p.relative_to(first): p.read_bytes() for p in first.rglob("*") if p.is_file()}
    again = {p.relative_to(second): p.read_bytes() for p in second.rglob("*") if p.is_file()}
    assert files == again
    manifest = json.loads((first / FILE).read_text())
    listed = {name: file["sha256"] for name, file in manifest["files"].items()}
    found = {str(name): hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert listed == {name: digest for name, digest in found.items() if name != FILE}
    hints = json.loads((first / "config.json").read_text())["transformers.js_config"]
    assert hints == {"dtype": "q4", "use_external_data_format": {"model_q4.onnx": 1}}


def test_pieces_are_cut_between_tensors(artifacts, tmp_path):
    artifact = artifacts["int8-rtn"]
    model = onnx.load(artifact.model_path, load_external_data=False)
    graph = WebGraph(model, artifact.model_path)
    (tmp_path / "onnx").mkdir()
    pieces = graph.write(tmp_path / "onnx" / "model.onnx", [], 3)
    names = ["model.onnx_data", "model.onnx_data_1", "model.onnx_data_2"]
    assert [piece.name for piece in pieces] == names
    ids = np.arange(9)
    wanted = run(artifact.model_path, ids, 1)
    np.testing.assert_array_equal(run(tmp_path / "onnx" / "model.onnx", ids, 1), wanted)
    for place in graph.places.values():
        assert place.offset % 64 == 0
        assert place.offset + place.nbytes <= pieces[place.piece].stat().st_size


def test_ranges_have_hashes_of_their_own(tmp_path, built_page, artifacts):
    content = np.random.default_rng(0).bytes(RANGE + 5)
    (built_page / "large.wasm").write_bytes(content)
    made = bundle(artifacts["int4-rtn"], tmp_path / "bundle")
    file = json.loads((made / FILE).read_text())["files"]["large.wasm"]
    parts = [content[:RANGE], content[RANGE:]]
    assert file["ranges"] == [hashlib.sha256(part).hexdigest() for part in parts]


def test_what_cannot_be_bundled_is_refused(artifacts, tmp_path, built_page):
    made = bundle(artifacts["int4-rtn"], tmp_path / "bundle")
    with pytest.raises(ArtifactError, match="exists"):
        bundle(artifacts["int4-rtn"], made)
    bundle(artifacts["int8-rtn"], made, force=True)
    manifest = json.loads((made / FILE).read_text())
    assert manifest["quantization"] == "int8-rtn"
    assert manifest["quantization_in_words"] == "8 bits, rounded to nearest"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years")
    with pytest.raises(ArtifactError, match="is not an artifact"):
        bundle(artifacts["int4-rtn"], other, force=True)
    (built_page / "llmkg-lab.js").unlink()
    with pytest.raises(LabError, match="make web"):
        bundle(artifacts["int4-rtn"], tmp_path / "unbuilt")
