"""The decoder against transformers, and its cache against itself."""

import os
import signal
import threading
from itertools import islice, pairwise

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.decoder import PREFILL_CHUNK, Decoder
from llmkg_lab.runtime.text.sampling import Sampler
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):",
    "Water boils at 100 degrees Celsius because",
    "The three laws of motion are:\n1.",
]
IDS = np.random.default_rng(0).integers(0, 131, 300)
CLOSE = {"rtol": 0, "atol": 1e-4}  # float32 sums in another order


@pytest.fixture(scope="module")
def tiny(tiny_llama, tmp_path_factory):
    """The tiny Llama's decoder, in float32."""
    out = tmp_path_factory.mktemp("decoder") / "fp32"
    return Decoder(convert(open_checkpoint(tiny_llama[1]), Scheme.parse("fp32"), out))


@pytest.fixture(scope="module")
def expected(tiny_llama):
    """transformers' logits for IDS: (300, vocab)."""
    with torch.no_grad():
        return tiny_llama[0](torch.tensor(IDS[None])).logits[0].numpy()


def test_smollm2_continues_as_transformers_does(make_artifact, smollm2_gguf):
    checkpoint = open_checkpoint(smollm2_gguf)
    model = LlamaForCausalLM(LlamaConfig(**checkpoint.config)).eval()
    weights = {name: torch.tensor(checkpoint.read(name)) for name in checkpoint.tensors}
    model.load_state_dict(weights, strict=False)  # the tied head is no tensor of its own
    artifact = make_artifact("smollm2", "fp32")
    decoder, tokenizer = Decoder(artifact), Tokenizer.from_folder(artifact.folder)
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        ours = list(decoder.generate(ids, 64))
        with torch.no_grad():
            logits = model(torch.tensor([ids + ours])).logits[0]
        # one pass shows what transformers would have chosen after each of the tokens
        assert logits[len(ids) - 1 : -1].argmax(-1).tolist() == ours


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 299), max_size=6))
def test_the_cache_fills_in_any_steps(tiny, expected, cuts):
    tiny.reset()
    borders = sorted({0, *cuts, len(IDS)})
    for start, stop in pairwise(borders):
        logits = tiny.prefill(IDS[start:stop])
        np.testing.assert_allclose(logits, expected[stop - 1], **CLOSE)
    assert len(IDS) > 2 * PREFILL_CHUNK  # so the longest prefills took several runs


def test_token_by_token_is_one_go(tiny, expected):
    tiny.reset()
    logits = np.stack([tiny.step(token).copy() for token in IDS])
    np.testing.assert_allclose(logits, expected, **CLOSE)
    np.testing.assert_allclose(tiny.logits(IDS[None])[0], expected, **CLOSE)


def test_a_batch_of_unequal_lengths_is_its_sequences_alone(tiny):
    lengths = [40, 7, 1]
    ids = np.zeros((3, 40), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = IDS[row : row + length]
    batch = tiny.logits(ids, lengths)
    for row, length in enumerate(lengths):
        alone = tiny.logits(ids[row : row + 1, :length])[0]
        np.testing.assert_allclose(batch[row, :length], alone, **CLOSE)


def test_a_reset_leaves_nothing_of_the_last_sequence(tiny):
    tiny.reset()
    first = tiny.prefill(IDS[:20]).copy()
    tiny.reset()
    tiny.prefill(IDS[100:300])
    tiny.reset()
    np.testing.assert_array_equal(tiny.prefill(IDS[:20]), first)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 250), st.integers(1, 49), st.integers(1, 49))
def test_a_prompt_s_beginning_is_taken_from_the_cache(tiny, expected, shared, first, second):
    """Two prompts that begin alike: the second is run from where they part."""
    tiny.reset()
    list(tiny.generate(IDS[: shared + first], 1))
    prompt = IDS[: shared + second].copy()
    prompt[-1] = (prompt[-1] + 1) % 131  # so that they part there, if not before
    kept = tiny.reuse(prompt)
    assert kept == min(shared + first, shared + second - 1)
    logits = tiny.prefill(prompt[kept:]).copy()
    tiny.reset()
    np.testing.assert_allclose(logits, tiny.prefill(prompt), **CLOSE)


