"""Calibrated encoders, on two layers of the real MiniLM as ONNX Runtime runs them."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.checkpoint.views import Revised
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data import texts
from llmkg_lab.data.texts import Text, TextError, load
from llmkg_lab.quantize.solve import encoder
from llmkg_lab.quantize.solve.text import PROSE
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.scheme import Scheme

SENTENCES = [
    "A man is playing a guitar on the street.",
    "The committee will publish its report next week.",
    "Water boils at a lower temperature on high mountains.",
    "Two dogs run through the snow.",
    "Shares fell sharply after the announcement.",
    "How do I reset my password?",
]


@pytest.fixture
def two_layers(minilm_folder, tmp_path) -> Path:
    """MiniLM without its upper four layers: a third of the work."""
    folder = tmp_path / "model"
    shutil.copytree(minilm_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    tensors = load_file(minilm_folder / "model.safetensors")
    above = tuple(f"encoder.layer.{i}." for i in range(2, 6))
    kept = {name: values for name, values in tensors.items() if not name.startswith(above)}
    save_file(kept, folder / "model.safetensors")
    return folder


def test_calibration_halves_the_error_and_is_reproducible(two_layers, tmp_path, monkeypatch):
    monkeypatch.setitem(encoder.SENTENCES, "normal", 96)  # the margin is smaller, and it is fast
    checkpoint = open_checkpoint(two_layers)
    names = {"fp32": "fp32", "plain": "int4-s16", "one": "int4-s16-gptq", "two": "int4-s16-gptq"}
    artifacts = {
        key: convert(checkpoint, Scheme.parse(name), tmp_path / key) for key, name in names.items()
    }
    data = [
        artifacts[key].model_path.with_suffix(".onnx_data").read_bytes() for key in ("one", "two")
    ]
    assert hashlib.sha256(data[0]).digest() == hashlib.sha256(data[1]).digest()
    record = artifacts["one"].manifest.calibration
    assert (record.method, record.sentences) == ("gptq", 96)
    embeddings = {key: Embedder(artifact).embed(SENTENCES) for key, artifact in artifacts.items()}

    def error(key: str) -> float:  # 1 - cosine; embeddings have length one
        return float(1 - np.mean(np.sum(embeddings[key] * embeddings["fp32"], axis=1)))

    assert error("one") < 0.6 * error("plain")


def test_biases_are_replaced_and_all_else_is_read_through(minilm_folder):
    checkpoint = open_checkpoint(minilm_folder)
    name = "encoder.layer.0.output.dense.bias"
    shifted = checkpoint.read(name) + 1
    view = Revised(checkpoint, {name: shifted})
    np.testing.assert_array_equal(view.read(name, slice(3, 9)), shifted[3:9])
    other = "encoder.layer.1.output.dense.weight"
    rows = slice(5, 8)
    np.testing.assert_array_equal(view.read(other, rows), checkpoint.read(other, rows))
    assert view.pooling == checkpoint.pooling


def test_sentences_come_from_the_calibration_half_only():
    text = load(PROSE)
    found = encoder.sentences_of(text.calibration)
    assert len(found) >= encoder.SENTENCES["normal"] == len(set(found[:800]))
    assert all(sentence in text.calibration for sentence in found)


def test_sentences_of_several_kinds_are_read_by_turns():
    news, tokens = ["a", "b", "c", "d"], ["1", "2"]
    assert encoder.by_turns([news, tokens], 5) == ["a", "1", "b", "2", "c"]
    assert encoder.by_turns([news, tokens], 99) == ["a", "1", "b", "2", "c", "d"]
    spaced = "He was born in 1980 @-@ 81 . She came from <unk> to the town . They met there later ."
    assert encoder.sentences_of(spaced) == ["They met there later ."]


def test_a_text_without_sentences_is_refused():
    assert encoder.sentences_of(Text("t", "", "", "Too short. One two three four five!").text) == [
        "One two three four five!"
    ]
    with pytest.raises(TextError, match="no sentence"):
        encoder.sentences_of("Heading\n\n1 2 3\n")


def test_without_text_an_encoder_is_searched_and_a_warning_says_so(
    two_layers, tmp_path, monkeypatch
):
    def load_nothing(corpora):
        raise TextError("no text is here", "install one")

    monkeypatch.setattr(texts, "load", load_nothing)
    checkpoint, scheme = open_checkpoint(two_layers), Scheme.parse("int4-s16-gptq")
    with pytest.warns(UserWarning, match="int4-s16-gptq is NOT calibrated: no text is here"):
        artifact = convert(checkpoint, scheme, tmp_path / "searched")
    assert artifact.manifest.calibration.method == "mse"
    plain = convert(checkpoint, Scheme.parse("int4-s16"), tmp_path / "plain")

    def error(artifact: Artifact) -> float:
        return sum(g.rms_error for g in artifact.manifest.groups)

    assert error(artifact) < 0.99 * error(plain)
