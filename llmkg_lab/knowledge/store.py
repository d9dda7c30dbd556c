"""What a store of facts and texts does, and how one of SQL does it.

``Store`` is all that search, memory and validation know. ``SqlStore`` writes it once in the SQL
that SQLite and Postgres share; what they differ by is a connection, a transaction and the schema.
"""

import contextlib
import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import compress, islice, repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from llmkg_lab.base import files
from llmkg_lab.knowledge.facts import (
    NOW,
    Clock,
    Fact,
    KnowledgeError,
    Pattern,
    Statement,
    Term,
    When,
    key_of,
)

VERSION = 1  # of the schema
BATCH = 100_000  # statements that are written at once
ALIASED = 64  # terms that one name may mean

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: what searches find and answers cite."""

    id: int
    document: int
    position: int  # within its document
    text: str
    title: str
    category: str
    source: str
    recorded: int
    superseded: int | None
    importance: float | None
    uses: int  # how often it was retrieved
    used: int  # microseconds since 1970, when it was last


@dataclass(frozen=True)
class Document:
    """A text that is to be written, cut into chunks.

    Args:
        statements: what each chunk says, by the chunk's position; their ``source`` is filled in.
        mentions: the terms that each chunk names, by the chunk's position.
        vectors: an embedding of each chunk as float16 bytes, none where nothing embeds.
    """

    title: str
    chunks: Sequence[str]
    category: str = ""
    source: str = ""
    statements: Sequence[tuple[int, Statement]] = ()
    mentions: Sequence[tuple[int, Term]] = ()
    vectors: Sequence[bytes] = ()
    model: str = ""  # that made the vectors
    importance: Sequence[float | None] = ()
    replaces: bool = True  # an earlier document of the same title and source


@dataclass(frozen=True)
class Written:
    """What a write did."""

    revision: int
    added: int = 0
    corrected: int = 0
    known: int = 0  # statements that said nothing new
    document: int | None = None
    chunks: tuple[int, ...] = ()


@dataclass
class _Tally:
    added: int = 0
    corrected: int = 0
    known: int = 0
    terms: dict["_Key", int] = field(default_factory=dict)  # of this write
    written: "_Keys | None" = None  # three terms each that this write put into an empty store


class Store(Protocol):
    """A store of facts and texts. All methods may be called from any thread."""

    def load(self, statements: Iterable[Statement]) -> Written:
        """Write statements, all or none; an open row that says otherwise is closed."""

    def write(self, document: Document) -> Written:
        """Write a text with what it says, all or none."""

    def retract(self, facts: Sequence[Fact]) -> Written:
        """Close facts: they were believed, and are no longer."""

    def find(self, pattern: Pattern, when: When = NOW, limit: int = 10) -> list[Fact]:
        """Facts of a pattern, in no order that means anything; exact names first."""

    def follow(self, subject: str, first: str, second: str, limit: int = 10) -> list[Row]:
        """Two hops: (middle, end) texts, with subject–first–middle and middle–second–end."""

    def facts(self, when: When = NOW) -> Iterator[Fact]:
        """All facts, oldest first, as they are at one revision."""

    def terms_of(self, keys: Sequence[str]) -> dict[str, list[Term]]:
        """The terms that normalized names mean."""

    def around(self, terms: Sequence[Term], when: When = NOW, limit: int = 50) -> list[Fact]:
        """Facts in which one of the terms is subject or object."""

    def predicates(self) -> list[tuple[str, int]]:
        """Predicates and the number of their open facts, the most frequent first."""

    def chunks(self, ids: Sequence[int]) -> list[Chunk]:
        """Chunks by id, superseded ones too, in the order asked for."""

    def chunks_after(self, watermark: int, limit: int) -> list[tuple[int, str, str]]:
        """The next chunks: id, title, text, by id."""

    def vectors_after(self, watermark: int, model: str, limit: int) -> list[tuple[int, int, bytes]]:
        """The next embeddings of a model: id, chunk, float16 bytes, by id."""

    def without_vector(self, model: str, limit: int) -> list[tuple[int, str]]:
        """Chunks that a model has not embedded: id, text."""

    def add_vectors(self, model: str, vectors: Sequence[tuple[int, bytes]]) -> None:
        """Add embeddings of chunks."""

    def count(self, what: str, until: int, model: str = "") -> int:
        """How many ``chunk`` or ``embedding`` rows there are up to an id."""

    def mentioning(self, terms: Sequence[Term], limit: int = 50) -> list[int]:
        """Chunks that name one of the terms, the newest first."""

    def touch(self, chunks: Sequence[int], at: int) -> None:
        """Note that chunks were retrieved together."""

    def together(self, chunks: Sequence[int], limit: int) -> list[tuple[int, int, int]]:
        """Chunks that were often retrieved with these: chunk, other, times."""

    def revision(self) -> int:
        """The last revision, 0 of an empty store."""

    def revision_at(self, at: int) -> int:
        """The last revision up to a time, 0 before the first."""

    def times(self, revisions: Iterable[int]) -> dict[int, int]:
        """When revisions were made."""

    def derived(self, name: str) -> str | None:
        """What is noted of a derived index."""

    def note_derived(self, name: str, value: str) -> None:
        """Note something of a derived index."""

    def stats(self) -> dict[str, int]:
        """Counts: facts, superseded, terms, predicates, documents, chunks, embeddings, bytes."""

    def close(self) -> None:
        """Free what is held."""


INDICES = {"fact_po": "p, o", "fact_o": "o"}
FACTS = """
SELECT s.text, s.kind, p.text, o.text, o.kind, f.confidence, f.valid_from, f.valid_to, f.source,
       f.recorded, f.superseded
