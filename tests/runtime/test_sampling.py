"""The sampler against transformers' own logits processors, and its guarantees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.sampling import Sampler

VOCAB = 60
options = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.1, 3.0),
        "top_k": st.integers(1, 2 * VOCAB),
        "top_p": st.floats(0.0, 1.0),
        "repetition_penalty": st.floats(0.5, 2.0),
    }
)
seeds = st.integers(0, 2**32 - 1)


def random_logits(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits (vocab,) float32 spread like a model's, and a history of tokens."""
    random = np.random.default_rng(seed)
    return (
        random.normal(0, 4, VOCAB).astype(np.float32),
        random.integers(0, VOCAB, random.integers(1, 40)),
    )


def transformers_distribution(logits, history, temperature, top_k, top_p, repetition_penalty):
    processors = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(repetition_penalty),
            TemperatureLogitsWarper(temperature),
            TopKLogitsWarper(top_k),
            TopPLogitsWarper(top_p),
        ]
    )
    # float64 so that the two agree on which token is the last within top-p
    scores = processors(torch.tensor(history[None]), torch.tensor(logits[None]).double())
    return scores.softmax(-1)[0].numpy()


@settings(deadline=None)
@given(options, seeds)
def test_the_distribution_is_that_of_transformers(options, seed):
    logits, history = random_logits(seed)
    tokens, probabilities = Sampler(**options).distribution(logits.astype(np.float64), history)
    ours = np.zeros(VOCAB)
    ours[tokens] = probabilities
    np.testing.assert_allclose(ours, transformers_distribution(logits, history, **options), 1e-9)


@settings(deadline=None)
@given(options, seeds)
def test_one_seed_gives_one_sequence(options, seed):
    logits, history = random_logits(seed)
    first, second = Sampler(**options, seed=seed), Sampler(**options, seed=seed)
    draws = [first(logits, history) for _ in range(20)]
    assert draws == [second(logits, history) for _ in range(20)]
    assert set(draws) <= set(first.distribution(logits, history)[0].tolist())


def test_tokens_are_drawn_as_often_as_they_are_likely():
    logits, history = random_logits(3)
    sampler = Sampler(temperature=1.5, top_k=5, seed=11)
    tokens, probabilities = sampler.distribution(logits, history)
    draws = np.array([sampler(logits, history) for _ in range(20_000)])
    frequencies = (draws[:, None] == tokens).mean(axis=0)
    # five standard errors of a frequency
    assert np.all(abs(frequencies - probabilities) < 5 * np.sqrt(probabilities / len(draws)))


@pytest.mark.parametrize("temperature", [0, 0.0, None, 5e-324])
def test_without_temperature_the_most_likely_token_wins(temperature):
    logits, history = random_logits(5)
    best = int(logits.argmax())
    assert Sampler(temperature, top_k=3, top_p=0.5)(logits, history) == best
    penalized = Sampler(temperature, repetition_penalty=100.0)(logits, np.array([best]))
    assert penalized != best


def test_the_model_s_logits_are_left_as_they_are():
    logits, history = random_logits(7)
    before = logits.copy()
    Sampler(0.7, top_k=10, top_p=0.9, repetition_penalty=1.3, seed=1)(logits, history)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 5e-324),
        ("seed", -1),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(InferenceError, match=option):
        Sampler(**{option: value})


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_logits_that_are_not_numbers_are_an_error(temperature):
    logits = np.full(VOCAB, np.nan, np.float32)
    with pytest.raises(InferenceError, match="not numbers"):
        Sampler(temperature, top_k=5)(logits, np.array([1]))
