"""The whole decoder against ONNX Runtime's run of the same graph, layer by layer; and against
itself: tiles, threads and WebAssembly must not change a bit."""

import base64
import json
import shutil
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support import tiny_folders
from support.native_engine import NativeDecoder

from llmkg_lab.base import paths
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import FILE, bundle
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

# both round activations to 8 bits, and a value on the border may fall to either side, the more so
# as the graph remembers keys and values in float32 and the engine in 16 bits
NEAR = 0.02
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16, "rope_theta": 500.0}  # fmt: skip
SHAPES = {  # what a Llama's config may change
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 128},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "ragged": {"hidden_size": 80, "head_dim": 32, "intermediate_size": 100},
    "scaled": {"rope_parameters": LLAMA3},
    "tied": {"tie_word_embeddings": True},
}
CASES = [
    ("grouped", "int4-rtn"),
    ("biased", "int8-rtn"),
    ("ragged", "int4-b128-s16"),
    ("scaled", "int4-b64-sym-e8b128sym"),
    ("tied", "int4-e4"),
    ("openelm", "int4-s16"),
    ("mixed", "int4-rtn"),
]


def checkpoint_of(shape, folder):
    if shape == "openelm":
        return fetch(find_variant("openelm_270m"), "synthetic:reduced", cache=folder).open()
    return open_checkpoint(tiny_folders.llama(folder / "llama", **SHAPES.get(shape, {})))


@pytest.fixture(scope="session", params=CASES, ids="-".join)
def made(request, tmp_path_factory, web):
    """A bundle, and ids that fill three tiles of its context."""
    shape, scheme = request.param
    folder = tmp_path_factory.mktemp(shape)
    patch = pytest.MonkeyPatch()
    patch.setenv("LLMKG_LAB_WEB", str(web))
    assert paths.web() == web
    artifact = convert(checkpoint_of(shape, folder), Scheme.parse(scheme), folder / "artifact")
    made = bundle(artifact, folder / "bundle")
    patch.undo()
    ids = np.random.default_rng(0).integers(0, artifact.vocab_size, 40)
    return made, ids


def run_graph(folder, ids):
    """The residual stream after each layer, (tokens, hidden) each, and the logits."""
    manifest = json.loads((folder / FILE).read_text())
    model = onnx.load(folder / manifest["model"], load_external_data=False)
    totals = [node.output[3] for node in model.graph.node if node.op_type.startswith("Skip")]
    residuals = totals[1::2]  # after attention, after the feed-forward; and again
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in residuals
    )
    path = (folder / manifest["model"]).with_name("traced.onnx")
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path)
    feeds = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
        elif value.name == "num_logits_to_keep":
            feeds[value.name] = np.array(0)
    *layers, logits = session.run([*residuals, "logits"], feeds)
    path.unlink()
    return [layer[0] for layer in layers], logits[0]


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.slow
def test_each_layer_computes_what_the_graph_does(engine, made):
    folder, ids = made
    layers, logits = run_graph(folder, ids)
    decoder = NativeDecoder(engine, folder)
    assert len(layers) == decoder.layers
    for i, wanted in enumerate(layers):
        found = decoder.step(ids, 0, layers=i + 1).reshape(len(ids), -1)
        assert distance(found, wanted) < NEAR, f"layer {i}"
    assert distance(decoder.all_logits(ids), logits) < NEAR
    decoder.close()


def test_tiles_and_threads_change_no_bit(engine, made):
    folder, ids = made
    decoder = NativeDecoder(engine, folder)
    whole = decoder.all_logits(ids)
    for tile in (1, 7, 33):
        np.testing.assert_array_equal(decoder.all_logits(ids, tile), whole)
    decoder.close()
    team = NativeDecoder(engine, folder, threads=3)
    for tile in (1, 40):
        np.testing.assert_array_equal(team.all_logits(ids, tile), whole)
    team.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize("variant", ["relaxed", "plain"])
def test_webassembly_gives_the_same_bits(engine, binaries, made, variant, tmp_path):
    folder, ids = made
    decoder = NativeDecoder(engine, folder)
    decoder.words.tofile(tmp_path / "words")
    decoder.weights.tofile(tmp_path / "weights")
    binary = next(path for path in binaries if variant in path.name)
    flags = ["--experimental-wasm-relaxed-simd", "--no-liftoff"] if variant == "relaxed" else []
    script = [str(paths.ROOT / "tests" / "engine" / "run_engine.mjs"), str(binary)]
    files = [str(tmp_path / "words"), str(tmp_path / "weights"), json.dumps(ids.tolist())]
    said = subprocess.run(["node", *flags, *script, *files], capture_output=True, check=True).stdout
    rows = [np.frombuffer(base64.b64decode(row), np.float32) for row in json.loads(said)]
    np.testing.assert_array_equal(np.stack(rows), decoder.all_logits(ids))
    decoder.close()


def test_what_the_engine_does_not_compute_is_refused(engine, made):
    folder, _ = made
    decoder = NativeDecoder(engine, folder)
    wrong = {0: 1, 1: 0, 3: 2000, 4: 20, 6: 0, 10: 7, 11: 8, 12: 3, 13: 16, 15: 0xFFFFFFFF}
    for index, value in wrong.items():  # version, vocab, layers, head_dim, threads, the table's
        words = decoder.words.copy()
        words[index] = value
        assert engine.decoder_bytes(words.ctypes.data, len(words)) == 0, index
    assert engine.decoder_bytes(decoder.words.ctypes.data, len(decoder.words) - 1) == 0
    words = decoder.words.copy()
    words[5] = 1 << 24  # positions
    assert engine.decoder_bytes(words.ctypes.data, len(words)) > 1 << 32
    decoder.close()
