"""A batch of sequences against each of them alone, joining and leaving in any order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.batch_decoder import BatchDecoder
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.sampling import Sampler
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.scheme import Scheme

IDS = np.random.default_rng(1).integers(0, 131, 300)
CLOSE = {"rtol": 0, "atol": 1e-4}  # float32 sums in another order
PROMPTS = [IDS[start : start + size].tolist() for start, size in ((0, 9), (50, 1), (80, 140))]


@pytest.fixture(scope="module")
def artifact(tiny_llama, tmp_path_factory):
    """The tiny Llama in float32; it has 300 positions."""
    out = tmp_path_factory.mktemp("batch") / "fp32"
    return convert(open_checkpoint(tiny_llama[1]), Scheme.parse("fp32"), out)


@pytest.fixture(scope="module")
def batch(artifact):
    return BatchDecoder(artifact, slots=3)


@pytest.fixture(scope="module")
def alone(artifact):
    return Decoder(artifact)


@pytest.mark.slow
@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["join", "step", "step", "step", "leave first", "leave last"])))
def test_every_sequence_is_as_if_alone(batch, alone, moves):
    """Whatever the order of joins, steps and departures; tokens are drawn at random."""
    rng = np.random.default_rng(len(moves))
    texts: dict[int, list[int]] = {}
    logits: dict[int, np.ndarray] = {}
    for move in moves:
        if move == "join" and len(texts) < batch.slots:
            prompt = rng.integers(0, 131, rng.integers(1, 200)).tolist()
            sequence, logits[sequence] = batch.join(prompt)
            texts[sequence] = prompt
        elif move == "step":
            tokens = {sequence: int(rng.integers(131)) for sequence in texts}
            for sequence, token in tokens.items():
                texts[sequence].append(token)
            logits |= batch.step(tokens)
        elif move.startswith("leave") and texts:
            sequence = (min if move == "leave first" else max)(texts)
            batch.leave(sequence)
            del texts[sequence]
        assert set(batch.active) == set(texts)
        for sequence, ids in texts.items():
            alone.reset()
            np.testing.assert_allclose(logits[sequence], alone.prefill(ids), **CLOSE)
    for sequence in texts:
        batch.leave(sequence)


def test_prompts_in_turns_are_continued_as_alone(batch, alone):
    prompts = [*PROMPTS, *PROMPTS[::-1], IDS[:290].tolist()]  # more than slots; one fills up
    tokens: list[list[int]] = [[] for _ in prompts]
    for i, token in batch.generate(prompts, 20):
        tokens[i].append(token)
    assert tokens == [list(alone.generate(prompt, 20)) for prompt in prompts]
    assert len(tokens[-1]) == 11
    assert batch.active == ()


def test_stops_and_samplers_are_each_sequence_s_own(batch, alone):
    def samplers():
        return [Sampler(1.5, top_k=20, seed=seed) for seed in range(3)]

    free = [list(alone.generate(p, 20, s)) for p, s in zip(PROMPTS, samplers(), strict=True)]
    stop = {free[1][5]}
    expected = [
        list(alone.generate(p, 20, s, stop)) for p, s in zip(PROMPTS, samplers(), strict=True)
    ]
    tokens: list[list[int]] = [[] for _ in PROMPTS]
    for i, token in batch.generate(PROMPTS, 20, samplers(), stop):
        tokens[i].append(token)
    assert tokens == expected


def test_a_generation_given_up_leaves_the_slots(batch):
    tokens = batch.generate(PROMPTS, 20)
    next(tokens)
    assert len(batch.active) == 3
    tokens.close()
    assert batch.active == ()


def test_a_prompt_runs_in_chunks_between_the_others_steps(batch, alone):
    """And is seated twice: both go on by themselves. One that is given up leaves nothing."""
    first, logits = batch.join(PROMPTS[0])
    batch.begin(IDS[:250].tolist())
    batch.advance()
    batch.begin(IDS[:150].tolist())
    tokens, prompt_logits = [], None
    while prompt_logits is None:
        tokens.append(int(logits.argmax()))
        logits = batch.step({first: tokens[-1]})[first]
        prompt_logits = batch.advance()
    assert len(tokens) == 2  # of 128 tokens and of 22
    twins = {batch.seat(): token for token in (5, 7)}
    stepped = batch.step({first: 1, **twins})
    texts = {first: [*PROMPTS[0], *tokens, 1]}
    texts |= {sequence: [*IDS[:150], token] for sequence, token in twins.items()}
    for sequence, ids in texts.items():
        alone.reset()
        np.testing.assert_allclose(stepped[sequence], alone.prefill(ids), **CLOSE)
        batch.leave(sequence)


@pytest.mark.parametrize("scheme", ["int4-rtn-b64", "int8-rtn"])
def test_an_even_number_of_rows_gives_the_same_bits_beside_any_others(
    scheme, tiny_llama, tmp_path_factory
):
    out = tmp_path_factory.mktemp("even") / scheme
    decoder = BatchDecoder(convert(open_checkpoint(tiny_llama[1]), Scheme.parse(scheme), out), 5)

    def logits(place, count):
        sequences = [
            decoder.join(PROMPTS[0] if i == place else IDS[: 9 + 7 * i].tolist())[0]
            for i in range(count)
        ]
        decoder.step(dict.fromkeys(sequences, 3), even=True)
        stepped = decoder.step(dict.fromkeys(sequences, 4), even=True)
        for sequence in sequences:
            decoder.leave(sequence)
        return stepped[sequences[place]]

    expected = logits(0, 1)
    for count in range(1, 6):
        for place in range(count):
            np.testing.assert_array_equal(logits(place, count), expected)


def test_what_cannot_run_is_refused_and_changes_nothing(batch):
    sequences = [batch.join(prompt)[0] for prompt in PROMPTS]
    with pytest.raises(InferenceError, match="slots are taken"):
        batch.join([1])
    with pytest.raises(InferenceError, match="no sequence"):
        batch.leave(-1)
    with pytest.raises(InferenceError, match="each active sequence"):
        batch.step({sequences[0]: 1})
    with pytest.raises(InferenceError, match="vocabulary"):
        batch.step(dict.fromkeys(sequences, 131))
    assert [batch.length(s) for s in sequences] == [9, 1, 140]
    for sequence in sequences:
        batch.leave(sequence)
    with pytest.raises(InferenceError, match="do not fit"):
        batch.join([1] * 301)


def test_smollm2_in_int4_chooses_what_one_pass_over_its_text_would(make_artifact):
    """Tokens may be others than those alone, where two are nearly as likely: products of one row
    and of several sum in another order (1e-6), which moves activations across int8's steps."""
    artifact = make_artifact("smollm2", "int4-rtn")
    tokenizer = Tokenizer.from_folder(artifact.folder)
    texts = ["The capital of France is", "Once upon a time", "def fibonacci(n):"]
    prompts = [tokenizer.encode(text) for text in texts]
    tokens: list[list[int]] = [[] for _ in prompts]
    for i, token in BatchDecoder(artifact, 2, max_length=64).generate(prompts, 24):
        tokens[i].append(token)
    alone = Decoder(artifact, max_length=64)
    for prompt, chosen in zip(prompts, tokens, strict=True):
        logits = alone.logits(np.array([prompt + chosen]))[0, len(prompt) - 1 : -1]
        lost = logits.max(axis=1) - logits[np.arange(24), chosen]
        assert lost.max() < 1  # of a range of 30
        assert (lost == 0).mean() > 0.8
