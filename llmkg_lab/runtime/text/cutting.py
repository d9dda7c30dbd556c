"""Texts and pairs cut to a length in tokens, by way of no more text than that takes.

The tokenizers library tokenizes whole texts and keeps all that it cuts off, of a pair every
combination of the parts: gigabytes for two long texts. Here a text's beginning is tokenized alone
where that gives the same tokens, and what stands around texts is put there afterwards.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

CHARACTERS = 8  # of a text, to begin with, for each token that is wanted
PART = 1 << 16  # characters of a long text that are tokenized at once to count its tokens
# where a word has ended; "▁" is how SentencePiece writes a space
BORDER = re.compile(r"(?<=[^\s▁]) (?!\s*▁)")
SPLITS = {"BertPreTokenizer", "ByteLevel", "Metaspace", "Whitespace", "WhitespaceSplit"}
# normalizers that change nothing before a space because of what comes behind it
LOCAL = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled",
         "Strip", "StripAccents"}  # fmt: skip
SPACES = (r"\s+", " {2,}")  # what Replace may find, to put one character in its place


class Encoded(NamedTuple):
    """A text or a pair as an encoder reads it: its tokens, and the segment of each."""

    ids: list[int]
    types: list[int]


class Piece(NamedTuple):
    """What stands at a place of an encoded text: text 0 or 1, or else a special token."""

    text: int | None
    token: int
    type: int


class Cutter:
    """Encodes texts and pairs of texts, cut to a length.

    side: "left" to keep the ends of texts, for which they are tokenized whole.
    ``local`` says whether the tokens of a text's beginning are those of the beginning alone.
    """

    def __init__(self, core: Tokenizer, side: str = "right") -> None:
        self._core = core
        self._left = side == "left"
        self.local = not self._left and _is_local(core)
        self._frames: dict[int, list[Piece]] = {}

    def encode(self, texts: Sequence[str | tuple[str, str]], max_length: int) -> list[Encoded]:
        """Cut as transformers does: the longer of a pair, until both are of one length."""
        groups = [text if isinstance(text, tuple) else (text,) for text in texts]
        rooms = [max(0, max_length - self._around(len(group))) for group in groups]
        parts = [
            self.beginning(text, room)
            for group, room in zip(groups, rooms, strict=True)
            for text in group
        ]
        encodings = iter(self._core.encode_batch_fast(parts, add_special_tokens=False))
        encoded = []
        for group, room in zip(groups, rooms, strict=True):
            ids = [next(encodings).ids for _ in group]
            encoded.append(self._framed(self._cut(group, ids, room)))
        return encoded

    def beginning(self, text: str, tokens: int) -> str:
        """A beginning of ``text`` with the same first ``tokens``, not much longer than that."""
        size = CHARACTERS * (tokens + 1)
        while self.local and size < len(text):
            end = _border(text, size)
            offsets = self._core.encode(text[:end], add_special_tokens=False).offsets
            if len(offsets) > tokens:
                cut = _border(text, offsets[tokens][1])
                if cut < end:  # a word stands behind, so the one with the last token is whole
                    return text[:cut]
            size = 2 * end
        return text

    def count(self, text: str) -> int:
        """The tokens of a text, which is tokenized in parts."""
        parts = _parts(text) if self.local else [text]
        return sum(len(self._core.encode(part, add_special_tokens=False)) for part in parts)

    def length(self, text: str | tuple[str, str]) -> int:
        """The tokens of a text or a pair, uncut, with those around it."""
        group = text if isinstance(text, tuple) else (text,)
        return self._around(len(group)) + sum(map(self.count, group))

    def _around(self, texts: int) -> int:
        """The special tokens around one text or two."""
        return sum(piece.text is None for piece in self._frame(texts))

    def _cut(self, group: Sequence[str], ids: list[list[int]], room: int) -> list[list[int]]:
        """The tokens that are kept of one text or two. ids: of their beginnings."""
        if len(group) == 1:
            sizes: Sequence[int] = [min(len(ids[0]), room)]
        else:
            lengths = [len(tokens) for tokens in ids]
            if min(lengths) >= room:  # then it matters which text is longer as a whole
                lengths = [self.count(text) for text in group]
            sizes = longest_first(lengths[0], lengths[1], room)
        if self._left:
            return [tokens[len(tokens) - n :] for tokens, n in zip(ids, sizes, strict=True)]
        return [tokens[:n] for tokens, n in zip(ids, sizes, strict=True)]

    def _framed(self, texts: list[list[int]]) -> Encoded:
        """The tokens of one text or two, with what belongs around them."""
        encoded = Encoded([], [])
        for piece in self._frame(len(texts)):
            tokens = [piece.token] if piece.text is None else texts[piece.text]
            encoded.ids.extend(tokens)
            encoded.types.extend([piece.type] * len(tokens))
        return encoded

    def _frame(self, texts: int) -> list[Piece]:
        """What the tokenizer puts around one text or two, and where these stand in it."""
        if texts not in self._frames:
            word = next(self._words(), "")
            encoding = self._core.encode(word, word if texts == 2 else None)
            frame: list[Piece] = []
            self._frames[texts] = frame
            for token, segment, number in zip(
                encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True
            ):
                if number is None or all(piece.text != number for piece in frame):
                    frame.append(Piece(number, token, segment))
        return self._frames[texts]

    def _words(self) -> Iterator[str]:
        """Texts that make a token."""
        for word in ("a", "0", ".", *self._core.get_vocab(True)):
            if self._core.encode(word, add_special_tokens=False).ids:
                yield word


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens two texts of so many keep. Of an odd one, the longer has more."""
    if first > second:
        second, first = longest_first(second, first, room)
        return first, second
    if first + second <= room:
        return first, second
    half = room // 2
    return (first, room - first) if first <= half else (half, room - half)


def _border(text: str, start: int) -> int:
    """The first place from ``start`` on where a word ends and a space follows, or the end."""
    found = BORDER.search(text, start)
    return found.start() if found else len(text)


def _parts(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = _border(text, start + PART)
        yield text[start:end]
        start = end


def _is_local(core: Tokenizer) -> bool:
    added = core.get_added_tokens_decoder().values()
    return (
        any(step["type"] in SPLITS and _splits(step) for step in _steps(core.pre_tokenizer))
        and all(step["type"] in LOCAL or _closes_up(step) for step in _steps(core.normalizer))
        and not any(re.search(r"\s", token.content) for token in added)
    )


def _splits(step: dict) -> bool:
    return bool(step.get("use_regex", True) and step.get("split", True))


def _closes_up(step: dict) -> bool:
    """Whether a step makes one space of several."""
    return (
        step["type"] == "Replace"
        and step["pattern"].get("Regex") in SPACES
        and step["content"] in (" ", "▁")
    )


def _steps(part: Any) -> list[dict]:
    """The steps of a normalizer or pre-tokenizer, one after another."""
    return _flat(json.loads(part.__getstate__())) if part else []


def _flat(step: dict) -> list[dict]:
    if step["type"] != "Sequence":
        return [step]
    inside = next(value for value in step.values() if isinstance(value, list))
    return [part for nested in inside for part in _flat(nested)]
