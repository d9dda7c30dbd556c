"""The store in Postgres, with pgvector beside it: for several machines that share one graph."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import psycopg

from llmkg_lab.knowledge import store
from llmkg_lab.knowledge.connections import PerThread
from llmkg_lab.knowledge.facts import Clock, KnowledgeError
from llmkg_lab.knowledge.store import Row, SqlStore, Store, Transaction
from llmkg_lab.knowledge.vectors import BATCH, Embedder, embed_missing

SCHEMA = """
CREATE TABLE version(number BIGINT NOT NULL);
CREATE TABLE revision(id BIGINT PRIMARY KEY, at BIGINT NOT NULL);
CREATE TABLE term(id BIGINT PRIMARY KEY, text TEXT NOT NULL, kind TEXT NOT NULL);
CREATE INDEX term_text ON term USING hash(text);
CREATE TABLE alias(key TEXT NOT NULL, term BIGINT NOT NULL, PRIMARY KEY(key, term));
CREATE TABLE fact(s BIGINT NOT NULL, p BIGINT NOT NULL, o BIGINT NOT NULL,
    recorded BIGINT NOT NULL, superseded BIGINT, confidence DOUBLE PRECISION NOT NULL,
    valid_from BIGINT, valid_to BIGINT, source BIGINT, PRIMARY KEY(s, p, o, recorded));
CREATE INDEX fact_po ON fact(p, o);
CREATE INDEX fact_o ON fact(o);
CREATE INDEX fact_source ON fact(source) WHERE source IS NOT NULL;
CREATE TABLE document(id BIGINT PRIMARY KEY, title TEXT NOT NULL, category TEXT NOT NULL,
    source TEXT NOT NULL, recorded BIGINT NOT NULL, superseded BIGINT);
CREATE INDEX document_title ON document(title, source);
CREATE TABLE chunk(id BIGINT PRIMARY KEY, document BIGINT NOT NULL, position BIGINT NOT NULL,
    text TEXT NOT NULL, recorded BIGINT NOT NULL, superseded BIGINT, importance DOUBLE PRECISION);
CREATE INDEX chunk_document ON chunk(document);
CREATE TABLE mention(term BIGINT NOT NULL, chunk BIGINT NOT NULL, PRIMARY KEY(term, chunk));
CREATE TABLE embedding(id BIGSERIAL PRIMARY KEY, chunk BIGINT NOT NULL, model TEXT NOT NULL,
    vector BYTEA NOT NULL, UNIQUE(chunk, model));
