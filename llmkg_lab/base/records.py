"""Files of JSON that are read into types: checked at the door, written the same way every time.

A record is read strictly. What is of another type, is missing, or is known to nobody is an error
that names the key, so that no later line has to doubt what it was given.
"""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Size = Annotated[float, Meta(ge=0)]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # SHA-256
Scalar = str | int | float | bool | None


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON object whose keys are known, in the order in which they are written.

    A whole file's record has the file's format as its tag: ``tag_field="format"``.
    """


class RecordError(ValueError):
    """A file, or what was to be written into one, that is not of its record's form."""


class _Head(msgspec.Struct):
    format: Any = None


R = TypeVar("R", bound=Record)


def parse(content: bytes, form: type[R]) -> R:
    """Read a whole file. Raises RecordError, which names the key that is wrong."""
    wanted = form.__struct_config__.tag
    try:
        if msgspec.json.decode(content, type=_Head).format != wanted:
            raise RecordError(f"is not of the format {wanted}")
        return msgspec.json.decode(content, type=form)
    except msgspec.ValidationError as error:
        raise RecordError(_located(str(error), content, form)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecordError(f"is not JSON: {error}") from None


def text(record: Record) -> str:
    """The file that holds a record. Raises RecordError where ``parse`` would refuse it."""
    plain = msgspec.to_builtins(record, enc_hook=_plain)
    try:
        written = json.dumps(plain, indent=2, allow_nan=False) + "\n"
    except ValueError:
        key = next(_not_finite(plain), "")
        raise RecordError(f"would hold a number that is not finite, at {key}") from None
    parse(written.encode(), type(record))
    return written


def _plain(value: Any) -> Any:
    """A NumPy scalar as a number of Python's."""
    return value.item()


def _not_finite(value: Any, key: str = "") -> Iterator[str]:
    """Where NaN and infinities are."""
    if isinstance(value, float) and value - value != 0:
        yield key
    items = value.items() if isinstance(value, dict) else ()
    for name, child in items or (enumerate(value) if isinstance(value, list) else ()):
        yield from _not_finite(child, f"{key}.{name}" if key else str(name))


def _located(said: str, content: bytes, form: type[Record]) -> str:
    """What msgspec said, in our words: it names a mapping's value ``[...]``, we by its key."""
    what, _, place = said.replace("`", "").partition(" - at $")
    try:
        place = _key(place, said, content, form)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        # Python's reader refuses what msgspec did not look at; of a key that is there twice, each
        # looks at another value
        place = place.lstrip(".")
    return f"{what[0].lower()}{what[1:]}" + (f", at {place}" if place else "")


def _key(place: str, said: str, content: bytes, form: type[Record]) -> str:
    document = node = json.loads(content)
    keys: list[str | int] = []
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", place):
        key = _culprit(node, said, document, form) if index == "..." else name or int(index)
        keys.append(key)
        node = node[key]
    return ".".join(map(str, keys))


def _culprit(mapping: dict[str, Any], said: str, document: Any, form: type[Record]) -> str:
    """The key of the value that is refused, found by bisection; ``mapping`` keeps no other."""
    items = list(mapping.items())
    while len(items) > 1:
        half = items[: len(items) // 2]
        mapping.clear()
        mapping.update(half)
        items = half if _refusal(document, form) == said else items[len(half) :]
    mapping.clear()
    mapping.update(items)
    return items[0][0]


def _refusal(document: Any, form: type[Record]) -> str:
    try:
        msgspec.json.decode(json.dumps(document), type=form)
    except msgspec.ValidationError as error:
        return str(error)
    return ""
