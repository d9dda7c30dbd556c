"""Each property of a tokenizer that llama.cpp cannot take over is refused by its name.

That it could not, and that what is exported is read as it should be, `make interop` checks
against llama.cpp itself; here our own reader of GGUF, which does as llama.cpp, stands in.
"""

import logging

import pytest
import tokenizers
from gguf import GGUFWriter
from support import tiny_folders
from support.gguf_tokenizers import TEXTS, exact, metaspace, refused

from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.checkpoint.gguf_file import read_header
from llmkg_lab.checkpoint.gguf_tokenizer import build
from llmkg_lab.conversion import gguf_tokenizer, to_gguf
from llmkg_lab.models.base import UnsupportedError


@pytest.mark.parametrize("name", refused())
def test_what_llama_cpp_cannot_is_refused(name, tmp_path):
    case = refused()[name]
    with pytest.raises(UnsupportedError) as refusal:
        case.write(tmp_path / "model.gguf")
    assert case.refusal in refusal.value.message


@pytest.mark.parametrize("name", exact())
def test_what_is_exported_is_read_alike(name, tmp_path):
    case = exact()[name]
    case.write(tmp_path / "model.gguf")
    files = build(read_header(tmp_path / "model.gguf")[0], 512)
    read = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
    for text in TEXTS:
        assert read.encode(text).ids == case.tokenizer.encode(text).ids


def test_vowels_that_llama_cpp_leaves_out_are_said(tmp_path, caplog):
    """Of an export of BERT, on its manifest as well."""
    folder = tiny_folders.bert(tmp_path / "bert")
    with caplog.at_level(logging.WARNING):
        exact()["WordPiece"].write(tmp_path / "model.gguf")
    assert "leaves out vowels of Korean" in caplog.text
    (folder / "tokenizer.json").write_bytes(exact()["WordPiece"].sidecars()["tokenizer.json"])
    tiny_folders.write(folder, tokenizer_config={"do_lower_case": True})
    artifact = to_gguf.export(open_checkpoint(folder), "F16", tmp_path / "out")
    assert "leaves out vowels of Korean" in artifact.manifest.cautions[-1]


@pytest.mark.parametrize(("scheme", "also"), [("first", True), ("always", False)])
def test_a_space_that_llama_cpp_puts_before_more_texts_is_said(scheme, also, tmp_path, caplog):
    """transformers' LlamaTokenizer: an export is wanted all the same, but not without a word."""
    from support.gguf_tokenizers import Case

    with caplog.at_level(logging.WARNING):
        Case(metaspace(scheme)).write(tmp_path / "model.gguf")
    assert "llama.cpp puts a space before a text that begins with one" in caplog.text
    assert ("behind each special token" in caplog.text) is also


def test_an_id_without_a_row_is_refused_before_memory_is_taken_for_all_below_it():
    """The library writes a tokenizer out by all ids up to the largest: 16 GB, and a minute."""
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    content = core.to_str().replace("7", str(2**32 - 1)).encode()
    with pytest.raises(UnsupportedError, match="has the id 4294967295, the embedding table 300"):
        gguf_tokenizer.add_tokenizer(GGUFWriter(None, "llama"), {"tokenizer.json": content}, 300)


def test_a_tokenizer_that_reads_no_text_is_refused():
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}))
    core.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex("."), "")
    with pytest.raises(UnsupportedError, match="no tokens of any text"):
        gguf_tokenizer._around(gguf_tokenizer.Source({}, core, {}, 1))
