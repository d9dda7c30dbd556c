"""One contestant of knowledge.py: knowledge_work.py STORE WORK, figures as JSON on stdout."""

import contextlib
import json
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

FACTS, SUBJECTS, OBJECTS, PREDICATES = 1_000_000, 91_000, 261_000, 50
ASKED, LIMIT = 2_000, 10
YEAR = 31_557_600_000_000  # microseconds
CHUNKS = 100_000
WRITES = 50  # commits a second of the other process
Ask = Callable[[int], list]


class Facts:
    """The facts as arrays of numbers, and their texts."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.s = draw.integers(0, SUBJECTS, FACTS)
        self.p = np.minimum(draw.zipf(1.5, FACTS), PREDICATES)
        rare = draw.integers(0, OBJECTS, FACTS)
        common = np.minimum(draw.zipf(1.2, FACTS), OBJECTS - 1)
        self.o = np.where(draw.random(FACTS) < 0.8, rare, common)
        # a sixth of the objects are subjects of other facts: two hops lead somewhere
        self.year = draw.integers(0, 50, FACTS)
        self.asked = draw.integers(0, FACTS, ASKED)

    def subject(self, i: int) -> str:
        return f"Entity {self.s[i]}"

    def predicate(self, i: int) -> str:
        return f"relation_{self.p[i]}"

    def object(self, i: int) -> str:
        return _object(int(self.o[i]))

    def rows(self) -> Iterator[tuple[str, str, str, int]]:
        columns = (self.s.tolist(), self.p.tolist(), self.o.tolist(), self.year.tolist())
        for s, p, o, year in zip(*columns, strict=True):
            yield f"Entity {s}", f"relation_{p}", _object(o), year


def _object(o: int) -> str:
    return f"Entity {o // 6}" if o % 6 == 0 else f"Object number {o}"


def timed(ask: Ask, asked: np.ndarray) -> np.ndarray:
    """Milliseconds of each question; a hundred before them warm up."""
    for i in asked[:100]:
        ask(int(i))
    took = np.empty(len(asked))
    for n, i in enumerate(asked):
        begin = time.perf_counter()
        ask(int(i))
        took[n] = time.perf_counter() - begin
    return 1000 * took


def figures(asks: dict[str, Ask], asked: np.ndarray) -> dict[str, float]:
    found = {}
    for name, ask in asks.items():
        took = timed(ask, asked)
        found[f"{name}_p50_ms"] = float(np.percentile(took, 50))
        found[f"{name}_p99_ms"] = float(np.percentile(took, 99))
    for rank in ("p50", "p99"):
        found[f"{rank}_ms"] = max(found[f"{name}_{rank}_ms"] for name in asks)
    return found


def ours(work: dict, folder: Path) -> dict[str, float]:
    from llmkg_lab.knowledge.facts import Pattern, Statement, Term, When
    from llmkg_lab.knowledge.sqlite import SqliteStore

    facts = Facts()
    store = SqliteStore(folder / "facts.sqlite")
    begin = time.perf_counter()
    store.load(Statement(Term(s), p, Term(o), 1.0, year * YEAR) for s, p, o, year in facts.rows())
    took = time.perf_counter() - begin
    store.close()
    store = SqliteStore(folder / "facts.sqlite")
    asks: dict[str, Ask] = {
        "s": lambda i: store.find(Pattern(facts.subject(i)), limit=LIMIT),
        "sp": lambda i: store.find(Pattern(facts.subject(i), facts.predicate(i)), limit=LIMIT),
        "po": lambda i: store.find(Pattern(None, facts.predicate(i), facts.object(i)), limit=LIMIT),
        "spo": lambda i: store.find(
            Pattern(facts.subject(i), facts.predicate(i), facts.object(i)), limit=LIMIT
        ),
        "as_of": lambda i: store.find(
            Pattern(facts.subject(i), facts.predicate(i)), When(valid=25 * YEAR), LIMIT
        ),
        "hops": lambda i: store.follow(facts.subject(i), facts.predicate(i), "relation_1", LIMIT),
    }
    with beside(work, folder):
        found = figures(asks, facts.asked)
    store.close()
    return {"load_s": took, "mb": _megabytes(folder), **found}


@contextlib.contextmanager
def beside(work: dict, folder: Path) -> Iterator[None]:
    """What works beside the questions."""
    over = threading.Event()
    if work["beside"] == "model":
        from llmkg_lab.runtime.selection import open_backend
        from llmkg_lab.runtime.text.generate import GenerationConfig

        backend = open_backend(work["writer"], threads=1)

        def write() -> None:
            while not over.is_set():
                for _ in backend.stream_text("Once upon a time", GenerationConfig(seed=0)):
                    if over.is_set():
                        return

        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(1)
        yield
        over.set()
        thread.join()
    elif work["beside"] == "process":
        command = [sys.executable, __file__, "writer", json.dumps({"folder": str(folder)})]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            assert writer.stdin
            writer.stdout.readline()
            yield
            writer.stdin.close()
            commits, seconds = json.loads(writer.stdout.readline())
            assert commits > 0.8 * WRITES * seconds, (commits, seconds)
    else:
        yield


def writer(work: dict) -> None:
    """Commit so many times a second, until standard input ends."""
    from llmkg_lab.knowledge.facts import Statement, Term
    from llmkg_lab.knowledge.sqlite import SqliteStore

    store, over = SqliteStore(Path(work["folder"]) / "facts.sqlite"), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    print("ready", flush=True)
    begin, count = time.perf_counter(), 0
    while not over.is_set():
        store.load([Statement(Term(f"new {count}"), "relation_1", Term(f"Entity {count}"))])
        count += 1
        time.sleep(max(0.0, begin + count / WRITES - time.perf_counter()))
    print(json.dumps([count, time.perf_counter() - begin]), flush=True)
    store.close()


def pyoxigraph(work: dict, folder: Path) -> dict[str, float]:
    import pyoxigraph as rdf

    facts = Facts()

    def node(text: str) -> rdf.NamedNode:
        return rdf.NamedNode("urn:x:" + text.replace(" ", "_"))

    begin = time.perf_counter()
    lines = "".join(f"{node(s)} {node(p)} {node(o)} .\n" for s, p, o, _ in facts.rows()).encode()
    store = rdf.Store(str(folder / "oxigraph"))
    store.bulk_load(lines, rdf.RdfFormat.N_TRIPLES)
    took = time.perf_counter() - begin
    store.optimize()

    def first(s: str | None, p: str | None, o: str | None) -> list:
        quads = store.quads_for_pattern(*(text and node(text) for text in (s, p, o)))
        found = []
        for quad in quads:
            found.append((quad.subject.value, quad.predicate.value, quad.object.value))
            if len(found) == LIMIT:
                break
        return found

    def hops(i: int) -> list:
        query = (
            f"SELECT ?m ?e {{ {node(facts.subject(i))} {node(facts.predicate(i))} ?m . "
            f"?m {node('relation_1')} ?e }} LIMIT {LIMIT}"
        )
        return [(row["m"].value, row["e"].value) for row in store.query(query)]

    asks: dict[str, Ask] = {
        "s": lambda i: first(facts.subject(i), None, None),
        "sp": lambda i: first(facts.subject(i), facts.predicate(i), None),
        "po": lambda i: first(None, facts.predicate(i), facts.object(i)),
        "spo": lambda i: first(facts.subject(i), facts.predicate(i), facts.object(i)),
        "hops": hops,  # bare triples have no times: as of a time is left out
    }
    found = figures(asks, facts.asked)
    return {"load_s": took, "mb": _megabytes(folder), **found}


def lmdb(work: dict, folder: Path) -> dict[str, float]:
    import lmdb as db

    facts = Facts()
    begin = time.perf_counter()
    environment = db.open(str(folder / "lmdb"), map_size=2 << 30, max_dbs=5, sync=False)
    numbers, texts, *orders = (
        environment.open_db(name) for name in (b"numbers", b"texts", b"spo", b"pos", b"osp")
    )
    known: dict[str, int] = {}
    rows = [
        (*tuple(known.setdefault(text, len(known)) for text in (s, p, o)), year)
        for s, p, o, year in facts.rows()
    ]
    pack, unpack = struct.Struct(">III").pack, struct.Struct(">III").unpack
    with environment.begin(write=True) as transaction:
        words = sorted((text.encode(), struct.pack(">I", n)) for text, n in known.items())
        transaction.cursor(numbers).putmulti(words, append=True)
        by_number = sorted((n, text) for text, n in words)
        transaction.cursor(texts).putmulti(by_number, append=True)
        for order, (a, b, c) in zip(orders, ((0, 1, 2), (1, 2, 0), (2, 0, 1)), strict=True):
            keys = {pack(row[a], row[b], row[c]): struct.pack(">I", row[3]) for row in rows}
            transaction.cursor(order).putmulti(sorted(keys.items()), append=True)
    environment.sync(True)
    took = time.perf_counter() - begin

    def find(order: int, given: list[str], since: int | None = None) -> list:
        with environment.begin(buffers=False) as transaction:
            ids = [transaction.get(text.encode(), db=numbers) for text in given]
            if None in ids:
                return []
            prefix, found = b"".join(ids), []
            cursor = transaction.cursor(orders[order])
            if cursor.set_range(prefix):
                for key, value in cursor:
                    if not key.startswith(prefix) or len(found) == LIMIT:
                        break
                    if since is None or struct.unpack(">I", value)[0] <= since:
                        names = (struct.pack(">I", n) for n in unpack(key))
                        found.append([transaction.get(n, db=texts).decode() for n in names])
            return found

    def hops(i: int) -> list:
        found: list = []
        for _, _, middle in find(0, [facts.subject(i), facts.predicate(i)]):
            found += find(0, [middle, "relation_1"])
        return found[:LIMIT]

    asks: dict[str, Ask] = {
        "s": lambda i: find(0, [facts.subject(i)]),
        "sp": lambda i: find(0, [facts.subject(i), facts.predicate(i)]),
        "po": lambda i: find(1, [facts.predicate(i), facts.object(i)]),
        "spo": lambda i: find(0, [facts.subject(i), facts.predicate(i), facts.object(i)]),
        "as_of": lambda i: find(0, [facts.subject(i), facts.predicate(i)], 25),
        "hops": hops,
    }
    found = figures(asks, facts.asked)
    return {"load_s": took, "mb": _megabytes(folder), **found}


def search(work: dict, folder: Path) -> dict[str, float]:
    """Search of one kind over chunks of four to forty words, drawn as words are, with names."""
    from llmkg_lab.knowledge.facts import Term
    from llmkg_lab.knowledge.knowledge import INDICES, Knowledge
    from llmkg_lab.knowledge.models import Models
    from llmkg_lab.knowledge.store import Document
    from llmkg_lab.knowledge.vectors import Embedder
    from llmkg_lab.runtime.selection import open_backend

    place = folder.parent / "chunks"  # made once: it takes a minute
    backend = open_backend(work["embedder"], threads=1)
    embedder = Embedder("bench", backend.embed)
    draw = np.random.default_rng(0)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "ei", "o", "u") for c in
             ("l", "ng", "rk", "sten", "vik", "ma", "lo", "pest", "gar", "tin")]  # fmt: skip
    size = embedder(["a"]).shape[1]
    with Knowledge(place, Models(embedder)) as graph:
        for start in range(graph.store.count("chunk", 1 << 62), CHUNKS, 1000):
            lengths = draw.integers(4, 40, 1000)
            said = [" ".join(words[min(w, 479)] for w in draw.zipf(1.15, n)) for n in lengths]
            vectors = draw.normal(size=(1000, size)).astype(np.float16)
            names = [(i, Term(f"Name {(start + i) % 5000}")) for i in range(1000)]
            packed = [vector.tobytes() for vector in vectors]
            graph.store.write(
                Document(f"part {start}", said, mentions=names, vectors=packed, model="bench")
            )
        kind = work["beside"]
        asked = draw.integers(0, 5000, 1000)

        def ask(i: int) -> list:
            terms = " ".join(words[w % 480] for w in (i, i * 7, i * 31))
            return graph.hybrid_search(f"{terms} of Name {i}", kind)["hits"]

        took = timed(ask, asked)
    return {
        "p50_ms": float(np.percentile(took, 50)),
        "p99_ms": float(np.percentile(took, 99)),
        "mb": _megabytes(place / INDICES),
    }


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    store, work = sys.argv[1], json.loads(sys.argv[2])
    if store == "writer":
        writer(work)
        return
    folder = Path(work["folder"]) / store
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stores = {"ours": ours, "pyoxigraph": pyoxigraph, "lmdb": lmdb, "search": search}
    try:
        print(json.dumps(stores[store](work, folder)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
