"""Text generation end to end, on the packaged SmolLM2 in 4 bits."""

import pytest

from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.generate import GenerationConfig, end_tokens, generate_text
from llmkg_lab.runtime.text.tokenizer import Tokenizer

GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0, max_tokens=40)
STORY = "Once upon a time, there was a café in"


@pytest.fixture(scope="module")
def smollm2(make_artifact):
    artifact = make_artifact("smollm2", "int4")
    return Decoder(artifact), Tokenizer.from_folder(artifact.folder)


def test_the_defaults_are_those_of_llmkg():
    config = GenerationConfig()
    assert (config.temperature, config.top_k, config.top_p) == (0.7, 50, 0.95)
    assert (config.repetition_penalty, config.max_tokens, config.seed) == (1.1, 1024, None)
    assert config.stop_tokens == ()  # LLMKG's stop texts count where they are special tokens


def test_the_streamed_pieces_are_the_text_of_the_tokens(smollm2):
    decoder, tokenizer = smollm2
    ids = tokenizer.encode(STORY)
    tokens = list(decoder.generate(ids, 40, stop_ids=end_tokens(decoder.artifact)))
    pieces = list(generate_text(decoder, tokenizer, STORY, GREEDY))
    assert STORY + "".join(pieces) == tokenizer.decode(ids + tokens)
    assert len(pieces) > 30, "a piece a token, or nearly so"


def test_a_chat_is_answered_and_its_end_is_not_shown(smollm2):
    decoder, tokenizer = smollm2
    question = [{"role": "user", "content": "What is the capital of France?"}]
    answer = "".join(generate_text(decoder, tokenizer, question, GREEDY))
    assert "Paris" in answer
    assert "<|im_end|>" not in answer
    # the model ended the answer itself, well before max_tokens
    assert len(tokenizer.encode(answer)) < 30


def test_a_stop_string_across_tokens_ends_the_text(smollm2):
    decoder, tokenizer = smollm2
    whole = "".join(generate_text(decoder, tokenizer, STORY, GREEDY))
    stop = whole[20:29]  # within words
    config = GenerationConfig(
        temperature=0, repetition_penalty=1.0, max_tokens=40, stop_tokens=(stop,)
    )
    text = "".join(generate_text(decoder, tokenizer, STORY, config))
    assert text == whole[: whole.index(stop)]


def test_one_seed_gives_one_text(smollm2):
    def sample(seed: int) -> str:
        config = GenerationConfig(seed=seed, max_tokens=25)
        return "".join(generate_text(*smollm2, STORY, config))

    assert sample(7) == sample(7) != sample(8)


@pytest.mark.parametrize(
    ("prompt", "options", "reason"),
    [
        ("", {}, "no tokens"),
        ("word " * 9000, {}, "do not fit"),
        ("hello", {"temperature": -1.0}, "temperature"),
        ("hello", {"max_tokens": 0}, "max_tokens"),
        ("hello", {"stop_tokens": ("",)}, "stop string"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_a_token(smollm2, prompt, options, reason):
    with pytest.raises(InferenceError, match=reason):
        generate_text(*smollm2, prompt, GenerationConfig(**options))
