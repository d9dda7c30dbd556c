"""Every variant as a bundle, at its reduced size: decoders by the engine, beside the graph."""

import json

import numpy as np
import onnxruntime
import pytest
from support.native_engine import NativeDecoder

from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.conversion.to_web import FILE, bundle
from llmkg_lab.roster.catalog import roster
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

VARIANTS = [name for name, variant in roster().items() if variant.task == "text-generation"]


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
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
