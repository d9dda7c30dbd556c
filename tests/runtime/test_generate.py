"""Text generation end to end, on the packaged SmolLM2 in 4 bits."""

import itertools
from types import SimpleNamespace

import pytest
import tokenizers

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.generate import GenerationConfig, end_tokens, generate_text
from llmkg_lab.runtime.text.tokenizer import Tokenizer

GREEDY = GenerationConfig(temperature=0, repetition_penalty=1.0, max_tokens=40)
STORY = "Once upon a time, there was a café in"


@pytest.fixture(scope="module")
def smollm2(make_artifact):
    artifact = make_artifact("smollm2", "int4-rtn")
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


class Scripted:
    """A decoder that says what it is told to, up to a token that ends it."""

    def __init__(self, ids, artifact):
        self.ids, self.artifact = ids, artifact

    def generate(self, prompt_ids, max_tokens, sampler=None, stop_ids=()):
        return itertools.takewhile(lambda token: token not in stop_ids, self.ids)


def said(tokenizer, folder, ids, prompt="Go on: ", **options):
    artifact = SimpleNamespace(folder=folder, config={"eos_token_id": 2})
    config = GenerationConfig(temperature=0, **options)
    return "".join(generate_text(Scripted(ids, artifact), tokenizer, prompt, config))


HTML = "It was <s>struck out</s>, or <b>bold</b>; <|endoftext|> is no tag."


def chatting(smollm2_gguf):
    """SmolLM2's tokenizer with an end of text and turns of its own."""
    files = open_checkpoint(smollm2_gguf).sidecars()
    core = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    core.add_special_tokens(["</s>", "<|end|>"])
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n<|end|>{% endfor %}"
    return Tokenizer(core, {"eos_token": "</s>", "chat_template": template})


def test_html_ends_no_answer(smollm2_gguf, tmp_path):
    tokenizer = chatting(smollm2_gguf)
    plain = Tokenizer.from_folder(write_sidecars(tmp_path, smollm2_gguf))
    for words in (HTML, "<s>a</s>"):
        spelled = [i for part in words.split("<|endoftext|>") for i in plain.encode(part)]
        text = plain.decode(spelled)
        assert "</s>" in text
        assert said(plain, tmp_path, spelled) == text
        assert said(tokenizer, tmp_path, spelled) == text
        assert said(plain, tmp_path, spelled, stop_tokens=("</s>",)) == text.split("</s>")[0]


def test_special_tokens_end_an_answer(smollm2_gguf, tmp_path):
    """The model's end of text, and in a conversation what its template writes behind an answer."""
    tokenizer = chatting(smollm2_gguf)
    words, more = tokenizer.encode("One."), tokenizer.encode(" Two.")
    question = [{"role": "user", "content": "Count."}]
    for end, in_chat, in_text in [
        ("</s>", "One.", "One."),
        ("<|endoftext|>", "One.", "One."),
        ("<|end|>", "One.", "One. Two."),
        ("<|im_start|>", "One. Two.", "One. Two."),
    ]:
        ids = [*words, tokenizer.token_id(end), *more]
        assert said(tokenizer, tmp_path, ids, question) == in_chat, end
        assert said(tokenizer, tmp_path, ids) == in_text, end
    ids = [*words, 2, *more]  # by config.json
    assert said(tokenizer, tmp_path, ids) == "One."
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 4]}')
    assert said(tokenizer, tmp_path, ids) == "One. Two."
    assert said(tokenizer, tmp_path, [*words, 4, *more]) == "One."


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{",
        *(f'{{"eos_token_id": {end}}}' for end in ('"x"', "[[1]]", "Infinity", "2.5", "[true]")),
    ],
)
def test_a_damaged_generation_config_is_an_error(content, smollm2_gguf, tmp_path):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(InferenceError, match=r"generation_config.json does not say what ends"):
        said(chatting(smollm2_gguf), tmp_path, [])


def write_sidecars(folder, path):
    for name, content in open_checkpoint(path).sidecars().items():
        if name.startswith("tokenizer"):
            (folder / name).write_bytes(content)
    return folder
