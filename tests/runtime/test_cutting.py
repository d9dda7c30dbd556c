"""Texts cut before they are tokenized have the tokens of the whole text, cut afterwards."""

import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from llmkg_lab.runtime.text import cutting
from llmkg_lab.runtime.text.cutting import Cutter, longest_first

WORDS = ["a", "the", "tokens", "naïve", "e\u0301", "\u0301", "日本", "ﬁ", "x.y", "[SEP]", "[MASK]",
         "🙂", "\u0600", "don't", "a" * 110, "##s", "\u200b", "İ", "ß", "▁"]  # fmt: skip
GAPS = [" ", "  ", "\n", " \n ", "\t", "\u00a0", "", " \u0301"]
texts = st.lists(st.tuples(st.sampled_from(WORDS) | st.text(max_size=4), st.sampled_from(GAPS)),
                 max_size=60).map(lambda pairs: "".join(map("".join, pairs)))  # fmt: skip


def unigram(normalizer, splits):
    pieces = [
        ("<unk>", 0.0),
        *(
            (p, -1.0 - i / 99)
            for i, p in enumerate(
                [
                    "▁",
                    *"abdehiknostxy.",
                    "▁the",
                    "▁to",
                    "ken",
                    "▁d",
                    "on",
                    "▁a",
                    "日",
                    "i",
                    "aa",
                    "▁▁",
                ]
            )
        ),
    ]
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), 0, False))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splits
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer  # fmt: skip


def byte_level():
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "th", "the", "Ġthe", "ĠĠ"])}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "Ġ")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="a $A b", pair="a $A b $B:1 b:1", special_tokens=[("a", 1), ("b", 2)]
    )
    return tokenizer


@pytest.fixture(scope="module")
def cores(minilm_folder):
    word_piece = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    spaced = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    both = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    whole = pre_tokenizers.Metaspace(split=False)
    made = {
        "WordPiece": word_piece,
        "Unigram as multilingual E5's": unigram(spaced, pre_tokenizers.Metaspace()),
        "Unigram as XLM-R's": unigram(normalizers.NFKC(), both),
        "Unigram over whole texts": unigram(None, whole),
        "bytes": byte_level(),
    }
    for core in made.values():
        core.no_truncation()
        core.no_padding()
    assert [Cutter(core).local for core in made.values()] == [True, True, True, False, True]
    return made


NAMES = ["WordPiece", "Unigram as multilingual E5's", "Unigram as XLM-R's",
         "Unigram over whole texts", "bytes"]  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(name=st.sampled_from(NAMES), first=texts, second=texts, length=st.integers(3, 60))
def test_the_tokens_are_those_of_the_library(cores, name, first, second, length):
    """Even where hardly more text is looked at than is needed."""
    core = cores[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "CHARACTERS", 1)
        patch.setattr(cutting, "PART", 7)
        made = Cutter(core).encode([first, (first, second)], length)
    core.enable_truncation(length)
    try:
        wanted = [core.encode(first), core.encode(first, second)]
    finally:
        core.no_truncation()
    assert [(e.ids, e.type_ids) for e in wanted] == [(e.ids, e.types) for e in made]


@settings(deadline=None, max_examples=200)
@given(name=st.sampled_from(NAMES), text=texts, tokens=st.integers(0, 30))
def test_a_beginning_has_the_first_tokens(cores, name, text, tokens):
    core = cores[name]
    cutter = Cutter(core)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "CHARACTERS", 1)
        patch.setattr(cutting, "PART", 7)
        beginning = cutter.beginning(text, tokens)
        whole = core.encode(text, add_special_tokens=False).ids
        assert cutter.count(text) == len(whole)
    assert text.startswith(beginning)
    kept = core.encode(beginning, add_special_tokens=False).ids
    assert kept[:tokens] == whole[:tokens]
    assert len(kept) == len(whole) or len(kept) > tokens


def test_little_of_a_long_text_is_looked_at(cores):
    cutter = Cutter(cores["WordPiece"])
    assert len(cutter.beginning("the tokens " * 100_000, 100)) < 1200
    assert len(cutter.beginning("a" + " " * 100_000 + "b c " * 100_000, 2)) < 100_100


def test_the_longer_text_is_cut_first():
    """Golden: the library's own cut of words that are a token each."""
    core = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    for room in (1, 6, 7):
        core.enable_truncation(room)
        for first in range(10):
            for second in range(10):
                pair = core.encode("a " * first, "a " * second)
                lengths = tuple(sum(number == i for number in pair.sequence_ids) for i in (0, 1))
                assert longest_first(first, second, room) == lengths, (first, second, room)


CODE = """
import resource, sys
from tokenizers import Tokenizer
from llmkg_lab.runtime.text.tokenizer import Tokenizer as Ours
tokenizer = Ours(Tokenizer.from_file(sys.argv[1]), {"pad_token": "[PAD]"})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
text = "the quick brown fox jumps over it. " * 30_000
inputs = tokenizer.encode_batch([(text, text + "."), (text[:99], text), text], 512)
print(inputs["attention_mask"].sum(1).tolist())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


def test_a_pair_of_long_texts_takes_little_memory(minilm_folder):
    """240,000 words each; the library keeps every combination of the parts it cuts off."""
    start = time.monotonic()
    command = [sys.executable, "-c", CODE, str(minilm_folder / "tokenizer.json")]
    lengths, grown = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert lengths == "[512, 512, 512]"
    assert int(grown) < 60 << 20
    assert time.monotonic() - start < 20
