"""The families on Candle: against the PyTorch reference on reduced shapes, and their fall-back.

The weights are synthetic, in the variants' own structure: OpenELM's heads and widths by layer,
pooling, pairs of texts, a SentencePiece vocabulary. The Llama's stand in test_candle.py and
test_backend.py.
"""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from llmkg_lab.artifact import Artifact
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_gguf import export
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.data.texts import Candidates
from llmkg_lab.models import UnsupportedError
from llmkg_lab.reference.outputs import decoder_reference, embedder_reference, ranker_reference
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.backend import CandleBackend
from llmkg_lab.runtime.candle.decoder import CandleDecoder
from llmkg_lab.runtime.candle.encoder import CandleEncoder
from llmkg_lab.runtime.ort.ranker import Ranker
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig
from llmkg_lab.scheme import Scheme
from llmkg_lab.sources import fetch

DECODERS = ("openelm_270m",)
EMBEDDERS = ("all_minilm_l6_v2", "minilm_l12_h384", "minilm_multilingual_l12_h384")
RANKER, MULTILINGUAL = "ms_marco_minilm_l6_v2", "minilm_multilingual_l12_h384"
TEXTS = ["a cat sleeps", "", "two dogs", "A woman wrote the book. " * 9, "the cat sleeps!"]
PAIRS = [("a cat", "a cat sleeps"), ("dogs", ""), ("who wrote it", "A woman wrote it. " * 20)]
GREEDY = GenerationConfig(temperature=0, repetition_penalty=1, max_tokens=12)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoints of variants, and folders of their GGUF exports and graphs, each made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMKG_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Made(tmp_path_factory.mktemp("candle"))


class Made:
    def __init__(self, top):
        self.top, self._checkpoints = top, {}

    def checkpoint(self, name):
        if name not in self._checkpoints:
            fetched = fetch(find_variant(name), "synthetic:reduced")
            self._checkpoints[name] = fetched.open()
        return self._checkpoints[name]

    def folder(self, name, kind):
        folder = self.top / name / kind
        if not folder.exists() and kind == "fp32":
            convert(self.checkpoint(name), Scheme.parse("fp32"), folder)
        elif not folder.exists():
            export(self.checkpoint(name), kind, folder, tokenizer=name != MULTILINGUAL)
        return folder

    def artifact(self, name, kind):
        return Artifact.open(self.folder(name, kind))


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_logits_are_the_references_however_the_tokens_are_fed(name, made):
    checkpoint = made.checkpoint(name)
    ids = np.random.default_rng(0).integers(3, checkpoint.form.vocab, 24)
    reference = decoder_reference(checkpoint, ids[None], [ids[:5]], 8)
    expected = reference.logits(0)  # (tokens, vocab)
    decoder = CandleDecoder(made.artifact(name, "F32"))
    bound = 2e-5 * np.abs(expected).max()
    for start, stop in ((0, 7), (7, 8), (8, 20), (20, 24)):
        np.testing.assert_allclose(decoder.prefill(ids[start:stop]), expected[stop - 1], atol=bound)
    assert list(decoder.generate(ids[:5], 8)) == reference.continuations[0]
    for kind, least in (("Q8_0", 0.999), ("Q4_0", 0.9)):
        logits = CandleDecoder(made.artifact(name, kind)).prefill(ids)
        assert np.corrcoef(logits, expected[-1])[0, 1] > least


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings_are_the_references(name, made):
    checkpoint = made.checkpoint(name)
    expected = embedder_reference(checkpoint, TEXTS).embeddings
    from_safetensors = CandleEncoder(checkpoint.path)
    np.testing.assert_allclose(from_safetensors.embed(TEXTS), expected, atol=2e-6)
    for kind, least in (("F32", 0.999999), ("Q8_0", 0.999), ("Q4_0", 0.9)):
        vectors = CandleEncoder(made.folder(name, kind)).embed(TEXTS)
        cosines = np.einsum("th,th->t", vectors, expected)
        assert cosines[[0, 2, 3, 4]].min() > least


