"""Every variant as a bundle, at its reduced size: decoders by the engine, beside the graph;
encoders by the page's own loader in Node, beside this package's runtime."""

import json
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest
from support.bundles import BUILT, serving
from support.native_engine import NativeDecoder

from llmkg_lab.base import paths
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import FILE, bundle
from llmkg_lab.roster.catalog import roster
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

GENERATES = "text-generation"
DECODERS = [name for name, variant in roster().items() if variant.task == GENERATES]
ENCODERS = [name for name in roster() if name not in DECODERS]
TEXTS = [
    "how do cats sleep",
    "A cat sleeps all day.",
    "Steel is an alloy of iron and carbon. " * 40,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_every_decoder_runs_in_the_engine(engine, name, tmp_path, monkeypatch):
    (tmp_path / "llmkg-lab.js").write_text("")
    monkeypatch.setenv("LLMKG_LAB_WEB", str(tmp_path))
    checkpoint = fetch(roster()[name], "synthetic:reduced").open()
    artifact = convert(checkpoint, Scheme.parse("int4-s16"), tmp_path / "artifact")
    made = bundle(artifact, tmp_path / "bundle")
    manifest = json.loads((made / FILE).read_text())
    ids = np.random.default_rng(0).integers(0, artifact.vocab_size, 12)
    decoder = NativeDecoder(engine, made, positions=32)
    found = decoder.all_logits(ids)
    decoder.close()
    session = onnxruntime.InferenceSession(made / manifest["model"])
    feeds = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
    feeds["num_logits_to_keep"] = np.array(0)
    for value in session.get_inputs():
        if value.name.startswith("past"):
            feeds[value.name] = np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    wanted = session.run(["logits"], feeds)[0][0]
    # a value on the border between two 8-bit activations may fall to either side
    assert np.linalg.norm(found - wanted) < 0.03 * np.linalg.norm(wanted)


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.skipif(not BUILT, reason="the page is not built: make web")
@pytest.mark.parametrize("scheme", ["int8-dyn", "int8-rtn", "int4-rtn"])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_runs_in_node(name, scheme, tmp_path):
    checkpoint = fetch(roster()[name], "synthetic:reduced").open()
    artifact = convert(checkpoint, Scheme.parse(scheme), tmp_path / "artifact")
    made = bundle(artifact, tmp_path / "bundle")
    script = [str(paths.ROOT / "tests/engine/run_encoder.mjs"), str(paths.web() / "llmkg-lab.js")]
    with serving({"made": made}) as server:
        address = f"{server.address}bundles/made/"
        command = ["node", *script, address, json.dumps(TEXTS)]
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    answer = json.loads(said.splitlines()[-1])
    found = np.array(answer["results"])
    assert answer["engine"].startswith("ONNX Runtime" if scheme == "int8-dyn" else "llmkg-lab")
    if artifact.task == "text-ranking":
        wanted = Ranker(artifact).score([(TEXTS[0], text) for text in TEXTS[1:]])
        # a value on the border between two steps may fall to either side, in random weights far
        np.testing.assert_allclose(found, wanted, atol=0.05)
    else:
        wanted = Embedder(artifact).embed(TEXTS)
        assert (found * wanted).sum(1).min() > (0.998 if scheme == "int4-rtn" else 0.9999)
