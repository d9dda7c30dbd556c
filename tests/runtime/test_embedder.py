"""Sentence embeddings against transformers, pooled and normalized as sentence-transformers does."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.decoder import Embedder
from llmkg_lab.scheme import Scheme

TEXTS = [
    "A man is eating food.",
    "",
    "The girl is carrying a baby, and the baby is sleeping in the sun.",
    "A cheetah runs. " * 60,  # 241 tokens, more than its tokenizer.json allows by itself
    "Café",
]


@pytest.fixture(scope="module")
def embedder(make_artifact):
    return Embedder(make_artifact("minilm", "fp32"))


def reference(folder, texts: list[str], max_length: int) -> np.ndarray:
    """Mean of the token states under the mask, then unit length: (texts, 384)."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    inputs = tokenizer(
        texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt"
    )
    with torch.no_grad():
        states = model.eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1)
    means = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(means).numpy()


def test_embeddings_are_those_of_pytorch(embedder, minilm_folder):
    ours = embedder.embed(TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(
        ours, reference(minilm_folder, TEXTS, embedder.max_length), rtol=0, atol=1e-5
    )


def test_a_text_s_embedding_does_not_depend_on_its_batch(embedder):
    together = embedder.embed(TEXTS)
    for batch_size in (1, 2):
        np.testing.assert_allclose(embedder.embed(TEXTS, batch_size), together, atol=1e-6)
    np.testing.assert_allclose(embedder.embed(TEXTS[::-1])[::-1], together, atol=1e-6)
    assert embedder.embed([]).shape == (0, 384)


def test_each_core_runs_batches_of_its_own(make_artifact):
    """Many texts, on one thread and on two: the same embeddings, at their texts' places."""
    texts = [f"{text} {i}" for i in range(12) for text in TEXTS]
    alone, together = (Embedder(make_artifact("minilm", "fp32"), threads) for threads in (1, 2))
    expected = alone.embed(texts)
    np.testing.assert_allclose(together.embed(texts), expected, atol=1e-6)
    assert together._sessions._single is not together.session
    np.testing.assert_allclose(together.embed(texts[:1]), expected[:1], atol=1e-6)


def test_what_is_beyond_the_maximal_length_is_cut_off(embedder):
    long = "word " * embedder.max_length
    np.testing.assert_allclose(*embedder.embed([long, long + "and more"]), atol=1e-6)


def test_an_encoder_without_pooling_is_pooled_by_the_mean(minilm_folder, make_artifact, tmp_path):
    checkpoint = open_checkpoint(minilm_folder)
    artifact = convert(
        checkpoint, Scheme.parse("int4-rtn"), tmp_path / "plain", task="feature-extraction"
    )
    in_graph, plain = Embedder(make_artifact("minilm", "int4-rtn")), Embedder(artifact)
    plain.max_length = in_graph.max_length
    np.testing.assert_allclose(plain.embed(TEXTS), in_graph.embed(TEXTS), atol=1e-5)


def test_a_decoder_embeds_nothing(make_artifact):
    with pytest.raises(InferenceError, match="text-generation"):
        Embedder(make_artifact("smollm2", "int4-rtn"))
