"""The store in one file of SQLite: readers never wait, one writer at a time in any process."""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from llmkg_lab.base import files
from llmkg_lab.knowledge import store
from llmkg_lab.knowledge.connections import PerThread
from llmkg_lab.knowledge.facts import Clock, KnowledgeError
from llmkg_lab.knowledge.store import Row, SqlStore, Transaction

APPLICATION = 0x4C4B4731  # "LKG1", in the file's header
PATIENCE = 30.0  # seconds that a writer waits for another
IDLE = 0.5  # seconds without a write before the log is folded into the file
TOGETHER = 128  # rows in a statement; SQLite takes 32,766 values
LOG_LIMIT = 64 << 20  # bytes that the log may keep between two foldings
SCHEMA = """
CREATE TABLE revision(id INTEGER PRIMARY KEY, at INTEGER NOT NULL);
CREATE TABLE term(id INTEGER PRIMARY KEY, text TEXT NOT NULL, kind TEXT NOT NULL,
    UNIQUE(text, kind));
CREATE TABLE alias(key TEXT NOT NULL, term INTEGER NOT NULL, PRIMARY KEY(key, term)) WITHOUT ROWID;
CREATE TABLE fact(s INTEGER NOT NULL, p INTEGER NOT NULL, o INTEGER NOT NULL,
    recorded INTEGER NOT NULL, superseded INTEGER, confidence REAL NOT NULL,
    valid_from INTEGER, valid_to INTEGER, source INTEGER,
    PRIMARY KEY(s, p, o, recorded)) WITHOUT ROWID;
CREATE INDEX fact_po ON fact(p, o);
CREATE INDEX fact_o ON fact(o);
CREATE INDEX fact_source ON fact(source) WHERE source IS NOT NULL;
CREATE TABLE document(id INTEGER PRIMARY KEY, title TEXT NOT NULL, category TEXT NOT NULL,
    source TEXT NOT NULL, recorded INTEGER NOT NULL, superseded INTEGER);
CREATE INDEX document_title ON document(title, source);
CREATE TABLE chunk(id INTEGER PRIMARY KEY, document INTEGER NOT NULL, position INTEGER NOT NULL,
    text TEXT NOT NULL, recorded INTEGER NOT NULL, superseded INTEGER, importance REAL);
CREATE INDEX chunk_document ON chunk(document);
CREATE TABLE mention(term INTEGER NOT NULL, chunk INTEGER NOT NULL,
    PRIMARY KEY(term, chunk)) WITHOUT ROWID;
CREATE TABLE embedding(id INTEGER PRIMARY KEY AUTOINCREMENT, chunk INTEGER NOT NULL,
    model TEXT NOT NULL, vector BLOB NOT NULL, UNIQUE(chunk, model));
CREATE TABLE recall(chunk INTEGER PRIMARY KEY, uses INTEGER NOT NULL, used INTEGER NOT NULL);
CREATE TABLE tie(a INTEGER NOT NULL, b INTEGER NOT NULL, times INTEGER NOT NULL,
    PRIMARY KEY(a, b)) WITHOUT ROWID;
CREATE INDEX tie_b ON tie(b);
CREATE TABLE derived(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class SqliteStore(SqlStore):
    """A store in the file ``path``, which is made where there is none.

    Commits survive the end of the process, however it ends; a power cut may take the last ones,
    and never leaves a torn file.
    Raises KnowledgeError on a file of another program, or of a newer version of this one.
    """

    def __init__(self, path: Path, clock: Clock = store.now) -> None:
        self.path, self.clock = path, clock
        self._connections = PerThread(self._connect)
        self._lock = threading.Lock()
        self._wrote, self._closing = threading.Event(), threading.Event()
        self._folding = threading.Thread(target=self._fold, name="llmkg-checkpoint", daemon=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._folding.start()
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        with self._connections.use() as connection:
            return connection.execute(sql, values).fetchall()

    def stream(self, sql: str, values: Sequence[Any] = ()) -> Iterator[Row]:
        with contextlib.closing(self._connect()) as connection:  # its rows are of one moment
            yield from connection.execute(sql, values)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        with self._lock, self._connections.use() as connection:
            try:
                # SQLite looks for its lock from time to time, so that a process that writes without
                # a pause would keep all others out: now it has to stand behind whoever looks
                with files.locked(self.path.with_name(f"{self.path.name}-line"), PATIENCE):
                    connection.execute("BEGIN IMMEDIATE")
            except (TimeoutError, sqlite3.OperationalError) as error:
                raise KnowledgeError(
                    f"{self.path}: {error}", "another program writes it"
                ) from error
            try:
                yield SqliteTransaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        self._wrote.set()

    def nbytes(self) -> int:
        pages, size = (self.query(f"PRAGMA {name}")[0][0] for name in ("page_count", "page_size"))
        return int(pages * size)

    def close(self) -> None:
        self._closing.set()
        self._wrote.set()
        self._folding.join()
        self._connections.close()

    def _connect(self) -> sqlite3.Connection:
        if self._closing.is_set():
            raise KnowledgeError(f"{self.path} is closed", "open it again")
        connection = sqlite3.connect(
            self.path,
            timeout=PATIENCE,
            isolation_level=None,  # transactions begin where we say so
            check_same_thread=False,  # close() ends those of all threads
        )
        for setting in (
            "synchronous = NORMAL",
            "wal_autocheckpoint = 0",
            f"journal_size_limit = {LOG_LIMIT}",
            "cache_size = -131072",  # KB at most; a load of a million facts needs so much
            "temp_store = MEMORY",
            "trusted_schema = OFF",
        ):
            connection.execute(f"PRAGMA {setting}")
        return connection

    def _prepare(self) -> None:
        """Check whose file it is, and make the schema of a new one."""
        try:
            with self._connections.use() as connection:
                version, application = self._header(connection)
                schema = connection.execute("PRAGMA schema_version").fetchone()[0]
                if version == 0 and not schema:  # a new file
                    self._create(connection)
                    version, application = self._header(connection)
        except sqlite3.DatabaseError as error:
            raise KnowledgeError(
                f"{self.path} is not a knowledge store: {error}", "give another path"
            ) from error
        if application != APPLICATION:
            raise KnowledgeError(
                f"{self.path} is the database of another program", "give another path"
            )
        if version > store.VERSION:
            raise KnowledgeError(
                f"{self.path} is a knowledge store of version {version}, "
                f"this llmkg-lab knows up to version {store.VERSION}",
                "install a newer llmkg-lab",
            )

    @staticmethod
    def _header(connection: sqlite3.Connection) -> tuple[int, int]:
        version, application = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("user_version", "application_id")
        )
        return version, application

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the schema, unless another process just did."""
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if self._header(connection)[0] == 0:
                for statement in filter(None, map(str.strip, SCHEMA.split(";"))):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
                connection.execute(f"PRAGMA user_version = {store.VERSION}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def _fold(self) -> None:
        """Fold the log into the file when nobody writes: a commit then never waits for it."""
        log = self.path.with_name(self.path.name + "-wal")
        while self._wrote.wait() and not self._closing.is_set():
            self._wrote.clear()
            waited = 0
            while self._wrote.wait(IDLE) and not self._closing.is_set() and waited < 20:
                self._wrote.clear()  # writers are at work; not for ever, or the log grows
                waited += 1
            if self._closing.is_set():
                break
            with (
                contextlib.suppress(sqlite3.Error, OSError),
                contextlib.closing(self._connect()) as connection,
            ):
                mode = "TRUNCATE" if os.path.getsize(log) > LOG_LIMIT else "PASSIVE"
                connection.execute("PRAGMA busy_timeout = 100")
                connection.execute(f"PRAGMA wal_checkpoint({mode})")


class SqliteTransaction(Transaction):
    """A transaction on one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, values).fetchall()

    def change(self, sql: str, values: Sequence[Any] = ()) -> int:
        return self._connection.execute(sql, values).rowcount

    def many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        whole = len(rows) // TOGETHER * TOGETHER
        marks = f"({store.marks(rows[0])})" if whole else ""
        if whole and f"VALUES {marks}" in sql:  # together they take three quarters of the time
            values, width = list(chain.from_iterable(rows[:whole])), TOGETHER * len(rows[0])
            self._connection.executemany(
                sql.replace(marks, ", ".join([marks] * TOGETHER), 1),
                (values[at : at + width] for at in range(0, len(values), width)),
            )
            rows = rows[whole:]
        self._connection.executemany(sql, rows)

    def stage(self, name: str, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(types))
        self.change(f"CREATE TEMP TABLE IF NOT EXISTS {name}({columns})")
        self.change(f"DELETE FROM {name}")
        self.many(f"INSERT INTO {name} VALUES ({store.marks(types)})", rows)
