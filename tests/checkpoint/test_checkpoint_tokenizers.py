"""Tokenizers rebuilt from a checkpoint give the ids of the library they were made with."""

import json
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_checkpoints import write_safetensors
from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from llmkg_lab.checkpoint import CheckpointError, open_checkpoint
from llmkg_lab.checkpoint.gguf_file import Metadata
from llmkg_lab.checkpoint.gguf_tokenizer import build

TEXTS = [
    "Hello world",
    "naïve café — 日本語 🙂",
    "def f(x):\n\treturn x  # two  spaces\n\n",
    "  leading and trailing  ",
    "don't stop, it's she'll",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
]


def write(folder, files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf, tmp_path_factory):
    """The sidecars of the packaged GGUF in a folder, and their tokenizer."""
    folder = tmp_path_factory.mktemp("smollm2")
    return folder, write(folder, open_checkpoint(smollm2_gguf).sidecars())


def test_byte_level_against_transformers_reading_the_gguf(smollm2, smollm2_gguf):
    """Where no digits are: transformers does not split those, as SmolLM's tokenizer does."""
    _, tokenizer = smollm2
    theirs = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert ids == theirs(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_digits_stand_alone(smollm2):
    """Golden: llama.cpp's rule for "smollm" splits off each digit, then splits as GPT-2 does."""
    _, tokenizer = smollm2
    assert tokenizer.encode("Hello 1234 world").ids == [19556, 216, 33, 34, 35, 36, 905]
    assert tokenizer.encode("a  1").tokens == ["a", "ĠĠ", "1"]
    assert tokenizer.encode("x²½").tokens[-2:] == tokenizer.encode("²½").tokens[-2:]


def test_sidecars_open_in_transformers(smollm2):
    folder, tokenizer = smollm2
    auto = AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, "3.14 and 10²"]:
        assert auto(text)["input_ids"] == tokenizer.encode(text).ids
    assert (auto.bos_token, auto.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (auto.unk_token, auto.pad_token) == ("<|endoftext|>", "<|im_end|>")
    assert auto.model_max_length == 8192
    rendered = auto.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert rendered.endswith("<|im_start|>user\nhi<|im_end|>\n")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "<|im_start|>" in config["chat_template"]
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}


def spm_metadata(path):
    """What llama.cpp's converter writes into a GGUF file for such a model."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ids = range(model.vocab_size())

    def kind(i):
        types = {2: model.is_unknown(i), 3: model.is_control(i), 6: model.is_byte(i)}
        return next((number for number, holds in types.items() if holds), 1)

    return model, {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [model.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": [float(model.get_score(i)) for i in ids],
        "tokenizer.ggml.token_type": [kind(i) for i in ids],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


@pytest.fixture(scope="module")
def spm(sentencepiece_model):
    model, values = spm_metadata(sentencepiece_model)
    files = build(Metadata(Path("model.gguf"), values), 2048)
    return model, Tokenizer.from_str(files["tokenizer.json"].decode())


@settings(deadline=None, max_examples=300)
@given(text=st.text(alphabet='abde tests()[]._\n\t"=0127éß日🙂', max_size=40))
def test_sentencepiece_bpe_against_sentencepiece(spm, text):
    model, tokenizer = spm
    ids = tokenizer.encode(text).ids
    assert ids == [1, *(model.encode(text) if text else [])]
    assert tokenizer.decode(ids[1:]) == model.decode(ids[1:])


def test_ends_of_a_text(sentencepiece_model):
    model, values = spm_metadata(sentencepiece_model)
    values |= {"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.add_eos_token": True}
    files = build(Metadata(Path("model.gguf"), values), 2048)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert tokenizer.encode("def").ids == [*model.encode("def"), 2]


@pytest.fixture(scope="module")
def word_piece(minilm_folder):
    """The packaged model's own tokenizer, and the same gone through GGUF's spelling."""
    original = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    original.no_truncation()
    original.no_padding()
    tokens = sorted(original.get_vocab(), key=original.token_to_id)
    values = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": [spelled_for_gguf(token) for token in tokens],
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.unknown_token_id": 100,
        "tokenizer.ggml.seperator_token_id": 102,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.cls_token_id": 101,
        "tokenizer.ggml.mask_token_id": 103,
    }
    files = build(Metadata(Path("bert.gguf"), values), 512)
    rebuilt = Tokenizer.from_str(files["tokenizer.json"].decode())
    assert rebuilt.get_vocab() == original.get_vocab()
    return original, rebuilt


def spelled_for_gguf(token):
    """As llama.cpp's converter does: a start of a word gets a mark, the inside loses its own."""
    if token.startswith("[") and token.endswith("]"):
        return token
    return token[2:] if token.startswith("##") else f"▁{token}"


@settings(deadline=None, max_examples=300)
@given(text=st.text(max_size=40) | st.sampled_from(TEXTS))
def test_word_piece_against_the_packaged_tokenizer(word_piece, text):
    original, tokenizer = word_piece
    assert tokenizer.encode(text).ids == original.encode(text).ids
    pair = tokenizer.encode(text, "and more")
    assert pair.type_ids == original.encode(text, "and more").type_ids


