"""SQLite as a store: the contract of all stores, and what is its own."""

import sqlite3
import threading

import psutil
import pytest
from knowledge.contract import FACTS, StoreContract, texts, ticking

from llmkg_lab.knowledge.facts import KnowledgeError, Pattern
from llmkg_lab.knowledge.sqlite import SqliteStore


@pytest.fixture
def store(tmp_path):
    opened = SqliteStore(tmp_path / "new" / "facts.sqlite", ticking())
    yield opened
    opened.close()


class TestSqlite(StoreContract):
    pass


def test_another_process_sees_what_was_written(store):
    store.load(FACTS)
    other = SqliteStore(store.path)
    assert texts(other.find(Pattern("Ada"))) == texts(store.find(Pattern("Ada")))
    other.close()


def test_threads_that_have_ended_keep_no_file_open(store):
    store.load(FACTS)

    def look():
        assert texts(store.find(Pattern("Bob")))

    for _ in range(20):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    names = [file.path for file in psutil.Process().open_files()]
    assert 1 <= names.count(str(store.path)) <= 3


def test_files_that_are_not_ours_are_refused_and_left_alone(tmp_path):
    newer = tmp_path / "newer.sqlite"
    SqliteStore(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE cats(name)")
    connection.close()
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"no database, but long enough to be looked at as one" * 100)
    for path, message in (
        (newer, "version 7, this llmkg-lab knows up to version 1"),
        (foreign, "the database of another program"),
        (garbage, "is not a knowledge store"),
    ):
        before = path.read_bytes()
        with pytest.raises(KnowledgeError, match=message):
            SqliteStore(path)
        assert path.read_bytes() == before


@pytest.mark.slow
def test_the_log_is_folded_into_the_file_when_nobody_writes(store):
    store.load(FACTS)
    log = store.path.with_name(store.path.name + "-wal")
    assert log.stat().st_size > 0
    for _ in range(100):
        with sqlite3.connect(f"file:{store.path}?immutable=1", uri=True) as reader:
            try:
                found = reader.execute("SELECT count(*) FROM fact").fetchone()
            except sqlite3.Error:
                found = None
        reader.close()
        if found == (5,):
            return
        store._closing.wait(0.1)
    pytest.fail("the file itself never held the facts")