"""
JOINED = """
FROM fact f CROSS JOIN term s ON s.id = f.s CROSS JOIN term p ON p.id = f.p
CROSS JOIN term o ON o.id = f.o
"""


class SqlStore(ABC):
    """The store in SQL; a subclass connects, begins transactions and makes the schema."""

    clock: Clock

    # what a subclass gives

    @abstractmethod
    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Run one statement that reads, on this thread's connection."""

    @abstractmethod
    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        """Run one statement whose rows are many; they are of one moment."""

    @abstractmethod
    def writing(self) -> AbstractContextManager["Transaction"]:
        """One transaction: the only writer in any process until the block ends."""

    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the store takes."""

    @abstractmethod
    def close(self) -> None:
        """Free what is held."""

    # writing

    def load(self, statements: Iterable[Statement]) -> Written:
        tally, remaining = _Tally(), iter(statements)
        first = list(islice(remaining, BATCH))
        if not first:
            return Written(self.revision())
        with _without_collector(), self.writing() as change:
            revision = change.revise(self.clock())
            deferred = len(first) == BATCH and not change.query("SELECT 1 FROM fact LIMIT 1")
            tally.written = _Keys() if deferred else None
            if deferred:  # indices over a million rows are made faster than they grow
                for name in INDICES:
                    change.change(f"DROP INDEX {name}")
            while first:
                revision = _assert(change, first, revision, tally)
                first = list(islice(remaining, BATCH))
            if deferred:
                for name, columns in INDICES.items():
                    change.change(f"CREATE INDEX {name} ON fact({columns})")
        return Written(revision, tally.added, tally.corrected, tally.known)

    def write(self, document: Document) -> Written:
        tally = _Tally()
        with self.writing() as change:
            revision = change.revise(self.clock())
            if document.replaces:
                self._supersede(change, document, revision)
            number, chunks = _write_texts(change, document, revision)
            rows = [_sourced(s, chunks[position]) for position, s in document.statements]
            mentioned = _number_terms(change, [term for _, term in document.mentions], tally)
            places = [chunks[at] for at, _ in document.mentions]
            change.many(
                "INSERT INTO mention(term, chunk) VALUES (?, ?) ON CONFLICT DO NOTHING",
                list(zip(mentioned, places, strict=True)),
            )
            for start in range(0, len(rows), BATCH):
                revision = _assert(change, rows[start : start + BATCH], revision, tally)
        counts = tally.added, tally.corrected, tally.known
        return Written(revision, *counts, number, tuple(chunks))

    def retract(self, facts: Sequence[Fact]) -> Written:
        with self.writing() as change:
            revision = change.revise(self.clock())
            closed = 0
            for fact in facts:
                ids = [_id_of(change, term) for term in (fact.subject, fact.object)]
                predicate = _id_of(change, Term(fact.predicate, "p"))
                closed += change.change(
                    "UPDATE fact SET superseded = ? WHERE s = ? AND p = ? AND o = ? "
                    "AND recorded = ? AND superseded IS NULL",
                    (revision, ids[0], predicate, ids[1], fact.recorded),
                )
        return Written(revision, corrected=closed)

    def _supersede(self, change: "Transaction", document: Document, revision: int) -> None:
        """Close an earlier text of the same title and source, and what it alone said."""
        key = (document.title, document.source)
        old = change.query(
            "SELECT id FROM document WHERE title = ? AND source = ? AND superseded IS NULL", key
        )
        for (number,) in old:
            for (chunk,) in change.query("SELECT id FROM chunk WHERE document = ?", (number,)):
                closing = (revision, chunk)
                change.change(
                    "UPDATE fact SET superseded = ? WHERE source = ? AND superseded IS NULL",
                    closing,
                )
                change.change("UPDATE chunk SET superseded = ? WHERE id = ?", closing)
            change.change("UPDATE document SET superseded = ? WHERE id = ?", (revision, number))

    def add_vectors(self, model: str, vectors: Sequence[tuple[int, bytes]]) -> None:
        with self.writing() as change:
            change.many(
                "INSERT INTO embedding(chunk, model, vector) VALUES (?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                [(chunk, model, vector) for chunk, vector in vectors],
            )

    def touch(self, chunks: Sequence[int], at: int) -> None:
        pairs = [(a, b) for a in sorted(chunks) for b in sorted(chunks) if a < b]
        with self.writing() as change:
            change.many(
                "INSERT INTO recall(chunk, uses, used) VALUES (?, 1, ?) ON CONFLICT (chunk) "
                "DO UPDATE SET uses = recall.uses + 1, used = excluded.used",
                [(chunk, at) for chunk in chunks],
            )
            change.many(
                "INSERT INTO tie(a, b, times) VALUES (?, ?, 1) ON CONFLICT (a, b) "
                "DO UPDATE SET times = tie.times + 1",
                pairs,
            )

    def note_derived(self, name: str, value: str) -> None:
        with self.writing() as change:
            change.change(
                "INSERT INTO derived(name, value) VALUES (?, ?) ON CONFLICT (name) "
                "DO UPDATE SET value = excluded.value",
                (name, value),
            )

    # reading

    def find(self, pattern: Pattern, when: When = NOW, limit: int = 10) -> list[Fact]:
        given = (("s", pattern.subject), ("p", pattern.predicate), ("o", pattern.object))
        texts = [text for _, text in given if text is not None]
        exact = [
            f"f.{column} IN (SELECT id FROM term WHERE text = ?"
            + (" AND kind = 'p')" if column == "p" else " AND kind <> 'p')")
            for column, text in given
            if text is not None
        ]
        rows = self._select(exact, texts, when, limit)
        if not rows and (wider := self._by_alias(given)):
            rows = self._select(*wider, when, limit)
        return [_fact(row) for row in rows]

    def _by_alias(
        self, given: Sequence[tuple[str, str | None]]
    ) -> tuple[list[str], list[Any]] | None:
        """Conditions by normalized names; None where a name means nothing."""
        conditions, values = [], []
        for column, text in given:
            if text is None:
                continue
            if column == "p":
                conditions.append("f.p IN (SELECT id FROM term WHERE text = ? AND kind = 'p')")
                values.append(text)
                continue
            ids = [number for number, *_ in self._aliased(key_of(text))]
            if not ids:
                return None
            conditions.append(f"f.{column} IN ({marks(ids)})")
            values += ids
        return conditions, values

    def _aliased(self, key: str) -> list[Row]:
        return self.query(
            "SELECT t.id, t.text, t.kind FROM alias a CROSS JOIN term t ON t.id = a.term "
            "WHERE a.key = ? UNION SELECT id, text, kind FROM term WHERE text = ? AND kind <> 'p' "
            "LIMIT ?",
            (key, key, ALIASED),
        )

    def _select(
        self, conditions: list[str], values: list[Any], when: When, limit: int
    ) -> list[Row]:
        seen, moments = _visible(when)
        where = " AND ".join([*conditions, *seen]) or "1 = 1"
        sql = f"{FACTS} {JOINED} WHERE {where} LIMIT ?"
        return self.query(sql, (*values, *moments, limit))

    def follow(self, subject: str, first: str, second: str, limit: int = 10) -> list[Row]:
        return self.query(
            "SELECT m.text, e.text FROM fact f "
            "CROSS JOIN fact g ON g.s = f.o AND g.p = "
            "(SELECT id FROM term WHERE text = ? AND kind = 'p') "
            "CROSS JOIN term m ON m.id = f.o CROSS JOIN term e ON e.id = g.o "
            "WHERE f.s IN (SELECT id FROM term WHERE text = ? AND kind <> 'p') "
            "AND f.p = (SELECT id FROM term WHERE text = ? AND kind = 'p') "
            "AND f.superseded IS NULL AND g.superseded IS NULL LIMIT ?",
            (second, subject, first, limit),
        )

    def facts(self, when: When = NOW) -> Iterator[Fact]:
        seen, moments = _visible(when)
        where = " AND ".join(seen) or "1 = 1"
        sql = f"{FACTS} {JOINED.replace('CROSS JOIN', 'JOIN')} WHERE {where} ORDER BY f.recorded"
        if when == NOW:  # without an order a large store streams at once
            sql = sql.removesuffix("ORDER BY f.recorded")
        return map(_fact, self.stream(sql, moments))

    def terms_of(self, keys: Sequence[str]) -> dict[str, list[Term]]:
        found = {key: [Term(text, kind) for _, text, kind in self._aliased(key)] for key in keys}
        return {key: terms for key, terms in found.items() if terms}

    def around(self, terms: Sequence[Term], when: When = NOW, limit: int = 50) -> list[Fact]:
        found: dict[Row, None] = {}
        for term in terms:
            for column in ("s", "o"):
                condition = f"f.{column} = (SELECT id FROM term WHERE text = ? AND kind = ?)"
                values = [term.text, term.kind]
                rows = self._select([condition], values, when, limit)
                found.update(dict.fromkeys(rows))
        return [_fact(row) for row in islice(found, limit)]

    def predicates(self) -> list[tuple[str, int]]:
        rows = self.query(
            "SELECT t.text, n FROM term t JOIN (SELECT p, count(*) AS n FROM fact "
            "WHERE superseded IS NULL GROUP BY p) c ON c.p = t.id ORDER BY n DESC, t.text"
        )
        return [(text, number) for text, number in rows]

    def chunks(self, ids: Sequence[int]) -> list[Chunk]:
        if not ids:
            return []
        rows = self.query(
            "SELECT c.id, c.document, c.position, c.text, d.title, d.category, d.source, "
            "c.recorded, c.superseded, c.importance, coalesce(r.uses, 0), coalesce(r.used, 0) "
            "FROM chunk c JOIN document d ON d.id = c.document "
            f"LEFT JOIN recall r ON r.chunk = c.id WHERE c.id IN ({marks(ids)})",
            tuple(ids),
        )
        found = {row[0]: Chunk(*row) for row in rows}
        return [found[number] for number in ids if number in found]

    def chunks_after(self, watermark: int, limit: int) -> list[tuple[int, str, str]]:
        return self.query(
            "SELECT c.id, d.title, c.text FROM chunk c JOIN document d ON d.id = c.document "
            "WHERE c.id > ? ORDER BY c.id LIMIT ?",
            (watermark, limit),
        )

    def vectors_after(self, watermark: int, model: str, limit: int) -> list[tuple[int, int, bytes]]:
        return self.query(
            "SELECT id, chunk, vector FROM embedding WHERE id > ? AND model = ? "
            "ORDER BY id LIMIT ?",
            (watermark, model, limit),
        )

    def without_vector(self, model: str, limit: int) -> list[tuple[int, str]]:
        return self.query(
            "SELECT c.id, c.text FROM chunk c WHERE c.superseded IS NULL AND NOT EXISTS "
            "(SELECT 1 FROM embedding e WHERE e.chunk = c.id AND e.model = ?) "
            "ORDER BY c.id LIMIT ?",
            (model, limit),
        )

    def count(self, what: str, until: int, model: str = "") -> int:
        if what == "chunk":
            return int(self.query("SELECT count(*) FROM chunk WHERE id <= ?", (until,))[0][0])
        sql = "SELECT count(*) FROM embedding WHERE id <= ? AND model = ?"
        return int(self.query(sql, (until, model))[0][0])

    def mentioning(self, terms: Sequence[Term], limit: int = 50) -> list[int]:
        found: dict[int, None] = {}
        for term in terms:
            rows = self.query(
                "SELECT m.chunk FROM mention m JOIN chunk c ON c.id = m.chunk "
                "WHERE m.term = (SELECT id FROM term WHERE text = ? AND kind = ?) "
                "AND c.superseded IS NULL ORDER BY m.chunk DESC LIMIT ?",
                (term.text, term.kind, limit),
            )
            found.update(dict.fromkeys(row[0] for row in rows))
        return list(islice(found, limit))

    def together(self, chunks: Sequence[int], limit: int) -> list[tuple[int, int, int]]:
        if not chunks:
            return []
        asked = marks(chunks)
        return self.query(
            f"SELECT a, b, times FROM tie WHERE a IN ({asked}) "
            f"UNION SELECT b, a, times FROM tie WHERE b IN ({asked}) "
            "ORDER BY 3 DESC, 1, 2 LIMIT ?",
            (*chunks, *chunks, limit),
        )

    def revision(self) -> int:
        return int(self.query("SELECT coalesce(max(id), 0) FROM revision")[0][0])

    def revision_at(self, at: int) -> int:
        rows = self.query("SELECT coalesce(max(id), 0) FROM revision WHERE at <= ?", (at,))
        return int(rows[0][0])

    def times(self, revisions: Iterable[int]) -> dict[int, int]:
        wanted = sorted(set(revisions))
        if not wanted:
            return {}
        sql = f"SELECT id, at FROM revision WHERE id IN ({marks(wanted)})"
        return dict(self.query(sql, wanted))

    def derived(self, name: str) -> str | None:
        rows = self.query("SELECT value FROM derived WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def stats(self) -> dict[str, int]:
        counts = {
            "facts": "fact WHERE superseded IS NULL",
            "superseded": "fact WHERE superseded IS NOT NULL",
            "terms": "term WHERE kind <> 'p'",
            "predicates": "term WHERE kind = 'p'",
            "documents": "document WHERE superseded IS NULL",
            "chunks": "chunk WHERE superseded IS NULL",
            "embeddings": "embedding",
        }
        found = {
            name: self.query(f"SELECT count(*) FROM {of}")[0][0] for name, of in counts.items()
        }
        return {**found, "revision": self.revision(), "bytes": self.nbytes()}


class Transaction(ABC):
    """What a write does within one transaction."""

    @abstractmethod
    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Read within the transaction."""

    @abstractmethod
    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Run one statement that writes; the number of rows that it changed."""

    @abstractmethod
    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each row."""

    @abstractmethod
    def stage(self, name: str, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Fill a table of this connection with columns c0, c1 …, for one query to join."""

    def revise(self, at: int) -> int:
        """Begin a revision; its time is never before that of the last."""
        number, last = self.query(
            "SELECT coalesce(max(id), 0), coalesce(max(at), 0) FROM revision"
        )[0]
        self.change("INSERT INTO revision(id, at) VALUES (?, ?)", (number + 1, max(at, last)))
        return int(number + 1)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python from looking for cycles among millions of rows, again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def deriving(folder: Path) -> AbstractContextManager[None]:
    """One process at a time makes files of derived indices in a folder, and removes old ones."""
    return files.locked(folder.with_name(f"{folder.name}-lock"))


def now() -> int:
    """The clock of stores: microseconds since 1970."""
    return time.time_ns() // 1000


def _assert(
    change: Transaction, statements: Sequence[Statement], revision: int, tally: _Tally
) -> int:
    """Write statements; return the revision of the last.

    What an open row of the same source says already is not written again, and what no source says
    not where any row does. A row of the same source and beginning that says otherwise is closed.
    Two rows of the same three terms are of two revisions.
    """
    rows, ids = _rows(change, statements, revision, tally)
    following = (ids[:, 1:] == ids[:, :-1]).all(axis=0)  # of the terms of the row before it
    beside = np.append(following, False) | np.insert(following, 0, False)
    maybe = tally.written.add(ids) if tally.written else np.full(len(rows), True)
    open_rows = _open(change, ids[:, maybe])
    for i in np.flatnonzero(maybe) if open_rows else ():
        beside[i] |= rows[i][:3] in open_rows
    plain, rows = list(compress(rows, ~beside)), list(compress(rows, beside))
    change.many(_INSERT, plain)
    tally.added += len(plain)
    new: dict[Row, Row] = {}  # by three terms: what this revision writes
    for row in rows:
        key, said = row[:3], row[4:]
        known = open_rows.get(key, ())
        same = next((old for old in known if old[2] == said[1] and old[4] == said[3]), None)
        if any(old[1:4] == said[:3] and said[3] in (None, old[4]) for old in known):
            tally.known += 1
            continue
        if key in new or (known and max(old[0] for old in known) == revision):
            change.many(_INSERT, sorted(new.values()))
            new, revision = {}, change.revise(0)
        if same:
            change.change(
                "UPDATE fact SET superseded = ? WHERE s = ? AND p = ? AND o = ? AND recorded = ?",
                (revision, *key, same[0]),
            )
            open_rows[key].remove(same)
            tally.corrected += 1
        open_rows.setdefault(key, []).append((revision, *said))
        new[key] = (*key, revision, *said)
        tally.added += 1
    change.many(_INSERT, sorted(new.values()))
    return revision


_INSERT = (
    "INSERT INTO fact(s, p, o, recorded, confidence, valid_from, valid_to, source) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def _rows(
    change: Transaction, statements: Sequence[Statement], revision: int, tally: _Tally
) -> tuple[list[Row], np.ndarray]:
    """Rows as they are inserted, in the order of their terms, as B-trees like it.

    And their terms' numbers, (3, n): subject, predicate, object.
    """
    subjects, predicates, objects, *said = zip(*statements, strict=True)
    names = list(dict.fromkeys(predicates))
    few = _number_terms(change, [Term(name, "p") for name in names], tally)
    numbered = [
        _number_terms(change, subjects, tally),
        list(map(dict(zip(names, few, strict=True)).__getitem__, predicates)),
        _number_terms(change, objects, tally),
    ]
    ids = np.array(numbered, np.int64)
    order = np.lexsort(ids[::-1])
    rows = list(zip(*numbered, repeat(revision, len(statements)), *said, strict=True))
    return [rows[i] for i in order.tolist()], ids[:, order]


class _Keys:
    """The terms of what a write has put into an empty store, by their hashes alone.

    Where none is like one's own, the store has no open row of them and need not be asked.
    """

    def __init__(self) -> None:
        self._hashes = np.empty(0, np.uint64)  # in order

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Which of them, (3, n), may be there already: (n,) bool. Now all are."""
        s, p, o = ids.astype(np.uint64)
        hashes = (s * _MIX + p) * _MIX + o
        places = self._hashes.searchsorted(hashes)
        known = np.append(self._hashes, np.uint64(0))
        there = (known[places] == hashes) & (places < len(self._hashes))
        self._hashes = np.sort(np.concatenate([self._hashes, hashes]), kind="stable")
        return there


_MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd number without pattern: 2^64 over the golden ratio


def _open(change: Transaction, ids: np.ndarray) -> dict[Row, list[Row]]:
    """The open rows of three terms each: recorded, confidence, valid_from, valid_to, source.

    ids: (3, n), in order, or they are slow to look up.
    """
    found: dict[Row, list[Row]] = {}
    keys = dict.fromkeys(zip(*ids.tolist(), strict=True))
    if not keys:
        return found
    change.stage("asked", ("BIGINT", "BIGINT", "BIGINT"), list(keys))
    for row in change.query(
        "SELECT f.s, f.p, f.o, f.recorded, f.confidence, f.valid_from, f.valid_to, f.source "
        "FROM asked a JOIN fact f ON f.s = a.c0 AND f.p = a.c1 AND f.o = a.c2 "
        "WHERE f.superseded IS NULL"
    ):
        found.setdefault(row[:3], []).append(row[3:])
    return found


_Key = str | Term  # a name's is its text, whose hash is kept; a tuple's is computed each time


def _number_terms(change: Transaction, terms: Sequence[Term], tally: _Tally) -> list[int]:
    """The terms' numbers, kept in ``tally``; new terms are written, with their aliases."""
    texts, kinds = zip(*terms, strict=True) if terms else ((), ())
    keys = list(map(_key, terms)) if any(kinds) else texts
    if missing := set(keys).difference(tally.terms):
        _add_terms(change, missing, tally)
    return list(map(tally.terms.__getitem__, keys))


def _add_terms(change: Transaction, missing: set[_Key], tally: _Tally) -> None:
    (last,) = change.query("SELECT coalesce(max(id), 0) FROM term")[0]
    if last > len(tally.terms):  # there are others than those of this write
        change.stage("named", ("TEXT", "TEXT"), sorted(map(_term, missing)))
        for number, text, kind in change.query(
            "SELECT t.id, t.text, t.kind FROM named n "
            "JOIN term t ON t.text = n.c0 AND t.kind = n.c1"
        ):
            tally.terms[_key(Term(text, kind))] = number
        missing.difference_update(tally.terms)
    names = sorted(key for key in missing if isinstance(key, str))
    new: list[_Key] = [*names, *sorted(key for key in missing if isinstance(key, Term))]
    numbers = range(last + 1, last + 1 + len(new))
    tally.terms.update(zip(new, numbers, strict=True))
    rows = ((number, *_term(key)) for number, key in zip(numbers, new, strict=True))
    change.many("INSERT INTO term(id, text, kind) VALUES (?, ?, ?)", list(rows))
    aliases = ((key_of(name), name, number) for name, number in zip(names, numbers, strict=False))
    change.many(
        "INSERT INTO alias(key, term) VALUES (?, ?)",
        sorted((alias, number) for alias, name, number in aliases if alias != name),
    )


def _key(term: Term) -> _Key:
    return term if term.kind else term.text


def _term(key: _Key) -> Term:
    return Term(key) if isinstance(key, str) else key


def _write_texts(change: Transaction, document: Document, revision: int) -> tuple[int, list[int]]:
    """The document's number and its chunks'."""
    (number,) = change.query("SELECT coalesce(max(id), 0) + 1 FROM document")[0]
    (first,) = change.query("SELECT coalesce(max(id), 0) + 1 FROM chunk")[0]
    chunks = list(range(first, first + len(document.chunks)))
    change.change(
        "INSERT INTO document(id, title, category, source, recorded) VALUES (?, ?, ?, ?, ?)",
        (number, document.title, document.category, document.source, revision),
    )
    importance = document.importance or [None] * len(chunks)
    change.many(
        "INSERT INTO chunk(id, document, position, text, recorded, importance) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [
            (chunk, number, position, text, revision, weight)
            for position, (chunk, text, weight) in enumerate(
                zip(chunks, document.chunks, importance, strict=True)
            )
        ],
    )
    if document.vectors:
        change.many(
            "INSERT INTO embedding(chunk, model, vector) VALUES (?, ?, ?)",
            [
                (chunk, document.model, vector)
                for chunk, vector in zip(chunks, document.vectors, strict=True)
            ],
        )
    return int(number), chunks


