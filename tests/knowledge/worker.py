"""A process that works on a store until it is killed: worker.py FOLDER WORK NUMBER.

It prints a line for each thing that is committed.
"""

import sys
from pathlib import Path

from knowledge.hashed import HASHED

from llmkg_lab.knowledge.facts import Statement, Term
from llmkg_lab.knowledge.knowledge import Knowledge
from llmkg_lab.knowledge.models import Models


def facts(graph, number):
    for i in range(10**6):
        name = f"thing {number}.{i}"
        graph.load([Statement(Term(name), f"p{j}", Term(f"{name}.{j}")) for j in range(5)])
        print(i, flush=True)


def texts(graph, number):
    """Writes, and indices that catch up and are saved after each."""
    graph._vectors.__dict__["_saved"] = 0
    for i in range(10**6):
        graph.store_knowledge(f"Worker{number}x{i} founded Town{i}.", f"title {number}.{i}")
        print(i, flush=True)
        graph.hybrid_search(f"Worker{number}x{i}")
        graph._vectors.flush()


def memories(graph, number):
    """Retrieval and consolidation."""
    for i in range(10**6):
        a, b = (f"Note{number}x{i} {part} of the voyage of Vessel{i}." for part in "ab")
        graph.store_knowledge(a, f"a {number}.{i}")
        graph.store_knowledge(b, f"b {number}.{i}")
        for _ in range(3):
            graph.remember(f"voyage Vessel{i} Note{number}x{i}", 40, 2)
        graph.consolidate()
        print(i, flush=True)


if __name__ == "__main__":
    folder, work, number = sys.argv[1:]
    with Knowledge(Path(folder), Models(HASHED)) as graph:
        {"facts": facts, "texts": texts, "memories": memories}[work](graph, int(number))
