"""Calibrated encoders, on the real MiniLM as ONNX Runtime runs it."""

import hashlib

import numpy as np
import pytest

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.convert import convert
from llmkg_lab.quantize import Scheme, encoder
from llmkg_lab.runtime.ort import Embedder
from llmkg_lab.texts import Text, TextError, load

SENTENCES = [
    "A man is playing a guitar on the street.",
    "The committee will publish its report next week.",
    "Water boils at a lower temperature on high mountains.",
    "Two dogs run through the snow.",
    "Shares fell sharply after the announcement.",
    "How do I reset my password?",
]


def test_calibration_halves_the_error_and_is_reproducible(
    minilm_folder, make_artifact, tmp_path, monkeypatch
):
    monkeypatch.setattr(encoder, "SENTENCES", 96)  # a tenth: the margin is smaller, and it is fast
    checkpoint, scheme = open_checkpoint(minilm_folder), Scheme.parse("int4-b64-s16-gptq")
    one, two = (convert(checkpoint, scheme, tmp_path / name) for name in ("one", "two"))
    hashes = [
        hashlib.sha256(a.model_path.with_name(f"{a.model_path.name}_data").read_bytes()).digest()
        for a in (one, two)
    ]
    assert hashes[0] == hashes[1]
    record = one.manifest["calibration"]
    assert (record["method"], record["sentences"]) == ("gptq", 96)

    def error(artifact) -> float:  # 1 - cosine; embeddings have length one
        return float(1 - np.mean(np.sum(Embedder(artifact).embed(SENTENCES) * original, axis=1)))

    original = Embedder(make_artifact("minilm", "fp32")).embed(SENTENCES)
    plain = convert(checkpoint, Scheme.parse("int4-b64-s16"), tmp_path / "plain")
    assert error(one) < 0.6 * error(plain)


def test_biases_are_replaced_and_all_else_is_read_through(minilm_folder):
    checkpoint = open_checkpoint(minilm_folder)
    name = "encoder.layer.0.output.dense.bias"
    shifted = checkpoint.read(name) + 1
    view = encoder.Rebiased(checkpoint, {name: shifted})
    np.testing.assert_array_equal(view.read(name, slice(3, 9)), shifted[3:9])
    other = "encoder.layer.1.output.dense.weight"
    rows = slice(5, 8)
    np.testing.assert_array_equal(view.read(other, rows), checkpoint.read(other, rows))
    assert view.pooling == checkpoint.pooling


def test_sentences_come_from_the_calibration_half_only():
    text = load(encoder.CORPORA)
    found = encoder.sentences_of(text.calibration)
    assert len(found) >= encoder.SENTENCES == len(set(found[: encoder.SENTENCES]))
    assert all(sentence in text.calibration for sentence in found)


def test_a_text_without_sentences_is_refused():
    assert encoder.sentences_of(Text("t", "", "", "Too short. One two three four five!").text) == [
        "One two three four five!"
    ]
    with pytest.raises(TextError, match="no sentence"):
        encoder.sentences_of("Heading\n\n1 2 3\n")
