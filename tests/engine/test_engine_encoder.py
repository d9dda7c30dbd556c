"""The whole encoder against ONNX Runtime's run of the same graph, layer by layer; and against
itself: threads and WebAssembly must not change a bit."""

import base64
import json
import shutil
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
import transformers
from onnx import TensorProto, helper
from support import tiny_folders
from support.native_engine import NativeEncoder

from llmkg_lab.base import paths
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import FILE, bundle
from llmkg_lab.scheme import Scheme

CLASSIFIER = transformers.BertForSequenceClassification
EMBEDDER = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
SHAPES = {
    "states": EMBEDDER,
    "mean": {**EMBEDDER, "pooling": {"mode": "mean_tokens", "normalize": True}},
    "first": {**EMBEDDER, "pooling": {"mode": "cls_token", "normalize": False}},
    "cut": {**EMBEDDER, "pooling": {"mode": "mean_tokens", "normalize": True, "kept": 24}},
    "ragged": {"hidden_size": 80, "num_attention_heads": 5, "intermediate_size": 100},
    "wide": {"hidden_size": 96, "num_attention_heads": 3, "num_hidden_layers": 3,
             "intermediate_size": 400, "layer_norm_eps": 1e-5},
    "ranker": {"hidden_size": 128, "num_attention_heads": 2, "kind": CLASSIFIER, "num_labels": 3},
}  # fmt: skip
CASES = [
    ("states", "int8-rtn"),
    ("mean", "int8-rtn"),
    ("first", "int4-rtn"),
    ("cut", "int4-b128"),
    ("ragged", "int4-rtn"),
    ("wide", "int8-b64-sym"),
    ("wide", "int4-s16-e8b128sym"),
    ("ranker", "int8-rtn"),
    ("ranker", "int4-rtn"),
]
TOKENS = 37


def pool(folder, mode, normalize, kept=None):
    """Let a checkpoint pool its states, as sentence-transformers has it."""
    normal = {
        "idx": 2,
        "name": "2",
        "path": "2_Normalize",
        "type": "sentence_transformers.models.Normalize",
    }
    (folder / "1_Pooling").mkdir()
    modules = [*tiny_folders.MODULES, *([normal] if normalize else [])]
    size = {"word_embedding_dimension": EMBEDDER["hidden_size"]}
    pooling = {**size, f"pooling_mode_{mode}": True}
    tiny_folders.write(folder, modules=modules, **{"1_Pooling/config": pooling})
    if kept:
        tiny_folders.write(folder, config_sentence_transformers={"truncate_dim": kept})


def make(shape, scheme, folder, web):
    """A bundle of a random BERT whose classifier's labels, if any, all count."""
    config = dict(SHAPES[shape])
    pooling = config.pop("pooling", None)
    checkpoint = tiny_folders.bert(folder / "bert", **config)
    if pooling:
        pool(checkpoint, **pooling)
    patch = pytest.MonkeyPatch()
    patch.setenv("LLMKG_LAB_WEB", str(web))
    artifact = convert(open_checkpoint(checkpoint), Scheme.parse(scheme), folder / "artifact")
    made = bundle(artifact, folder / "bundle")
    patch.undo()
    return made


@pytest.fixture(scope="session", params=CASES, ids="-".join)
def made(request, tmp_path_factory, web):
    """A bundle, and a pair of texts: ids and types."""
    shape, scheme = request.param
    folder = make(shape, scheme, tmp_path_factory.mktemp(shape), web)
    ids = np.random.default_rng(0).integers(0, 128, TOKENS)
    return folder, ids, (np.arange(TOKENS) > TOKENS // 2).astype(np.int64)


def run_graph(folder, ids, types):
    """The hidden states after each layer, (tokens, hidden) each, and what is made of the last."""
    manifest = json.loads((folder / FILE).read_text())
    model = onnx.load(folder / manifest["model"], load_external_data=False)
    norms = [n.output[0] for n in model.graph.node if n.op_type == "LayerNormalization"]
    states = norms[2::2]  # of the embeddings; after attention, after the feed-forward; and again
    outputs = [value.name for value in model.graph.output]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in states
        if name not in outputs
    )
    path = (folder / manifest["model"]).with_name("traced.onnx")
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(path)
    feeds = {"input_ids": ids[None], "attention_mask": np.ones_like(ids)[None]}
    *layers, result = session.run([*states, outputs[-1]], {**feeds, "token_type_ids": types[None]})
    path.unlink()
    return [layer[0] for layer in layers], result[0]


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def test_each_layer_computes_what_the_graph_does(engine, made):
    folder, ids, types = made
    layers, result = run_graph(folder, ids, types)
    encoder = NativeEncoder(engine, folder)
    assert len(layers) == len(encoder.shape["layers"])
    for i, wanted in enumerate(layers):
        found = encoder.states(ids, types, i + 1)
        # both round activations to 8 bits; a value on the border may fall to either side
        assert distance(found, wanted) < 0.03, f"layer {i}"
        assert np.abs(found - wanted).max() < 0.2, f"layer {i}"
    found = encoder.run(ids, types)
    if result.ndim == 2:  # nothing is pooled: the mean, of length 1
        result = result.mean(0) / np.linalg.norm(result.mean(0))
    assert distance(found, result) < 0.01
    encoder.close()


def test_threads_change_no_bit(engine, made):
    folder, ids, types = made
    encoder, team = NativeEncoder(engine, folder), NativeEncoder(engine, folder, threads=3)
    for count in (1, 2, 5, TOKENS):
        wanted = encoder.run(ids[:count], types[:count])
        np.testing.assert_array_equal(team.run(ids[:count], types[:count]), wanted)
    encoder.close()
    team.close()


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize("variant", ["relaxed", "plain"])
def test_webassembly_gives_the_same_bits(engine, binaries, made, variant, tmp_path):
    folder, ids, types = made
    encoder = NativeEncoder(engine, folder)
    encoder.words.tofile(tmp_path / "words")
    encoder.weights.tofile(tmp_path / "weights")
    binary = next(path for path in binaries if variant in path.name)
    flags = ["--experimental-wasm-relaxed-simd", "--no-liftoff"] if variant == "relaxed" else []
    script = [str(paths.ROOT / "tests" / "engine" / "run_engine_encoder.mjs"), str(binary)]
    files = [
        str(tmp_path / "words"),
        str(tmp_path / "weights"),
        json.dumps([ids.tolist(), types.tolist()]),
    ]
    said = subprocess.run(["node", *flags, *script, *files], capture_output=True, check=True).stdout
    found = np.frombuffer(base64.b64decode(said), np.float32)
    np.testing.assert_array_equal(found, encoder.run(ids, types))
    encoder.close()


def test_what_the_engine_does_not_compute_is_refused(engine, made):
    folder, _, _ = made
    encoder = NativeEncoder(engine, folder)
    # version, vocab, hidden, layers, heads, width, positions, types, threads, output, its size; the
    # gain of the first norm, the table's rows, bits and block size
    wrong = {0: 1, 1: 0, 2: 48, 3: 2000, 4: 7, 5: 1, 6: 0, 7: 0, 8: 0, 9: 3, 10: 0, 15: 0xFFFFFFFF,
             19: 7, 21: 3, 22: 16}  # fmt: skip
    for index, value in wrong.items():
        words = encoder.words.copy()
        words[index] = value
        assert engine.encoder_bytes(words.ctypes.data, len(words)) == 0, index
    assert engine.encoder_bytes(encoder.words.ctypes.data, len(encoder.words) - 1) == 0
    encoder.close()