CREATE TABLE recall(chunk BIGINT PRIMARY KEY, uses BIGINT NOT NULL, used BIGINT NOT NULL);
CREATE TABLE tie(a BIGINT NOT NULL, b BIGINT NOT NULL, times BIGINT NOT NULL, PRIMARY KEY(a, b));
CREATE INDEX tie_b ON tie(b);
CREATE TABLE derived(name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
LOCK = 0x4C4B4731  # an advisory lock's number: who makes the schema


class PostgresStore(SqlStore):
    """A store in a database of its own, by its connection string.

    Raises KnowledgeError where it cannot be reached, or holds a store of a newer version.
    """

    def __init__(self, address: str, clock: Clock = store.now) -> None:
        self.address, self.clock = address, clock
        self._connections = PerThread(self._connect)
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._connections.use() as connection:
            return connection.execute(_translated(sql), values).fetchall()

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        with self._connect(autocommit=False) as connection, connection.cursor("rows") as cursor:
            yield from cursor.execute(_translated(sql), values)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        with self._connections.use() as connection, connection.transaction():
            # one writer at a time, so that revisions and ids are in the order of commits
            connection.execute("LOCK TABLE revision IN EXCLUSIVE MODE")
            yield PostgresTransaction(connection)

    def nbytes(self) -> int:
        return int(self.query("SELECT pg_database_size(current_database())")[0][0])

    def close(self) -> None:
        self._connections.close()

    def _connect(self, *, autocommit: bool = True) -> psycopg.Connection:
        try:
            return psycopg.connect(self.address, autocommit=autocommit)
        except psycopg.OperationalError as error:
            raise KnowledgeError(
                f"Postgres does not answer: {error}", "check the address"
            ) from None

    def _prepare(self) -> None:
        with self._connections.use() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            if connection.execute("SELECT to_regclass('version')").fetchall()[0][0] is None:
                for statement in filter(None, map(str.strip, SCHEMA.split(";"))):
                    connection.execute(statement)
                connection.execute("INSERT INTO version VALUES (%s)", (store.VERSION,))
        found = self.query("SELECT number FROM version")[0][0]
        if found > store.VERSION:
            raise KnowledgeError(
                f"the database holds a knowledge store of version {found}, "
                f"this llmkg-lab knows up to version {store.VERSION}",
                "install a newer llmkg-lab",
            )


class PostgresTransaction(Transaction):
    """A transaction on one connection."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(_translated(sql), values).fetchall()

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        return self._connection.execute(_translated(sql), values).rowcount

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            with self._connection.cursor() as cursor:
                cursor.executemany(_translated(sql), rows)

    def stage(self, name: str, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(types))
        self.change(f"CREATE TEMP TABLE IF NOT EXISTS {name}({columns})")
        self.change(f"TRUNCATE {name}")
        copy = f"COPY {name} FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(copy) as copying:
            for row in rows:
                copying.write_row(row)


class PgVectors:
    """Nearest chunks by pgvector: a table derived from the embeddings, as usearch's file is."""

    def __init__(self, store: PostgresStore, embedder: Embedder) -> None:
        self._store, self.embedder = store, embedder
        self._table = "near_" + re.sub(r"\W", "_", embedder.name.lower())[:50]
        self._is_there = False

    def search(self, vector: np.ndarray, limit: int) -> list[tuple[int, float]]:
        """The nearest chunks and their cosines, the nearest first."""
        self._catch_up(vector.shape[-1])
        rows = self._store.query(
            f"SELECT chunk, 1 - (vector <=> ?::halfvec) FROM {self._table} "
            "ORDER BY vector <=> ?::halfvec LIMIT ?",
            (_text(vector), _text(vector), limit),
        )
        return [(int(chunk), float(cosine)) for chunk, cosine in rows]

    def embed_missing(self, limit: int = 256) -> int:
        """Embed chunks that came without a vector; how many were."""
        return embed_missing(cast(Store, self._store), self.embedder, limit)

    def flush(self) -> None:
        """Nothing is held back."""

    def _catch_up(self, dimensions: int) -> None:
        with self._store.writing() as change:
            if not self._is_there:
                change.query("SELECT 1")
                change.change("CREATE EXTENSION IF NOT EXISTS vector")
                change.change(
                    f"CREATE TABLE IF NOT EXISTS {self._table}(id BIGINT PRIMARY KEY, "
                    f"chunk BIGINT NOT NULL, vector halfvec({int(dimensions)}) NOT NULL)"
                )
                change.change(
                    f"CREATE INDEX IF NOT EXISTS {self._table}_hnsw ON {self._table} "
                    "USING hnsw (vector halfvec_cosine_ops)"
                )
                self._is_there = True
            watermark = change.query(f"SELECT coalesce(max(id), 0) FROM {self._table}")[0][0]
            while rows := self._store.vectors_after(watermark, self.embedder.name, BATCH):
                change.many(
                    f"INSERT INTO {self._table}(id, chunk, vector) VALUES (?, ?, ?::halfvec)",
                    [
                        (number, chunk, _text(np.frombuffer(packed, np.float16)))
                        for number, chunk, packed in rows
                    ],
                )
                watermark = rows[-1][0]


def _text(vector: np.ndarray) -> str:
    return "[" + ",".join(f"{x:.6g}" for x in vector.tolist()) + "]"


def _translated(sql: str) -> str:
    """The shared SQL as Postgres has it: other marks for values, and it orders joins itself."""
    return sql.replace("?", "%s").replace("CROSS JOIN", "JOIN")