def _sourced(statement: Statement, chunk: int) -> Statement:
    return Statement(
        statement.subject,
        statement.predicate,
        statement.object,
        statement.confidence,
        statement.valid_from,
        statement.valid_to,
        chunk,
    )


def _id_of(change: Transaction, term: Term) -> int:
    found = change.query("SELECT id FROM term WHERE text = ? AND kind = ?", (term.text, term.kind))
    if not found:
        raise KnowledgeError(f"nothing is known of {term.text!r}", "find_facts shows what is")
    return int(found[0][0])


def _visible(when: When) -> tuple[list[str], list[int]]:
    """The conditions under which a row is seen from a time, and their values."""
    conditions, values = [], []
    if when.known is not None:
        conditions.append("f.recorded <= ? AND (f.superseded IS NULL OR f.superseded > ?)")
        values += [when.known, when.known]
    elif not when.ever:
        conditions.append("f.superseded IS NULL")
    if when.valid is not None:
        conditions.append(
            "(f.valid_from IS NULL OR f.valid_from <= ?) AND (f.valid_to IS NULL OR f.valid_to > ?)"
        )
        values += [when.valid, when.valid]
    return conditions, values


def _fact(row: Row) -> Fact:
    return Fact(Term(row[0], row[1]), row[2], Term(row[3], row[4]), *row[5:])


def marks(values: Sequence[object]) -> str:
    """A mark for each value, as SQL has them."""
    return ", ".join("?" * len(values))