def test_a_chat_goes_on_without_its_beginning_run_again(tiny, monkeypatch):
    monkeypatch.setattr(tiny, "reuse_prompts", True)
    tiny.reset()
    turn = IDS[:40].tolist()
    answer = list(tiny.generate(turn, 10))
    assert tiny.length == 49  # the last token of an answer is not run
    turn = [*turn, *answer, *IDS[60:70].tolist()]
    kept = []
    monkeypatch.setattr(tiny, "reuse", lambda ids: kept.append(Decoder.reuse(tiny, ids)))
    went_on = list(tiny.generate(turn, 10))
    assert kept == [49]
    tiny.reset()
    assert list(tiny.generate(turn, 10)) == went_on
    assert kept == [49, 0]


def test_the_last_logits_alone_are_those_of_all(tiny):
    feeds = {
        i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
        for i in tiny.session.get_inputs()
        if i.name.startswith("past")
    }
    feeds |= {"input_ids": IDS[None, :20], "attention_mask": np.ones((1, 20), np.int64)}
    whole, zero = (
        tiny.session.run(["logits"], feeds | keep)[0]
        for keep in ({}, {"num_logits_to_keep": np.array(0)})
    )
    assert whole.shape == (1, 20, 131)
    np.testing.assert_array_equal(zero, whole)
    for count in (1, 3):
        kept = tiny.session.run(["logits"], feeds | {"num_logits_to_keep": np.array(count)})[0]
        np.testing.assert_allclose(kept, whole[:, -count:], **CLOSE)


@pytest.mark.slow
def test_steps_take_no_memory(tiny):
    def fill() -> int:
        tiny.reset()
        for token in IDS:
            tiny.step(token)
        return psutil.Process().memory_info().rss

    fill()
    before = fill()
    for _ in range(10):
        after = fill()
    assert after - before < 1e6  # 3,000 steps


def test_generation_ends_at_its_limits(tiny):
    prompt = IDS[:10].tolist()
    tokens = list(tiny.generate(prompt, 30))
    assert len(tokens) == 30
    stop = tokens[12]
    assert list(tiny.generate(prompt, 30, stop_ids={stop})) == tokens[: tokens.index(stop)]
    # the last token is chosen from a full cache and needs no place in it
    assert len(list(tiny.generate(IDS[:290].tolist(), 30))) == 11
    short = Decoder(tiny.artifact, max_length=16)
    assert list(short.generate(prompt, 30)) == tokens[:7]


def test_sampling_repeats_with_its_seed(tiny):
    prompt = IDS[:10].tolist()
    draw = [
        list(tiny.generate(prompt, 20, Sampler(1.5, top_k=20, seed=seed))) for seed in (1, 1, 2)
    ]
    assert draw[0] == draw[1] != draw[2]


@pytest.mark.parametrize(
    ("ids", "reason"),
    [([], "no tokens"), ([131], "vocabulary"), ([-1], "vocabulary"), ([1] * 301, "do not fit")],
)
def test_a_prompt_that_cannot_run_is_refused_at_once(tiny, ids, reason):
    with pytest.raises(InferenceError, match=reason):
        tiny.generate(ids, 1)


def test_two_generations_at_once_do_not_mix(tiny):
    first = tiny.generate(IDS[:10].tolist(), 20)
    next(first)
    next(tiny.generate(IDS[50:70].tolist(), 20))
    with pytest.raises(InferenceError, match="another sequence"):
        list(first)


def test_ctrl_c_leaves_the_decoder_ready(make_artifact):
    decoder = Decoder(make_artifact("smollm2", "int4-rtn"))
    tokens = list(islice(decoder.generate([1, 2, 3], 200), 20))
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(decoder.generate([5, 6, 7], 2000))
    assert list(decoder.generate([1, 2, 3], 20)) == tokens


def test_a_cache_beyond_the_model_s_positions_is_refused(tiny):
    with pytest.raises(InferenceError, match="300 positions"):
        Decoder(tiny.artifact, max_length=301)
    with pytest.raises(InferenceError, match="positions"):
        tiny.logits(np.zeros((1, 301), np.int64))


def test_a_damaged_graph_is_named(tiny_llama, tmp_path):
    artifact = convert(
        open_checkpoint(tiny_llama[1]), Scheme.parse("int4-rtn"), tmp_path / "int4-rtn"
    )
    artifact.model_path.write_bytes(artifact.model_path.read_bytes()[:-40])
    with pytest.raises(InferenceError, match="cannot load"):
        Decoder(artifact)


def test_an_embedder_is_no_decoder(make_artifact):
    with pytest.raises(InferenceError, match="sentence-embedding"):
        Decoder(make_artifact("minilm", "fp32"))