def broken_tokenizer(**changes):
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<e>", "a", "b", "ab"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
        "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.eos_token_id": 0,
    }
    values |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return Metadata(Path("model.gguf"), {k: v for k, v in values.items() if v is not None})


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("tokenizer of the kind 't5'", {"model": "t5"}),
        ("pre-tokenizer 'llama-bpe'", {"pre": "llama-bpe"}),
        ("pre-tokenizer 'none'", {"pre": None}),
        ("lacks the key tokenizer.ggml.merges", {"merges": None}),
        ("holds a token twice", {"tokens": ["<e>", "a", "a", "ab"]}),
        ("cannot be rebuilt", {"merges": ["a zebra"]}),
        ("cannot be rebuilt", {"token_type": [3]}),
        ("eos_token_id is outside of the vocabulary", {"eos_token_id": 4}),
        ("tokenizer.ggml.tokens holds more than str", {"tokens": ["<e>", 1, 2, 3]}),
        ("tokenizer.ggml.pre is a int, not a str", {"pre": 7}),
    ],
)
def test_metadata_that_makes_no_tokenizer(message, changes):
    with pytest.raises(CheckpointError, match=f"model.gguf.*{message}"):
        build(broken_tokenizer(**changes), 32)
    build(broken_tokenizer(), 32)


def test_a_folder_with_vocab_txt_alone(minilm_folder, tmp_path):
    write_safetensors(tmp_path)
    for name in ("config.json", "vocab.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((minilm_folder / name).read_bytes())
    original = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    original.no_padding()
    tokenizer = Tokenizer.from_str(open_checkpoint(tmp_path).sidecars()["tokenizer.json"].decode())
    for text in TEXTS:
        assert tokenizer.encode(text).ids == original.encode(text).ids


@pytest.fixture
def llama_folder(sentencepiece_model, tmp_path):
    """Weights and a tokenizer.model, as Llama 2 was published."""
    write_safetensors(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model.read_bytes())
    return tmp_path


def test_a_folder_with_a_sentencepiece_model_alone(sentencepiece_model, llama_folder):
    """Where a folder names the class; as it is read then, test_tokenizers_agree compares."""
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (llama_folder / "tokenizer_config.json").write_text(json.dumps(config))
    model = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))
    sidecars = open_checkpoint(llama_folder).sidecars()
    tokenizer = Tokenizer.from_buffer(sidecars["tokenizer.json"])
    for text in ("Hello world", "naïve café — 日本語 🙂", "def f(x):\n\treturn x  # two  spaces"):
        assert tokenizer.encode(text).ids == [1, *model.encode(text)]
    config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {"model_input_names": ["input_ids", "attention_mask"]}
    assert json.loads(sidecars["tokenizer_config.json"]) == config


def test_what_transformers_does_unexpectedly_is_said(llama_folder, smollm2, tmp_path):
    (said,) = open_checkpoint(llama_folder).warnings
    assert "has no add_bos_token, so transformers puts no BOS" in said
    write_safetensors(tmp_path)
    content = (smollm2[0] / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.sidecars()["tokenizer.json"] != content
    assert any("GPT2Tokenizer takes its own pre_tokenizer" in said for said in checkpoint.warnings)


def test_vocab_and_merges_without_tokenizer_json(tmp_path):
    """As GPT-2's family was published: transformers makes a tokenizer of the two."""
    write_safetensors(tmp_path)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*letters, "he", "\u0120he", "<|endoftext|>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\n\u0120 he\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    checkpoint = open_checkpoint(tmp_path)
    assert not any("holds no tokenizer" in said for said in checkpoint.warnings)
    tokenizer = Tokenizer.from_buffer(checkpoint.sidecars()["tokenizer.json"])
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("he said the", "héhé\n 12"):
        assert tokenizer.encode(text).ids == theirs(text)["input_ids"]


def test_special_tokens_named_in_a_file_of_their_own(minilm_folder, tmp_path):
    """As before transformers 4.34: special_tokens_map.json, which comes before the config."""
    write_safetensors(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((minilm_folder / "tokenizer.json").read_bytes())
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    named = {"bos_token": "[CLS]", "eos_token": {"content": "[SEP]", "lstrip": False}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    stated = json.loads(open_checkpoint(tmp_path).sidecars()["tokenizer_config.json"])
    assert (stated["bos_token"], stated["eos_token"]) == ("[CLS]", "[SEP]")


def test_a_template_beside_the_config_is_folded_in(minilm_folder, tmp_path):
    write_safetensors(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes((minilm_folder / "tokenizer.json").read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ '–' }}", encoding="utf-8")
    files = open_checkpoint(tmp_path).sidecars()
    assert set(files) == {"tokenizer.json", "tokenizer_config.json"}
    assert json.loads(files["tokenizer_config.json"])["chat_template"] == "{{ '–' }}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", b"{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer.model", b"\x00", "tokenizer.model is no model of SentencePiece"),
        ("tokenizer.model", b"", "tokenizer.model is no model of SentencePiece"),
        ("vocab.json", b"{}", "transformers cannot read its tokenizer"),
    ],
)
def test_tokenizers_that_cannot_be_read(name, content, message, tmp_path):
    write_safetensors(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path).sidecars()
