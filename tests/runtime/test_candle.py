"""Candle over our GGUF exports, against transformers; real weights stand in tests/interop."""

import numpy as np
import pytest
import torch

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_gguf import export
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.candle.decoder import CandleDecoder


def test_logits_are_the_models_however_the_tokens_are_fed(tiny_llama, tmp_path):
    """Three heads over one key, so that groups count; a chunk after others must see the past."""
    model, folder = tiny_llama
    decoder = CandleDecoder(export(open_checkpoint(folder), "F32", tmp_path / "out"))
    ids = np.random.default_rng(0).integers(0, 131, 40)
    with torch.no_grad():
        expected = model(torch.tensor(ids[None])).logits[0].numpy()  # (tokens, vocab)
    np.testing.assert_allclose(decoder.prefill(ids), expected[-1], atol=1e-4)
    decoder.reset()
    for start, stop in ((0, 7), (7, 8), (8, 9), (9, 30), (30, 40)):
        logits = decoder.prefill(ids[start:stop])
        np.testing.assert_allclose(logits, expected[stop - 1], atol=1e-4)


@pytest.mark.slow
def test_greedy_tokens_are_the_models(tiny_llama, tmp_path):
    model, folder = tiny_llama
    decoder = CandleDecoder(export(open_checkpoint(folder), "F32", tmp_path / "out"))
    prompt = [5, 17, 100, 3]
    with torch.no_grad():
        wanted = model.generate(
            torch.tensor([prompt]), max_new_tokens=24, min_new_tokens=24, do_sample=False
        )
    wanted = wanted[0, len(prompt) :].tolist()
    assert list(decoder.generate(prompt, 24)) == wanted
    assert (
        list(decoder.generate(prompt, 24, stop_ids={wanted[9]}))
        == wanted[: wanted.index(wanted[9])]
    )


def test_what_it_does_not_run_is_refused(tiny_llama, make_artifact, tmp_path):
    with pytest.raises(InferenceError, match="GGUF"):
        CandleDecoder(make_artifact("minilm", "int8-rtn"))
    _, folder = tiny_llama
    decoder = CandleDecoder(export(open_checkpoint(folder), "Q4_0", tmp_path / "out"))
    with pytest.raises(InferenceError, match="outside the vocabulary"):
        decoder.prefill([131])
    with pytest.raises(InferenceError, match="300 positions"):
        decoder.prefill([1] * 301)
