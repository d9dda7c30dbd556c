"""What every store has to do: tests of ``Store``, for modules that give a fixture of it."""

import contextlib
import threading
from itertools import count

import pytest

from llmkg_lab.knowledge.facts import KnowledgeError, Pattern, Statement, Term, When, key_of, moment
from llmkg_lab.knowledge.store import Document

STEP = 1_000_000


def ticking():
    """A clock that goes a second with each look, but for once, when it goes back an hour."""
    ticks = count(1)

    def clock():
        tick = next(ticks)
        return STEP * (tick if tick != 3 else tick - 3600) + 10**15

    return clock


def fact(subject, predicate, value, confidence=1.0, begin=None, end=None, source=None):
    times = (time and moment(time) for time in (begin, end))
    return Statement(Term(subject), predicate, Term(value), confidence, *times, source)


def texts(facts):
    return {(f.subject.text, f.predicate, f.object.text) for f in facts}


FACTS = [
    fact("Ada", "knows", "Bob"),
    fact("Ada", "knows", "Cyd", 0.5),
    fact("Bob", "works_at", "Acme", begin="2001", end="2005"),
    fact("Bob", "works_at", "Globex", begin="2005"),
    fact("The Hague", "located_in", "Netherlands"),
]


class StoreContract:
    def test_facts_are_found_by_each_of_their_parts(self, store):
        written = store.load(FACTS)
        assert (written.added, written.corrected, written.known) == (5, 0, 0)
        ada_bob = ("Ada", "knows", "Bob")
        for pattern, wanted in (
            (Pattern("Ada"), {ada_bob, ("Ada", "knows", "Cyd")}),
            (Pattern("Ada", "knows"), {ada_bob, ("Ada", "knows", "Cyd")}),
            (Pattern(None, "knows", "Bob"), {ada_bob}),
            (Pattern("Ada", "knows", "Bob"), {ada_bob}),
            (Pattern(None, None, "Acme"), {("Bob", "works_at", "Acme")}),
            (Pattern(None, "located_in"), {("The Hague", "located_in", "Netherlands")}),
            (Pattern("Ada", None, "Bob"), {ada_bob}),
            (Pattern("nobody"), set()),
            (Pattern("knows"), set()),  # a predicate is no subject
        ):
            assert texts(store.find(pattern)) == wanted, pattern
        assert len(store.find(Pattern("Ada"), limit=1)) == 1
        assert texts(store.find(Pattern("hague"))) == {("The Hague", "located_in", "Netherlands")}
        assert store.follow("Ada", "knows", "works_at") in (
            [("Bob", "Acme"), ("Bob", "Globex")],
            [("Bob", "Globex"), ("Bob", "Acme")],
        )
        assert texts(store.facts()) == texts(store.find(Pattern(None, None, None), limit=100))
        assert dict(store.predicates()) == {"knows": 2, "works_at": 2, "located_in": 1}

    def test_both_times_are_travelled_and_corrections_delete_nothing(self, store):
        store.load(FACTS)
        assert store.load(FACTS).known == 5  # said again, nothing changes
        before = store.revision()
        corrected = store.load([fact("Ada", "knows", "Cyd", 0.9)])
        assert (corrected.added, corrected.corrected) == (1, 1)
        now = store.find(Pattern("Ada", "knows", "Cyd"))
        then = store.find(Pattern("Ada", "knows", "Cyd"), When(known=before))
        ever = store.find(Pattern("Ada", "knows", "Cyd"), When(ever=True))
        assert [f.confidence for f in now] == [0.9]
        assert [f.confidence for f in then] == [0.5]
        assert sorted(f.confidence for f in ever) == [0.5, 0.9]
        for year, employer in (("2000", None), ("2001", "Acme"), ("2004-12-31", "Acme"),
                               ("2005", "Globex"), ("2030", "Globex")):  # fmt: skip
            at = store.find(Pattern("Bob", "works_at"), When(valid=moment(year)))
            assert {f.object.text for f in at} == ({employer} if employer else set()), year
        closed = store.retract(store.find(Pattern("Bob", "works_at")))
        assert closed.corrected == 2
        assert store.find(Pattern("Bob", "works_at")) == []
        assert len(store.find(Pattern("Bob", "works_at"), When(known=before))) == 2
        assert store.stats()["superseded"] == 3
        times = store.times(range(1, store.revision() + 1))
        in_order = [times[number] for number in sorted(times)]
        assert in_order == sorted(in_order)  # although the clock went back
        assert store.revision_at(in_order[-1]) == store.revision()
        assert store.revision_at(0) == 0

    def test_one_thing_at_two_times_and_by_two_sources(self, store):
        """The same three terms may hold twice; what one source withdraws, the other still says."""
        both = [fact("Eve", "lives_in", "Rome", begin="1990", end="1995"),
                fact("Eve", "lives_in", "Rome", begin="2000")]  # fmt: skip
        assert store.load(both).added == 2
        assert len(store.find(Pattern("Eve"))) == 2
        said = fact("Eve", "born_in", "Oslo")
        first = store.write(Document("one", ["Eve was born in Oslo."], statements=[(0, said)]))
        second = store.write(Document("two", ["Oslo saw Eve."], statements=[(0, said)]))
        assert first.added == second.added == 1
        store.write(Document("one", ["Nothing of Eve."]))
        left = store.find(Pattern("Eve", "born_in"))
        assert [f.source for f in left] == list(second.chunks)

    def test_texts_have_chunks_vectors_and_mentions(self, store):
        oslo, norway = Term("Oslo"), Term("Norway")
        document = Document(
            "Norway", ["Oslo is a city.", "It rains."], "geo", "atlas",
            mentions=[(0, oslo), (0, norway)], vectors=[b"\0\1\2\3", b"\4\5\6\7"], model="m",
            importance=[0.25, None],
        )  # fmt: skip
        written = store.write(document)
        first, second = store.chunks(written.chunks)
        assert (first.text, first.title, first.category, first.source) == (
            "Oslo is a city.", "Norway", "geo", "atlas",
        )  # fmt: skip
        assert (first.position, second.position) == (0, 1)
        assert (first.importance, second.importance) == (0.25, None)
        assert store.mentioning([oslo]) == [written.chunks[0]]
        assert [row[1:] for row in store.vectors_after(0, "m", 10)] == [
            (written.chunks[0], b"\0\1\2\3"), (written.chunks[1], b"\4\5\6\7"),
        ]  # fmt: skip
        assert store.without_vector("m", 10) == []
        assert [chunk for chunk, _ in store.without_vector("other", 10)] == list(written.chunks)
        store.add_vectors("other", [(written.chunks[0], b"\0\0")])
        assert store.count("embedding", 1 << 62, "other") == 1
        assert store.chunks_after(written.chunks[0], 10) == [
            (written.chunks[1], "Norway", "It rains.")
        ]
        assert store.terms_of([key_of("OSLO"), "nothing"]) == {"oslo": [oslo]}
        store.touch(written.chunks, 7)
        store.touch(written.chunks, 9)
        assert store.together(written.chunks[:1], 10) == [(*written.chunks, 2)]
        assert [(c.uses, c.used) for c in store.chunks(written.chunks)] == [(2, 9), (2, 9)]
        again = store.write(Document("Norway", ["New."], "geo", "atlas"))
        assert [c.superseded for c in store.chunks(written.chunks)] == [again.revision] * 2
        store.note_derived("words", "a")
        store.note_derived("words", "b")
        assert (store.derived("words"), store.derived("no")) == ("b", None)

    def test_many_rows_at_once_are_all_there(self, store):
        many = [fact(f"thing {i}", "is", f"number {i % 7}") for i in range(300)]
        assert store.load(many).added == 300
        assert texts(store.facts()) == {(s.subject.text, "is", s.object.text) for s in many}
        store.touch(range(1, 151), 1)
        assert len(store.together([1], 200)) == 149

    def test_what_fails_leaves_nothing(self, store):
        store.load(FACTS)
        before = store.revision(), store.stats()

        def broken():
            yield fact("Zoe", "knows", "Yan")
            raise RuntimeError("the file ends")

        with pytest.raises(RuntimeError, match="the file ends"):
            store.load(broken())
        assert (store.revision(), store.stats()) == before

    def test_threads_write_and_lose_nothing(self, store):
        def write(number):
            for i in range(20):
                store.load([fact(f"thread {number}", "wrote", f"thing {number}.{i}")])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.stats()["facts"] == 80
        assert store.revision() == 80

    def test_closing_waits_for_what_is_at_work_and_refuses_the_rest(self, store):
        begun, found = threading.Event(), []
        long = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
            "SELECT count(*) FROM n"
        )

        def read():
            with contextlib.suppress(KnowledgeError):
                while True:
                    found.append(store.query(long)[0][0])
                    begun.set()

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        begun.wait(10)
        store.close()
        with pytest.raises(KnowledgeError, match="closed"):
            store.stats()
        for reader in readers:
            reader.join(10)
            assert not reader.is_alive()
        assert set(found) == {300_000}
