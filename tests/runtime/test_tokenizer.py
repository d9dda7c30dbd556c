"""The tokenizer against transformers', and streaming against decoding everything at once."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.tokenizer import DetokenizeStream, Tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog", "thé quick bröwn föx  jumps € over 😀"]
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ZEPHYR = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% else %}
    {{ raise_exception('only user and assistant') }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

TOOLS = """{%- set ns = namespace(asked=0) -%}
{%- if tools is none and documents is none %}no tools{% endif %}
{% for message in messages if message.content %}
{% if loop.index > 3 %}{% break %}{% endif %}
{% if message.role == 'user' %}{% set ns.asked = ns.asked + 1 %}
    {{- message.content | trim }} {{ dict(a=message.content) | tojson }}
{% else %}{% generation %}{% set said = message.content %}{{ said }}{% endgeneration %}{{ said }}
{% endif %}{{ message | tojson(indent=2, sort_keys=true) }}
{% endfor %}{{ ns.asked }}, {{ strftime_now('%Y') }}{{ unknown }}"""


def byte_level() -> tokenizers.Tokenizer:
    """A small BPE of the kind that SmolLM uses: bytes are letters."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=300, initial_alphabet=sorted(alphabet), special_tokens=["<s>", "</s>"]
        ),
    )
    return core


def byte_fallback() -> tokenizers.Tokenizer:
    """A small BPE of the kind that Llama 2 uses: ▁ for spaces, unknown characters as bytes."""
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=special)
    core.train_from_iterator(CORPUS[:1], trainer)
    # the trainer made the byte tokens special, which decoding would leave out
    description = core.to_str().replace('"special":true', '"special":false')
    return tokenizers.Tokenizer.from_str(description)


HI = [{"role": "user", "content": "hi"}]
BYTE_LEVEL, BYTE_FALLBACK = Tokenizer(byte_level(), {}), Tokenizer(byte_fallback(), {})
texts = st.text("ab the  é€😀\n", max_size=25)


def check_stream(tokenizer: Tokenizer, prompt: list[int], tokens: list[int]) -> list[str]:
    """The pieces make up what decoding all at once adds to the prompt's whole characters."""
    stream = DetokenizeStream(tokenizer, prompt)
    pieces = [stream.push(token) for token in tokens]
    pieces.append(stream.flush())
    shown = tokenizer.decode(prompt).rstrip("\ufffd")
    assert "".join(pieces) == tokenizer.decode(prompt + tokens)[len(shown) :]
    return pieces


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([BYTE_LEVEL, BYTE_FALLBACK]), texts, st.integers(0, 60))
def test_streamed_text_is_the_text(tokenizer, text, cut):
    ids = tokenizer.encode(text)
    pieces = check_stream(tokenizer, ids[:cut], ids[cut:])
    assert "\ufffd" not in "".join(pieces), "half a character was shown"


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 299), max_size=30), st.integers(0, 30))
def test_any_tokens_can_be_streamed(ids, cut):
    check_stream(BYTE_LEVEL, ids[:cut], ids[cut:])


def test_a_sentencepiece_word_keeps_its_space_behind_a_prompt():
    prompt, tokens = BYTE_FALLBACK.encode("the quick"), BYTE_FALLBACK.encode("fox")
    assert BYTE_FALLBACK.decode(tokens) == "fox"  # decoded alone, the space is lost
    assert "".join(check_stream(BYTE_FALLBACK, prompt, tokens)) == " fox"


def test_batches_are_those_of_transformers(minilm_folder):
    texts = ["A short one.", "", "Café! " + "many words " * 30]
    ours = Tokenizer.from_folder(minilm_folder).encode_batch(texts, max_length=24)
    theirs = AutoTokenizer.from_pretrained(minilm_folder)(
        texts, padding=True, truncation=True, max_length=24, return_tensors="np"
    )
    assert set(ours) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, array in ours.items():
        assert array.dtype == "int64"
        assert array.tolist() == theirs[name].tolist()


def test_special_tokens_are_optional_and_truncation_is_the_caller_s(minilm_folder):
    tokenizer = Tokenizer.from_folder(minilm_folder)
    tokenizer.encode_batch(["one two three four"], max_length=4)
    long = "word " * 300
    assert len(tokenizer.encode(long)) == 302  # the file asks for 128, and no batch left a trace
    assert tokenizer.encode(long)[1:-1] == tokenizer.encode(long, special=False)


@pytest.mark.parametrize("template", [CHATML, ZEPHYR, TOOLS])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_chats_are_rendered_as_transformers_does(template, add_generation_prompt):
    messages = [
        {"role": "user", "content": "What is <b> & 'c'?"},
        {"role": "assistant", "content": "Bold.\n"},
        {"role": "user", "content": "  Sure? "},
    ]
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template}
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>", chat_template=template
    )
    assert Tokenizer(byte_level(), config).chat(
        messages, add_generation_prompt
    ) == theirs.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )


@pytest.mark.parametrize(
    ("config", "messages", "reason"),
    [
        ({}, HI, "no chat template"),
        ({"chat_template": CHATML}, [], "conversation is empty"),
        ({"chat_template": ZEPHYR}, [{"role": "wizard", "content": "hi"}], "only user and"),
        ({"chat_template": CHATML}, [{"role": "user"}], "content"),
        ({"chat_template": "{{ messages.__class__.mro() }}"}, HI, "unsafe"),
        ({"chat_template": "{{ messages.append(1) }}"}, HI, "unsafe"),
        ({"chat_template": "{% set n = namespace() %}{% set n.__x = 1 %}"}, HI, "underscore"),
        ({"chat_template": "{{ namespace({'__call__': dict}) }}"}, HI, "underscore"),
        ({"chat_template": "{% for %}"}, HI, "template refuses"),
    ],
)
def test_a_chat_that_cannot_be_rendered_is_an_error(config, messages, reason):
    with pytest.raises(InferenceError, match=reason):
        Tokenizer(byte_level(), config).chat(messages)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InferenceError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InferenceError, match=tmp_path.name):
        Tokenizer.from_folder(tmp_path)


def test_a_template_may_stand_among_others_or_in_a_file_of_its_own(minilm_folder, tmp_path):
    messages = [{"role": "user", "content": "hi"}]
    expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    named = [{"name": "tools", "template": "?"}, {"name": "default", "template": CHATML}]
    assert Tokenizer(byte_level(), {"chat_template": named}).chat(messages) == expected
    (tmp_path / "tokenizer.json").write_bytes((minilm_folder / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert Tokenizer.from_folder(tmp_path).chat(messages) == expected
