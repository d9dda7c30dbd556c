"""Changes at random, of bytes and of what JSON says. Chance is the ``Random`` that is given."""

import copy
import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

INTEGERS = (0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64,
            10**9, -(2**63), 10**30, 10**400)  # fmt: skip
FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", " ", "x", "é\u0301", "\ud800", "\x00", "../../etc/passwd", "/", "true", "1e9", "NaN",
         "%s%n", "{{ 1 }}", "a" * 5000, "(a*)*b", "[PAD]", "<s>", "\u2581")  # fmt: skip
Value = Any


class Twice(dict[str, Value]):
    """An object that is written with one of its keys a second time."""

    again: tuple[str, Value]

    def items(self) -> list[tuple[str, Value]]:  # type: ignore[override]
        """What is written, which is more than is there."""
        return [*super().items(), self.again]


def mutated_json(chance: Random, content: bytes, words: Sequence[Value] = ()) -> bytes:
    """Change a JSON document: what it says, now and then its bytes.

    Args:
        words: Keys and values that mean something in this format, beside those in the document.
    """
    if chance.random() < 0.1:
        return mutated_bytes(chance, content)
    if chance.random() < 0.01:  # deeper than a reader's stack
        return chance.choice([b"[", b'{"a":', b'{"type":"Sequence","x":[']) * 50_000
    return json.dumps(mutated(chance, json.loads(content), words)).encode()


def mutated(chance: Random, document: Value, words: Sequence[Value] = ()) -> Value:
    """Change one to three places of a document of Python's own types."""
    document = copy.deepcopy(document)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places or chance.random() < 0.01:
            return _value(chance, document, words)
        # keys near the top mean more, and are few among the entries of a vocabulary
        depth = chance.randint(1, max(len(path) for path in places))
        path = chance.choice([path for path in places if len(path) <= depth])
        document = _changed(chance, document, path, words)
    return document


def _places(value: Value, path: tuple[Value, ...] = ()) -> Iterator[tuple[Value, ...]]:
    items = dict.items(value) if isinstance(value, dict) else enumerate(value)
    for key, child in list(items)[:400]:
        yield (*path, key)
        if isinstance(child, dict | list):
            yield from _places(child, (*path, key))


def _changed(
    chance: Random, document: Value, path: Sequence[Value], words: Sequence[Value]
) -> Value:
    *above, key = path
    parent = document
    for step in above:
        parent = parent[step]
    match chance.randrange(8):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            name = chance.choice([*filter(_is_text, words), *parent, *TEXTS])
            parent[name] = _value(chance, document, words)
        case 2 if isinstance(parent, dict):
            parent[chance.choice([*filter(_is_text, words), *TEXTS])] = parent.pop(key)
        case 3 if isinstance(parent, dict) and above:
            twice = Twice(parent)
            twice.again = (key, _value(chance, document, words))
            _put(document, above, twice)
        case 3 if isinstance(parent, list):
            parent.insert(chance.randint(0, len(parent)), _value(chance, document, words))
        case 4:
            parent[key] = _near(chance, parent[key])
        case _:
            parent[key] = _value(chance, document, words)
    return document


def _put(document: Value, path: Sequence[Value], value: Value) -> None:
    *above, key = path
    for step in above:
        document = document[step]
    document[key] = value


def _near(chance: Random, value: Value) -> Value:
    """A value not far from one that is right."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float) and value == value:
        return chance.choice([value + 1, value - 1, -value, value * 2, value * 10**6, str(value),
                              [value], value + 0.5 if abs(value) < 2**53 else value])  # fmt: skip
    if isinstance(value, str):
        return chance.choice(
            [value[:-1], value * 2, value.upper(), f" {value}", [value], f"{value}\x00"]
        )
    if isinstance(value, list):
        return chance.choice([value * 2, value[::-1], value[1:], value[:1], [value], None])
    if isinstance(value, dict):
        return chance.choice([list(value), [value], {"": value}, {**value, "x": value}])
    return {}


def _value(chance: Random, document: Value, words: Sequence[Value]) -> Value:
    match chance.randrange(8):
        case 0:
            return chance.choice([None, True, False])
        case 1 | 2:
            return chance.choice(INTEGERS)
        case 3:
            return chance.choice(FLOATS)
        case 4:
            return chance.choice(TEXTS)
        case 5:
            return chance.choice([[], {}, [None], [[]], {"": None}, {"a": {"b": [1]}},
                                  [1, "a", None], [0] * 3000, _nested(150)])  # fmt: skip
        case 6 if words:
            return chance.choice(list(words))
        case _:
            places = list(_places(document)) if isinstance(document, dict | list) else []
            if not places:
                return None
            value = document
            for step in chance.choice(places):
                value = value[step]
            return copy.deepcopy(value)


def _nested(depth: int) -> Value:
    value: Value = []
    for _ in range(depth):
        value = [value]
    return value


def plain(value: Value) -> Value:
    """The same document without keys that are there twice."""
    if isinstance(value, dict):
        return {key: plain(child) for key, child in dict.items(value)}
    return [plain(child) for child in value] if isinstance(value, list) else value


def _is_text(value: Value) -> bool:
    return isinstance(value, str)


def mutated_bytes(chance: Random, content: bytes, head: int = 0) -> bytes:
    """Change one to four places of a file, more often in its first ``head`` bytes."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        size = len(changed)
        if not size:
            break
        end = min(head, size) if head and chance.random() < 0.7 else size
        at = chance.randrange(end)
        match chance.randrange(9):
            case 0 | 1:
                changed[at] ^= 1 << chance.randrange(8)
            case 2:
                changed[at] = chance.randrange(256)
            case 3 | 4:
                width = chance.choice((2, 4, 8))
                number = chance.choice(INTEGERS[:-2]) + chance.choice((-1, 0, 1))
                changed[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, "little")
            case 5:
                del changed[at : at + chance.choice((1, 2, 8, 64))]
            case 6:
                some = bytes(changed[at : at + chance.choice((1, 4, 8, 40))])
                there = chance.randrange(size)
                changed[there:there] = some * chance.choice((1, 1, 1, 20))
            case 7:
                changed[at:at] = chance.randbytes(chance.choice((1, 3, 16)))
            case _:
                del changed[chance.randrange(size) :]
    return bytes(changed)
