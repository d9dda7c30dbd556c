"""Tokenizers made to end the process, take its memory or never end: an error of ours, soon."""

import base64
import json
import struct
import time

import psutil
import pytest
from support.tiny_checkpoints import write_safetensors
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from llmkg_lab.base import bounded as bounded_module
from llmkg_lab.base.bounded import Bounded, BoundsError
from llmkg_lab.base.errors import LabError
from llmkg_lab.checkpoint import CheckpointError, open_checkpoint, tokenizer_files
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.tokenizer import Tokenizer as OurTokenizer


def words(**changes):
    """A small tokenizer.json that works, with changes."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return json.loads(tokenizer.to_str()) | changes


def replacing(*steps):
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(*step) for step in steps])
    return json.loads(tokenizer.to_str())


def precompiled(content):
    encoded = base64.b64encode(content).decode()
    return words(normalizer={"type": "Precompiled", "precompiled_charsmap": encoded})


def template(pieces, tokens=()):
    special = {
        t: {"id": t, "ids": ids, "tokens": ["a"] * len(ids)} for t, ids in dict(tokens).items()
    }
    steps = {"single": pieces, "pair": pieces, "special_tokens": special}
    return words(post_processor={"type": "TemplateProcessing", **steps})


def bpe(**options):
    return json.loads(Tokenizer(models.BPE({"a": 0, "b": 1}, [], **options)).to_str())


def backtracking():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(BACKTRACKING), "isolated")
    return json.loads(tokenizer.to_str())


def word_piece():
    pieces = {"[UNK]": 0, "a": 1, "##a": 2}
    model = models.WordPiece(pieces, unk_token="[UNK]", max_input_chars_per_word=10**9)
    return json.loads(Tokenizer(model).to_str())


BACKTRACKING = "((a{1,100}){1,100}){1,100}b"  # the library panics on "aaaa…"
SEQUENCE = {"Sequence": {"id": "A", "type_id": 0}}
HOSTILE = {
    # a trie of no length, whose normalized strings are read past its end
    "precompiled, empty": precompiled(struct.pack("<I", 0)),
    "precompiled, damaged": precompiled(struct.pack("<I", 160) + b"\xff\x7f\x03\x80" * 40 + b"x"),
    "precompiled, huge": precompiled(struct.pack("<I", 1 << 31) + bytes(200)),
    "four steps": replacing(*[("e", "e" * 300)] * 4),
    "steps that match nothing": replacing(*[(Regex(""), "e" * 30)] * 3),
    "one long step": replacing(("e", "e" * 1_000_000)),
    "prefix": words(normalizer={"type": "Prepend", "prepend": "a" * 5000}),
    "backtracking": backtracking(),
    "long words": word_piece(),
    "text thrice": template([SEQUENCE] * 3),
    "many around": template([SEQUENCE, *[{"SpecialToken": {"id": "x", "type_id": 0}}] * 400],
                            {"x": [0] * 100}),
    "dropout": bpe(dropout=0.5),
    "long token": words(model={"type": "WordLevel", "vocab": {"a" * 20_000: 0, "[UNK]": 1},
                               "unk_token": "[UNK]"}),
    "decoder": words(decoder={"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 500}] * 3}),
    "nested": words(normalizer=json.loads(
        '{"type": "Sequence", "normalizers": [' * 100 + '{"type": "NFC"}' + "]}" * 100)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_ends_in_an_error(name, tmp_path):
    write_safetensors(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(HOSTILE[name]))
    start = time.monotonic()
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        open_checkpoint(tmp_path).sidecars()
    with pytest.raises(InferenceError, match="cannot read the tokenizer"):
        OurTokenizer.from_folder(tmp_path)
    assert time.monotonic() - start < 2 * 5


def test_what_works_is_taken():
    for content in (words(), replacing(("e", "ee")), bpe(), template([SEQUENCE])):
        tokenizer_files.tried(json.dumps(content).encode())


def test_a_verdict_is_kept(monkeypatch, tmp_path):
    """A tokenizer that was tried is not tried again, a refused one is: time may have been short."""
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path))
    asked = []

    def ask(self, request, **bounds):
        asked.append(request)
        return b""

    monkeypatch.setattr(Bounded, "ask", ask)
    content = json.dumps(words()).encode()
    for _ in range(2):
        assert tokenizer_files.tried(content) == content
    assert asked == [content]
    refused = json.dumps(words(version="2")).encode()

    def refuse(self, request, **bounds):
        asked.append(request)
        raise BoundsError("no")

    monkeypatch.setattr(Bounded, "ask", refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            tokenizer_files.tried(refused)
    assert asked == [content, refused, refused]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": 7}'),
        ("tokenizer_config.json", '{"tokenizer_class": "LlamaTokenizer", "bos_token": 7}'),
        ("tokenizer_config.json", '{"extra_special_tokens": 7}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": 1}}'),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"99999999999": {"content": "x"}}}'),
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'),
        ("special_tokens_map.json", "[]"),
        ("special_tokens_map.json", '{"bos_token": {"x": 1}}'),
        ("added_tokens.json", '{"x": "y"}'),
    ],
)
def test_files_beside_it_end_in_an_error_or_work(name, content, tmp_path):
    write_safetensors(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps(words()))
    (tmp_path / name).write_text(content)
    try:
        sidecars = open_checkpoint(tmp_path).sidecars()
    except LabError:
        return
    Tokenizer.from_buffer(sidecars["tokenizer.json"])


def test_a_word_that_takes_long_to_join_is_refused(tmp_path):
    """SentencePiece's vocabulary, whose merges are found by trying every cut of every token."""
    from llmkg_lab.checkpoint import spm

    tokens = ["<unk>", *("a" * n for n in (1, 20_000))]
    with pytest.raises(ValueError, match="too long"):
        spm.bpe(tokens, [0.0] * 3, [2, 1, 1], prefix=True)