def test_list_shows_the_runtimes_of_every_variant():
    command = [sys.executable, "-m", "llmkg_lab.cli", "list", "--json"]
    rows = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert len(rows) >= 31
    opened = {"minilm": ["gguf", "safetensors"]}  # what the tests here open; of decoders a GGUF
    for row in rows:
        ort, candle = row["runtimes"]
        assert (ort["runtime"], ort["formats"], ort["reason"]) == ("onnxruntime", ["onnx"], "")
        assert (candle["runtime"], candle["reason"]) == ("candle", "")
        assert candle["formats"] == opened.get(row["family"], ["gguf"])


@pytest.mark.slow
def test_scores_are_the_references(made):
    checkpoint = made.checkpoint(RANKER)
    candidates = Candidates(PAIRS, np.arange(len(PAIRS)))
    expected = ranker_reference(checkpoint, candidates).scores
    spread = expected.std()
    for folder, share in (
        (checkpoint.path, 1e-4),
        (made.folder(RANKER, "F32"), 1e-4),
        (made.folder(RANKER, "Q8_0"), 0.2),
    ):
        scores = CandleEncoder(folder).score(candidates.pairs)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=share * spread)


def answer(backend, name):
    """What a backend makes of a fixed question, as numbers or as text."""
    if name in DECODERS:
        return backend.generate_text("the cat", GREEDY)
    return backend.score(PAIRS) if name == RANKER else backend.embed(TEXTS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DECODERS, *EMBEDDERS, RANKER])
def test_onnx_runtime_goes_on_where_candle_dies(name, made, caplog):
    """Asked for Candle; its process is killed, and the same model goes on from its graph."""
    made.folder(name, "fp32")
    backend = open_backend(made.folder(name, "F32"), prefer="candle")
    assert backend.metadata().backend == "candle"
    assert backend.metadata().task == made.checkpoint(name).task
    expected = answer(backend, name)
    os.kill(backend.active.worker.process.pid, signal.SIGKILL)
    backend.vectors.clear()  # else the embeddings would be known already
    after = answer(backend, name)
    assert backend.metadata().backend == "onnxruntime"
    assert "onnxruntime goes on" in caplog.text
    if name in DECODERS:
        assert after == expected
    else:
        np.testing.assert_allclose(after, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    backend.close()


@pytest.mark.slow
def test_a_tokenizer_that_gguf_cannot_hold_is_left_out_when_asked(made, tmp_path):
    """What llama.cpp would tokenize otherwise it is not given: it then takes tokens alone."""
    checkpoint = made.checkpoint(MULTILINGUAL)
    with pytest.raises(UnsupportedError, match="Unigram") as refusal:
        export(checkpoint, "F32", tmp_path / "out")
    assert "--no-tokenizer" in refusal.value.hint
    file = open_checkpoint(made.artifact(MULTILINGUAL, "F32").model_path)
    assert file.sidecars() == {}


@pytest.mark.slow
def test_what_a_model_is_not_made_for_is_refused(made):
    ranker = CandleBackend(made.folder(RANKER, "F32"))
    embedder = CandleBackend(made.folder(EMBEDDERS[0], "F32"))
    for call, said in (
        (lambda: ranker.embed(["a"]), "embeds no texts"),
        (lambda: ranker.generate_text("a"), "generates no text"),
        (lambda: embedder.score(PAIRS), "scores no pairs"),
        (lambda: CandleEncoder(made.folder(DECODERS[0], "F32")), "holds no BERT"),
        (lambda: CandleDecoder(made.artifact(RANKER, "F32")), "not a GGUF file of a Llama"),
    ):
        with pytest.raises(InferenceError, match=said):
            call()
    ranker.close()
    embedder.close()


@pytest.mark.slow
def test_a_cross_encoders_gguf_is_a_checkpoint_again(made, tmp_path):
    """Pooler and classifier have their places in GGUF, so that the file says all of the model."""
    checkpoint = open_checkpoint(made.artifact(RANKER, "F32").model_path)
    assert (checkpoint.task, checkpoint.pooling) == ("text-ranking", None)
    artifact = convert(checkpoint, Scheme.parse("fp32"), tmp_path / "fp32")
    expected = Ranker(made.artifact(RANKER, "fp32")).score(PAIRS)
    np.testing.assert_allclose(Ranker(artifact).score(PAIRS), expected, atol=1e-6)
