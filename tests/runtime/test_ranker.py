"""Cross-encoders against transformers, and the metrics of their rankings."""

from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data import texts
from llmkg_lab.measure.metrics.ranking_fidelity import ndcg
from llmkg_lab.measure.quality import validate_ranker
from llmkg_lab.reference.outputs import ranker_reference
from llmkg_lab.results.verdict import Verdict, judge
from llmkg_lab.roster import catalog
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

PAIRS = [
    ("who wrote it", "A woman wrote the book."),
    ("a man eats", ""),
    ("how tall is the tower", "The tower is tall. " * 150),  # 752 tokens, of which 512 fit
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMKG_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        variant = catalog.find_variant("ms_marco_minilm_l6_v2")
        yield open_checkpoint(fetch(variant, "synthetic:reduced").path)


@pytest.fixture(scope="module")
def make_ranker(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")

    @cache
    def make(scheme):
        return Ranker(convert(checkpoint, Scheme.parse(scheme), folder / scheme))

    return make


@pytest.mark.slow
def test_scores_are_those_of_transformers(checkpoint, make_ranker):
    model = BertForSequenceClassification.from_pretrained(checkpoint.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    inputs = tokenizer(
        *map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, max_length=512,
        return_tensors="pt", return_token_type_ids=True,
    )  # fmt: skip
    assert inputs["token_type_ids"].max() == 1
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0].numpy()
    ranker = make_ranker("fp32")
    np.testing.assert_allclose(ranker.score(PAIRS), expected, rtol=0, atol=2e-5)
    np.testing.assert_allclose(ranker.score(PAIRS[::-1], 1)[::-1], expected, rtol=0, atol=2e-5)
    assert np.ptp(expected) > 0.01  # or nothing would have been compared


@pytest.mark.slow
def test_quantization_moves_scores_and_float32_does_not(checkpoint, make_ranker):
    pairs = texts.load_pairs(["stsb"]).spread(60)
    reference = ranker_reference(checkpoint, pairs.candidates())
    assert reference.candidates.query.tolist() == [q for q in range(3) for _ in range(20)]
    whole, narrow = (
        validate_ranker(make_ranker(scheme), reference, pairs) for scheme in ("fp32", "int4-rtn")
    )
    limits = catalog.find_variant("ms_marco_minilm_l6_v2").limits_for("fp32")
    assert limits
    assert judge(whole, limits, {}).verdict is Verdict.PASS
    assert narrow.metrics["score_pearson"].value < whole.metrics["score_pearson"].value
    assert narrow.metrics["kendall"].unit == "queries"


def test_an_embedder_ranks_nothing(make_artifact):
    with pytest.raises(InferenceError, match="sentence-embedding"):
        Ranker(make_artifact("minilm", "int4-rtn"))


def test_ndcg_of_a_swapped_pair():
    """By hand: gains 3/4 and 1/4 (logits ln 3 and -ln 3), discounts 1 and 1 / log2 3."""
    reference = np.log([3, 1 / 3])
    assert ndcg(reference, reference) == 1
    second = 1 / np.log2(3)
    expected = (0.25 + 0.75 * second) / (0.75 + 0.25 * second)
    assert ndcg(-reference, reference) == pytest.approx(expected)
    assert ndcg(-reference, reference, depth=1) == pytest.approx(1 / 3)
