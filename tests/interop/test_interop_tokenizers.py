"""llama.cpp tokenizes an exported tokenizer as ours does, and what is refused it would not.

`make interop` builds it; the files hold nothing but the tokenizers.
"""

import json
import unicodedata
from collections import Counter

import pytest
import tokenizers
from support.gguf_tokenizers import ENDS, NEXT_LINE, TEXTS, Case, exact, random_texts, refused
from test_interop import PEERS, ask

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.checkpoint.gguf_file import read_header
from llmkg_lab.checkpoint.gguf_tokenizer import build
from llmkg_lab.conversion import gguf_tokenizer
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.sources import fetch

pytestmark = pytest.mark.skipif(not PEERS.exists(), reason="`make interop` installs the peers")


def ids(case, texts, special=True):
    return [case.tokenizer.encode(text, add_special_tokens=special).ids for text in texts]


@pytest.mark.parametrize("name", exact())
def test_llama_cpp_tokenizes_what_is_exported_alike(name, tmp_path):
    case, path = exact()[name], tmp_path / "model.gguf"
    case.write(path)
    texts = [*TEXTS, *random_texts(400)]
    told = ask("llama_cpp_tokens", path=str(path), texts=texts)
    assert told["whole"] == ids(case, texts)
    if case.architecture != "bert":
        assert told["parts"] == ids(case, texts, special=False)


def of_roster(variant, path):
    """A variant's tokenizer, written to a file."""
    fetched = fetch(find_variant(variant), "synthetic:reduced")
    sidecars = open_checkpoint(fetched.path, fetched.tokenizer).sidecars()
    core = tokenizers.Tokenizer.from_buffer(sidecars["tokenizer.json"])
    core.no_padding()
    core.no_truncation()
    case = Case(core, json.loads(sidecars["tokenizer_config.json"]))
    case.write(path)
    return case


@pytest.fixture
def bert(tmp_path):
    case = of_roster("all_minilm_l6_v2", tmp_path / "bert.gguf")
    case.path = tmp_path / "bert.gguf"
    return case


def test_llama_cpp_tokenizes_smollm_alike(tmp_path):
    """Whose split no other tool judges: transformers ignores it in a GGUF file."""
    case, texts = of_roster("smollm2_135m_instruct", tmp_path / "model.gguf"), random_texts(1000)
    told = ask("llama_cpp_tokens", path=str(tmp_path / "model.gguf"), texts=texts)
    assert told["whole"] == told["parts"] == ids(case, texts)


def test_llama_cpp_tokenizes_llama_2_as_sentencepiece_does(tmp_path):
    """An export says a word of texts that transformers tokenizes otherwise."""
    of_roster("openelm_270m", tmp_path / "model.gguf")
    files, texts = build(read_header(tmp_path / "model.gguf")[0], 512), random_texts(1000)
    case = Case(tokenizers.Tokenizer.from_buffer(files["tokenizer.json"]))
    told = ask("llama_cpp_tokens", path=str(tmp_path / "model.gguf"), texts=texts)
    assert told["whole"] == ids(case, texts)


def test_llama_cpp_tokenizes_bert_alike(bert):
    """But for what the next test is of."""
    texts = [text for text in random_texts(1000) if not any(map(is_other, text))]
    assert len(texts) > 500
    told = ask("llama_cpp_tokens", path=str(bert.path), texts=texts)
    assert told["whole"] == ids(bert, texts)


def is_other(character):
    """Whether llama.cpp's WordPiece takes a character otherwise than BERT does."""
    is_mark = unicodedata.category(character) in ("Mc", "Me")
    return is_mark or is_hangul(character) or character in f"{NEXT_LINE}▁"


def is_hangul(character):
    return "가" <= character <= "힣"


def test_which_characters_llama_cpps_word_piece_takes_otherwise(bert, tmp_path):
    """Those that an export says a word of: of letters only Korean ones, of others mostly marks."""
    characters = [chr(c) for c in range(1, 0x10000) if not 0xD800 <= c < 0xE000]
    texts = [f"a{character}b" for character in characters]
    told = ask("llama_cpp_tokens", path=str(bert.path), texts=texts)["whole"]
    read = zip(characters, told, ids(bert, texts), strict=True)
    others = {character for character, theirs, ours in read if theirs != ours}
    assert {"가", "ी", NEXT_LINE} <= others
    kinds = Counter(
        unicodedata.category(character) for character in others if not is_hangul(character)
    )
    assert not {"Lu", "Ll", "Lt", "Lm", "Lo", "Nd", "Nl", "No", "Sc", "Sm", "Zs"} & {*kinds}
    print(f"characters that llama.cpp's WordPiece takes otherwise, beside Hangul: {dict(kinds)}")


@pytest.mark.parametrize("name", [name for name, case in refused().items() if case.witness])
def test_llama_cpp_tokenizes_what_is_refused_otherwise(name, tmp_path, monkeypatch):
    """So that nothing is refused that need not be: each by a text, where a file can be forced.

    Of two it ends with a signal: where a token is missing, or there twice.
    """
    case, path = refused()[name], tmp_path / "model.gguf"
    monkeypatch.setattr(gguf_tokenizer, "_refuse", lambda *refusal: None)
    monkeypatch.setattr(gguf_tokenizer, "_alike", lambda *ways: True)  # of splitting: the nearest
    case.write(path)
    told = ask("llama_cpp_tokens", may_end=True, path=str(path), texts=[case.witness])
    if told is None:
        assert name in ("missing bytes", "spelled alike")
    else:
        assert told["whole"] != ids(case, [case.witness])


@pytest.mark.parametrize("ends", [[], [2], [2, 260], [260, 2, 261]])
def test_llama_cpp_stops_at_all_ends_of_a_text(ends, tmp_path):
    """EOS, and those of a turn."""
    case, path = exact()["Llama"], tmp_path / "model.gguf"
    case.write(path, ends)
    assert ask("llama_cpp_tokens", path=str(path), texts=[])["ends"] == sorted({2, *ends})


def test_llama_cpp_takes_another_token_for_an_end_that_is_not_named(tmp_path, monkeypatch):
    case, path = refused()["no end"], tmp_path / "model.gguf"
    monkeypatch.setattr(gguf_tokenizer, "_refuse", lambda *refusal: None)
    case.write(path)
    (end,) = {*ask("llama_cpp_tokens", path=str(path), texts=[])["ends"]} - {1}  # </s>, by its name
    assert case.tokenizer.id_to_token(end) not in ENDS.values()
