"""What a fact is: two terms and a predicate between them, with two kinds of time.

*Valid* time says when a fact held in the world; *recorded* time, counted in revisions of the
store, when the store believed it. A correction closes the old row and adds a new one, so that both
can be travelled.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from llmkg_lab.base.errors import LabError

NAME_LIMIT = 128  # characters of a subject or an object
PREDICATE_LIMIT = 64
CONTENT_LIMIT = 50_000  # characters of a text
TITLE_LIMIT = 256
QUERY_LIMIT = 2_000
LITERAL_LIMIT = CONTENT_LIMIT  # of what is imported
IRI_LIMIT = 2_000

NAME, IRI, BLANK, STRING = "", "i", "b", '"'  # kinds; a typed literal's is '"^^<type>' or '"@en'

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\ufeff]")


class KnowledgeError(LabError):
    """A fact, a text or a question that cannot be taken as it is; or a store that cannot be."""


class Term(NamedTuple):
    """What a fact is about: a name of ours, or a term of RDF by its kind."""

    text: str
    kind: str = NAME


class Statement(NamedTuple):
    """A fact that is to be written.

    Args:
        valid_from, valid_to: microseconds since 1970, the end not included; None: without bound.
        source: the chunk that says so; None where no text does.
    """

    subject: Term
    predicate: str
    object: Term
    confidence: float = 1.0
    valid_from: int | None = None
    valid_to: int | None = None
    source: int | None = None


class Fact(NamedTuple):
    """A fact as the store has it.

    Args:
        recorded, superseded: the revisions from and until which the store believed it.
    """

    subject: Term
    predicate: str
    object: Term
    confidence: float
    valid_from: int | None
    valid_to: int | None
    source: int | None
    recorded: int
    superseded: int | None


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which facts are meant: by their texts, None for any."""

    subject: str | None = None
    predicate: str | None = None
    object: str | None = None


@dataclass(frozen=True, slots=True)
class When:
    """From where in time facts are seen.

    Args:
        valid: microseconds since 1970; None: whatever they hold for.
        known: a revision; None: now.
        ever: with what has been superseded.
    """

    valid: int | None = None
    known: int | None = None
    ever: bool = False


NOW = When()


def clean_name(text: object, what: str = "subject", limit: int = NAME_LIMIT) -> str:
    """Return a name in its normal form. Raises KnowledgeError, which names ``what``."""
    if not isinstance(text, str):
        raise KnowledgeError(f"{what} is not a text", f"give 1 to {limit} characters")
    if found := _CONTROLS.search(text):
        raise KnowledgeError(
            f"{what} holds the control character U+{ord(found[0]):04X}", "leave it out"
        )
    name = " ".join(unicodedata.normalize("NFC", text[: 4 * limit]).split())
    if not name:
        raise KnowledgeError(f"{what} is empty", f"give 1 to {limit} characters")
    if len(name) > limit or len(text) > 4 * limit:
        raise KnowledgeError(
            f"{what} has {max(len(name), len(text))} characters, at most {limit} are taken",
            "shorten it; long texts belong into store_knowledge",
        )
    return name


def clean_text(text: object, what: str = "content", limit: int = CONTENT_LIMIT) -> str:
    """Return a text without control characters. Raises KnowledgeError on an empty or long one."""
    if not isinstance(text, str):
        raise KnowledgeError(f"{what} is not a text", f"give 1 to {limit:,} characters")
    if len(text) > limit:
        raise KnowledgeError(
            f"{what} has {len(text):,} characters, at most {limit:,} are taken",
            "give it in parts",
        )
    cleaned = unicodedata.normalize("NFC", _CONTROLS.sub(" ", text)).strip()
    if not cleaned:
        raise KnowledgeError(f"{what} is empty", f"give 1 to {limit:,} characters")
    return cleaned


def clean_confidence(value: object) -> float:
    """Return a confidence. Raises KnowledgeError where it is not a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise KnowledgeError(f"confidence is {value!r}", "it is a number from 0 to 1")
    return float(value)


def key_of(name: str) -> str:
    """Return what names that mean the same have in common: no case, no article, no marks."""
    plain = name.casefold()
    if not plain.isascii():
        apart = unicodedata.normalize("NFKD", plain)
        plain = "".join(c for c in apart if not unicodedata.combining(c))
    words = plain.split()  # most names have no marks: the quickest way
    if not "".join(words).isalnum():
        words = re.findall(r"\w+", plain)
    if len(words) > 1 and words[0] in ("the", "a", "an"):
        words = words[1:]
    return " ".join(words) or name.casefold()


def predicate_of(text: str) -> str:
    """Return a predicate as it is stored: ``works at`` and ``Works_At`` are works_at."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text):  # an IRI stays as it is
        return text
    return "_".join(re.findall(r"[^\s_\-]+", text)).lower() or text


def moment(text: object, what: str = "timestamp") -> int:
    """Return when a date or time of ISO 8601 begins, in microseconds since 1970.

    A year and a month are dates, too. Without a zone a time is of UTC.
    Raises KnowledgeError on anything else.
    """
    if isinstance(text, str) and len(text) < 40:
        for read in (_year_or_month, datetime.fromisoformat):
            try:
                at = read(text.strip())
            except ValueError:
                continue
            if at is not None:
                return microseconds(at)
    raise KnowledgeError(f"{what} {str(text)[:40]!r} is not a time", "give it as in 2024-05-01")


def microseconds(at: datetime) -> int:
    """Return a time as microseconds since 1970."""
    aware = at if at.tzinfo else at.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def written(at: int | None) -> str | None:
    """Return a time in ISO 8601: a date where it is midnight."""
    if at is None:
        return None
    time = EPOCH + timedelta(microseconds=at)
    if at % 86_400_000_000 == 0:
        return time.date().isoformat()
    return time.isoformat().replace("+00:00", "Z")


def _year_or_month(text: str) -> datetime | None:
    found = re.fullmatch(r"(\d{4})(?:-(\d\d))?", text)
    return datetime(int(found[1]), int(found[2] or 1), 1, tzinfo=UTC) if found else None


Clock = Callable[[], int]  # microseconds since 1970
