"""Try a tokenizer.json before it is used: a program of ``base.bounded``, which runs it alone.

The tokenizers library trusts its files. A few hundred bytes of them make it end the process, take
all memory, or tokenize at random. What goes wrong as the file is loaded, or on texts of many kinds,
goes wrong here. What would go wrong on other texts alone is refused by the steps that can do it:
those that make a text many times longer.
"""

import json
import random
from math import prod
from typing import Any

from tokenizers import Tokenizer

GROWTH = 256  # times that steps may lengthen a text; the tokenizers in use come to 16 at most
WRITTEN = 1000  # characters that a step may write at once
LONGEST = 10_000  # characters of a token; the longest in use are some hundred spaces
AROUND = 256  # tokens that may be put around a text
# characters that a step makes of one, at most or in the worst of common texts
LONGER = {"BertNormalizer": 3, "ByteLevel": 4, "NFD": 3, "NFKC": 4, "NFKD": 4, "Precompiled": 16}
WORD = 1000  # characters of a word that WordPiece looks up: it takes their square in steps
MANY = 5_000  # characters of a long text
TEXTS = (
    "",
    " ",
    "The quick brown fox jumps over the lazy dog; it's 12:34, and we'll pay $5.60!\n\n\tdef f(x):",
    "Ünïcödé: naïve café, ИЖ, Ελλάδα, עברית, हिन्दी, 日本語, 한국어, ﬁ ² ½ Å e\u0301",
    "🙂 👩\u200d👩\u200d👧 \u200b\ufeff\ufffd",
    "".join(map(chr, range(1, 0x250))),
    "a" * MANY,
    " " * MANY,
    "\n" * MANY,
    "ab1 " * (MANY // 4),
    "é" * MANY + "!",
    "!?.,-_#" * (MANY // 7),
    "0123456789" * (MANY // 10),
    "日本" * (MANY // 2),
)


def answer(content: bytes) -> bytes:
    """Return nothing where the tokenizer works. Raises ValueError with what is wrong with it."""
    tokenizer = Tokenizer.from_buffer(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    _refuse_chance(tokenizer)
    _refuse_growth(tokenizer)
    vocabulary = tokenizer.get_vocab(True)
    if any(len(token) > LONGEST for token in vocabulary):
        raise ValueError(f"it has a token of more than {LONGEST:,} characters")
    for text in (*TEXTS, *_own_texts(tokenizer, vocabulary)):
        _try(tokenizer, text)
    return b""


def _try(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    if len(ids) > GROWTH * len(text) + AROUND:
        raise ValueError(f"it makes {len(ids):,} tokens of {len(text):,} characters")
    tokenizer.encode(text, text[:100])
    decoded = tokenizer.decode(ids)
    if len(decoded) > GROWTH * len(text) + AROUND * LONGEST:
        raise ValueError(f"it makes {len(decoded):,} characters of {len(text):,}")


def _own_texts(tokenizer: Tokenizer, vocabulary: dict[str, int]) -> list[str]:
    """Texts of its own tokens, and what it decodes of ids at random: a model may say anything."""
    if not vocabulary:
        return []
    some = random.Random(0).choices(sorted(vocabulary), k=500)
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()][:500]
    decoded = tokenizer.decode([vocabulary[token] for token in some])
    return ["".join(some), " ".join(added), "".join(added), decoded[:MANY]]


def _refuse_chance(tokenizer: Tokenizer) -> None:
    model = tokenizer.model
    for name in ("dropout", "alpha"):
        if getattr(model, name, None):
            raise ValueError(f"it tokenizes at random ({name} of its model)")


def _refuse_growth(tokenizer: Tokenizer) -> None:
    """Refuse steps that take very long or make a text very much longer, whatever the text."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        if (times := _growth(_stated(tokenizer, name))) > GROWTH:
            raise ValueError(f"its {name} may make a text {times:,} times longer")
    if getattr(tokenizer.model, "max_input_chars_per_word", 0) > WORD:
        raise ValueError(f"its model takes words of more than {WORD:,} characters")
    if _repeats(_stated(tokenizer, "post_processor")):
        raise ValueError("its post_processor repeats a text")
    if max(map(tokenizer.num_special_tokens_to_add, (False, True))) > AROUND:
        raise ValueError(f"it puts more than {AROUND} tokens around a text")


def _stated(tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    part = getattr(tokenizer, name)
    return json.loads(part.__getstate__()) if part else {"type": "none"}


def _growth(step: dict[str, Any]) -> int:
    """Characters that a step, or a sequence of steps, makes of one at most."""
    written = [v for k, v in step.items() if isinstance(v, str) and k != "precompiled_charsmap"]
    if any(len(value) > WRITTEN for value in written):
        raise ValueError(f"its {step['type']} writes more than {WRITTEN:,} characters at once")
    if step["type"] == "Sequence":
        inside = next(value for value in step.values() if isinstance(value, list))
        return prod(map(_growth, inside))
    if step["type"] == "Replace":
        taken = len(step["pattern"].get("String", ""))  # an expression may match no character
        size = len(step["content"])
        return max(1, -(-size // taken)) if taken else 1 + size
    return LONGER.get(step["type"], 1)


def _repeats(step: dict[str, Any]) -> bool:
    """Whether a text stands more than once in what a template makes of it."""
    if step["type"] == "Sequence":
        return any(map(_repeats, step["processors"]))
    for kind in ("single", "pair"):
        named = [piece["Sequence"]["id"] for piece in step.get(kind, []) if "Sequence" in piece]
        if len(set(named)) < len(named):
            return True
    return False
