"""Encoders whose products are of integers on both sides."""

import numpy as np
import onnxruntime
import pytest

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.graph.layers import Layers
from llmkg_lab.graph.store import Matrix
from llmkg_lab.graph.writer import DataFile, Graph
from llmkg_lab.quantize.blocks.rounding import round_to_nearest
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.scheme import Layout, Scheme, SchemeError

TEXTS = ["A man is eating food.", "The girl is carrying a baby.", "A cheetah runs. " * 20, "Café"]


def test_a_product_is_that_of_the_rounded_integers(tmp_path):
    """Each row of x in 256 steps from its least to its largest value."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 40), (24, 40)))
    x *= np.array([[1e-3], [1], [50], [1], [0]], np.float32)  # rows that share no scale
    x[3] = 7  # of one value, as the last is
    bias = rng.standard_normal(24).astype(np.float32)
    quantized = round_to_nearest(weight, Layout(8, 40, symmetric=True, dynamic=True))
    codes = quantized.codes.reshape(24, 40)
    with DataFile(tmp_path / "model.onnx_data") as data:
        graph = Graph("product", data)
        names = (graph.constant(codes, "codes"), graph.constant(quantized.scales, "scales"))
        matrix = Matrix(24, 40, quantized.layout, names[0], *names)
        layers = Layers(graph, None, Scheme.parse("int8-dyn"))
        feed = graph.input("x", np.float32, ["n", 40])
        layers.product(feed, matrix, graph.constant(bias, "bias"), output="y")
        graph.output("y", np.float32, ["n", 24])
    (tmp_path / "model.onnx").write_bytes(graph.model().SerializeToString())
    (y,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"x": x})

    stored = (codes.astype(np.float64) - 128) * quantized.scales
    least, width = x.min(1, keepdims=True), np.ptp(x, axis=1, keepdims=True)
    shares = np.rint((x - least) / np.where(width, width, 1) * 255) / 255
    expected = (least + shares * width) @ stored.T + bias
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4 * (1 + np.abs(x).max()))


def test_embeddings_are_near_those_in_float32(minilm_folder, make_artifact, tmp_path):
    artifact = convert(open_checkpoint(minilm_folder), Scheme.parse("int8-dyn"), tmp_path / "dyn")
    assert artifact.manifest.scheme.name == "int8-dyn"
    assert (
        artifact.nbytes < make_artifact("minilm", "int8-rtn").nbytes
    )  # one scale per row, not a block
    exact = Embedder(make_artifact("minilm", "fp32")).embed(TEXTS)
    embedder = Embedder(artifact)
    together = embedder.embed(TEXTS)
    assert 0.998 < (together * exact).sum(1).min() < 0.9999
    alone = np.concatenate([embedder.embed([text]) for text in TEXTS])
    # a text's own scales: what is left is float32's, on the border between two steps
    np.testing.assert_allclose(together, alone, atol=2e-3)


def test_a_language_model_is_refused(tiny_llama, tmp_path):
    with pytest.raises(SchemeError, match="too coarse"):
        convert(open_checkpoint(tiny_llama[1]), Scheme.parse("int8-dyn"), tmp_path / "dyn")
    assert not (tmp_path / "dyn").exists()