def test_panics_of_the_library_are_errors():
    tokenizer = Tokenizer.from_str(json.dumps(backtracking()))
    with pytest.raises(InferenceError, match=r"fails on this text: .*retry-limit"):
        OurTokenizer(tokenizer, {}).encode("a" * 50)


def resident(bounded):
    return psutil.Process(bounded._process.pid).memory_info().rss


@pytest.mark.slow
def test_bounds_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_module, "PATIENCE", 2)
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, time\n"
        "def answer(request):\n"
        "    print('not an answer')\n"
        "    return {b'loop': loop, b'memory': memory, b'exit': os.abort, b'sleep': sleep,\n"
        "            b'error': error}.get(request, lambda: request[::-1])()\n"
        "def loop():\n    while True: pass\n"
        "def memory():\n    return b'x' * (1 << 40)\n"
        "def sleep():\n    time.sleep(60)\n"
        "def error():\n    raise KeyError('what')\n"
    )
    bounded = Bounded(program)
    start = time.monotonic()
    assert bounded.ask(b"abc", seconds=1, memory=1 << 28) == b"cba"
    first = bounded._process.pid
    for request, reason in [
        (b"error", "what"),
        (b"memory", "too much memory"),
        (b"exit", "too much memory"),
        (b"loop", "more than 1 seconds"),
        (b"sleep", "more than 1 seconds"),
    ]:
        with pytest.raises(BoundsError, match=reason):
            bounded.ask(request, seconds=1, memory=1 << 28)
        assert bounded.ask(b"abc", seconds=1, memory=1 << 28) == b"cba"
    assert bounded._process.pid != first
    assert time.monotonic() - start < 30
    assert resident(bounded) < 50 << 20
    bounded.close()


def test_an_idle_process_ends(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("def answer(request):\n    return request\n")
    bounded = Bounded(program, idle=0.1)
    bounded.ask(b"x", seconds=1, memory=1 << 28)
    process = bounded._process
    process.wait(10)
    assert bounded.ask(b"y", seconds=1, memory=1 << 28) == b"y"
    bounded.close()
