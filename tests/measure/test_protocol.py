"""The evaluation protocol: reports and the explorer read the same, as transformers tokenizes it."""

import numpy as np
import pytest
import scipy.special
import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import AutoTokenizer

from llmkg_lab.explorer.questions.session import Session
from llmkg_lab.measure.protocol import Protocol, opened
from llmkg_lab.quantize.solve.text import CORPORA
from llmkg_lab.report.steps import DecoderReport
from llmkg_lab.roster.catalog import Evaluation, find_variant
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.tokenizer import Tokenizer

WORDS = ("the", "people", "of", "state", "said", "that", "two", "men", "were", "there")


@pytest.fixture
def plain_text(tmp_path, monkeypatch):
    """Evaluation text of common words: a window of it, written out, is cut into the same tokens."""
    rng = np.random.default_rng(0)
    lines = (" ".join(rng.choice(WORDS, count)) for count in (1200, 1000))
    (tmp_path / "wikitext2-valid.txt").write_text("\n".join(lines))
    monkeypatch.setenv("LLMKG_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLMKG_LAB_OUTPUTS", str(tmp_path / "outputs"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "opening"),
    [
        ("tinyllama_1_1b", ["<s>"]),
        ("smollm2_135m", []),  # though its config.json names a BOS
    ],
)
def test_reports_and_the_explorer_read_what_transformers_would(variant, opening, plain_text):
    session = Session(variant, "synthetic:reduced")
    report = DecoderReport(session.variant.family, variant, ["int8-rtn"], "synthetic:reduced")
    reading = report.reading
    np.testing.assert_array_equal(session.windows, reading.windows)
    assert reading.windows.shape == (2, 128)

    assert session.checkpoint.config["bos_token_id"] is not None
    folder = report.artifacts["int8-rtn"].folder
    theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for window in reading.windows:
        text = theirs.decode(window, skip_special_tokens=True)
        assert theirs(text).input_ids == window.tolist()
    prompts = report.protocol.plan.prompts
    assert reading.prompts == theirs(list(prompts)).input_ids

    assert report.qualities["int8-rtn"].detail["opening"] == list(reading.opening) == opening
    said = "<s>, which the tokenizer puts" if opening else "its own text"
    assert f"256 tokens in 2 windows of 128; each begins with {said}" in str(reading)

    quality = report.qualities["int8-rtn"]
    other, read = report.elsewhere
    assert read.text.name == quality.detail["elsewhere_corpus"] != quality.detail["corpus"]
    assert quality.detail["elsewhere_tokens_scored"] == 2 * 127
    decoder, found = Decoder(report.artifacts["int8-rtn"]), []
    for i, window in enumerate(read.windows):
        logits, moved = other.logits(i)[:-1], decoder.logits(window[None])[0][:-1]
        log_p, log_q = (scipy.special.log_softmax(x.astype(np.float64), 1) for x in (logits, moved))
        found.append((np.exp(log_p) * (log_p - log_q)).sum(1).mean())
    assert quality.metrics["kl_elsewhere"].value == pytest.approx(np.mean(found), rel=1e-5)


def test_text_of_another_kind_is_not_what_schemes_are_calibrated_on(plain_text):
    found = Protocol(Evaluation(("wikitext2", "pydoc")))
    assert (found.text.name, found.elsewhere.name) == ("wikitext2", "pydoc")
    assert "import" in found.elsewhere.evaluation
    assert Protocol(Evaluation(("wikitext2",))).elsewhere is None
    for task in ("smollm2_135m_instruct", "openelm_270m"):
        corpora = find_variant(task).evaluation.corpora
        assert corpora[:2] == CORPORA  # the order in which calibration takes them
        assert len(corpora) > 2  # so that there is another kind wherever one of the two is missing


def test_what_a_tokenizer_puts_behind_a_text_ends_no_window(plain_text):
    words = models.WordLevel({word: i for i, word in enumerate(("<s>", "</s>", *WORDS))}, "the")
    core = tokenizers.Tokenizer(words)
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", 0), ("</s>", 1)]
    core.post_processor = processors.TemplateProcessing("<s> $A </s>", None, ends)
    tokenizer = Tokenizer(core, {})
    plan = Evaluation(("wikitext2",), tokens=64, window=32, prompts=("people said",))
    reading = Protocol(plan).reading(tokenizer)
    assert (reading.windows[:, 0] == 0).all()
    assert (reading.windows[:, 1:] > 1).all()
    own = tokenizer.encode(reading.text.evaluation, special=False)
    assert reading.windows[:, 1:].ravel().tolist() == own[:62]  # each token once
    assert reading.prompts == [[0, 3, 6]]
    assert opened(tokenizer, "two men") == ([0, 8, 9], [(0, 0), (0, 3), (4, 7)])


def test_a_quick_protocol_is_small_in_everything():
    plan = Evaluation(("wikitext2",), prompts=("a", "b", "c"))
    quick = Protocol(plan, quick=True)
    assert (quick.plan.tokens, quick.plan.sentences, quick.plan.prompts) == (256, 40, ("a", "b"))
    assert quick.plan.corpora == plan.corpora
    assert quick.effort["processes"] == 1
    assert (Protocol(plan).plan, Protocol(plan).effort) == (plan, {})
