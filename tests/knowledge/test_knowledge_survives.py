"""kill -9 at random points, and several processes that write: the store stays whole."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from knowledge.hashed import HASHED

from llmkg_lab.knowledge.facts import Pattern
from llmkg_lab.knowledge.knowledge import FILE, INDICES, Knowledge
from llmkg_lab.knowledge.models import Models

WORKER = Path(__file__).with_name("worker.py")
TESTS = WORKER.parents[1]


def start(folder, work, number, output=subprocess.PIPE):
    places = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return subprocess.Popen(
        [sys.executable, WORKER, folder, work, str(number)],
        stdout=output,
        env={**os.environ, "PYTHONPATH": places},
        text=True,
    )


def kill(process, after):
    """Kill it some time after its first commit; what it said that it committed."""
    said = [process.stdout.readline()]
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    return int(said[-1] or -1) if said[-1].strip() else int(said[-2])


def check_whole(folder):
    """SQLite's own check, and that indices hold what the store does, once they were asked."""
    with sqlite3.connect(folder / FILE) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        dangling = connection.execute(
            "SELECT count(*) FROM fact WHERE s NOT IN (SELECT id FROM term) OR "
            "o NOT IN (SELECT id FROM term) OR recorded NOT IN (SELECT id FROM revision)"
        ).fetchone()
        assert dangling == (0,)
    connection.close()
    with Knowledge(folder, Models(HASHED)) as graph:
        graph.hybrid_search("anything")
        chunks = graph.store.count("chunk", 1 << 62)
        words = graph.search._words.catch_up()
        assert words.searcher().num_docs == chunks
        assert len(graph._vectors._catch_up(64)) == chunks


@pytest.mark.slow
@pytest.mark.parametrize(("work", "kills"), [("facts", 10), ("texts", 10), ("memories", 10)])
def test_killed_at_any_point_the_store_is_whole(tmp_path, work, kills):
    draw = random.Random(work)
    for number in range(kills):
        last = kill(start(tmp_path, work, number), draw.uniform(0, 0.25))
        check_whole(tmp_path)
        with Knowledge(tmp_path, Models(HASHED)) as graph:
            for i in range(last + 1):
                if work == "facts":
                    found = graph.store.find(Pattern(f"thing {number}.{i}"))
                    assert len(found) == 5, (number, i)
                elif work == "texts":
                    hits = graph.hybrid_search(f"Worker{number}x{i}", "keyword", limit=1)["hits"]
                    assert f"Worker{number}x{i} " in hits[0]["text"]
            if work == "facts":  # of what was not told, all five facts are there or none
                assert graph.get_stats()["facts"] % 5 == 0
    leftovers = [path.name for path in (tmp_path / INDICES).glob("*")] if work != "facts" else []
    assert len(leftovers) <= 4, leftovers  # an index each; a killed save may leave its file


@pytest.mark.slow
def test_processes_that_write_at_once_lose_nothing(tmp_path):
    """They are killed while they write, once each has had its turn several times."""
    said = [tmp_path / f"said-{n}" for n in range(3)]
    workers = []
    for number, work in enumerate(("texts", "texts", "facts")):
        with said[number].open("w") as output:
            workers.append(start(tmp_path, work, number, output))
    deadline = time.monotonic() + 120
    try:
        while min(len(path.read_text().splitlines()) for path in said) < 5:
            assert time.monotonic() < deadline, [path.read_text()[-20:] for path in said]
            assert all(worker.poll() is None for worker in workers)  # none gave up
            time.sleep(0.1)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    # A line that was cut by the kill is of a commit all the same, but which one is not legible.
    counts = [int(path.read_text().rpartition("\n")[0].splitlines()[-1]) for path in said]
    check_whole(tmp_path)
    with Knowledge(tmp_path, Models(HASHED)) as graph:
        for number in (0, 1):
            for i in range(counts[number] + 1):
                found = graph.hybrid_search(f"Worker{number}x{i}", limit=3)["hits"]
                assert any(f"Worker{number}x{i} " in hit["text"] for hit in found), (number, i)
        for i in range(counts[2] + 1):
            assert len(graph.store.find(Pattern(f"thing 2.{i}"))) == 5


@pytest.mark.slow
def test_indices_that_do_not_match_are_made_anew(tmp_path):
    def found(graph):
        hits = graph.hybrid_search("herring of the north")["hits"]
        return [(hit["text"], hit["ranks"]) for hit in hits]

    with Knowledge(tmp_path, Models(HASHED)) as graph:
        for i, text in enumerate(["Herring swims north.", "Cats sleep.", "North of here."]):
            graph.store_knowledge(text, f"title {i}")
        expected = found(graph)
    assert next(text for text, _ in expected) == "Herring swims north."
    indices = tmp_path / INDICES

    def saved():
        return next(indices.glob("vectors.*.usearch"))

    whole = saved().read_bytes()
    for damage in (
        lambda: saved().write_bytes(whole[: len(whole) // 2]),
        lambda: saved().write_bytes(bytes(len(whole))),
        lambda: [path.unlink() for path in indices.glob("vectors.*")],
        lambda: [path.unlink() for path in indices.glob("words.*/*.idx")],
        lambda: [path.write_bytes(b"{}") for path in indices.glob("words.*/meta.json")],
        lambda: [path.write_bytes(b"\0" * 99) for path in indices.glob("words.*/*.term")],
        lambda: os.rename(indices, tmp_path / f"gone{os.urandom(4).hex()}"),
    ):
        damage()
        with Knowledge(tmp_path, Models(HASHED)) as graph:
            assert found(graph) == expected
