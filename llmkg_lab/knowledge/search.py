"""Search by words, by meaning and by structure, and the three as one."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmkg_lab.knowledge.facts import NOW, Fact, KnowledgeError, Term, key_of
from llmkg_lab.knowledge.results import Leg
from llmkg_lab.knowledge.store import Chunk, Store
from llmkg_lab.knowledge.vectors import Nearest
from llmkg_lab.knowledge.words import STOP_WORDS, Words

LEGS: tuple[Leg, ...] = ("keyword", "semantic", "structural")
FUSION = 60  # of reciprocal rank fusion: 1 / (60 + rank), as its paper has it
DEPTH = 50  # chunks of each search that are fused
GRAM = 5  # words of a name at most, in a query
QUERY_WORDS = 32
FILTERS = ("category", "source", "title")


@dataclass(frozen=True)
class Ranked:
    """A chunk, its fused score, and its rank in each search that found it."""

    chunk: Chunk
    score: float
    ranks: dict[str, int]


@dataclass(frozen=True)
class Found:
    """The outcome of a search. legs: the searches that were made."""

    ranked: list[Ranked]
    facts: list[Fact]
    legs: tuple[Leg, ...]
    note: str = ""


class Search:
    """Searches over one store. Without an embedder there is none by meaning."""

    def __init__(self, store: Store, words: Words, vectors: Nearest | None) -> None:
        self._store, self._words, self._vectors = store, words, vectors
        self._lock = threading.Lock()  # the indices catch up one at a time

    def search(
        self,
        query: str,
        legs: Sequence[Leg] = LEGS,
        limit: int = 10,
        filters: dict[str, str] | None = None,
    ) -> Found:
        """Search with one or more legs; several are fused by their ranks.

        Raises KnowledgeError on an unknown filter, or where meaning alone is asked for and
        nothing embeds.
        """
        if unknown := set(filters or {}) - set(FILTERS):
            raise KnowledgeError(
                f"there is no filter {', '.join(sorted(unknown))}",
                f"there are {', '.join(FILTERS)}",
            )
        note, chosen = "", tuple(legs)
        if "semantic" in chosen and self._vectors is None:
            if chosen == ("semantic",):
                raise KnowledgeError("nothing embeds here", "name an embedder's artifact")
            chosen = tuple(leg for leg in chosen if leg != "semantic")
            note = "not searched by meaning: no embedder is open"
        depth = DEPTH if not filters else 8 * DEPTH
        entities = self.entities(query) if "structural" in chosen else []
        with self._lock:
            lists: dict[Leg, list[int]] = {}
            for leg in chosen:
                lists[leg] = self._leg(leg, query, entities, depth)
        ranked = self._fused(lists, limit, filters or {})
        facts = self.facts_about(entities, query, limit) if entities else []
        return Found(ranked, facts, chosen, note)

    def nearest(self, text: str, limit: int = 5) -> list[tuple[Chunk, float]]:
        """The chunks nearest in meaning, with their cosines; none without an embedder."""
        if self._vectors is None:
            return []
        vector = self._vectors.embedder([text])[0]
        with self._lock:
            found = self._vectors.search(vector, 4 * limit)
        chunks = {chunk.id: chunk for chunk in self._store.chunks([key for key, _ in found])}
        near = [(chunks[key], cosine) for key, cosine in found if key in chunks]
        return [(chunk, cosine) for chunk, cosine in near if chunk.superseded is None][:limit]

    def entities(self, query: str) -> list[Term]:
        """The terms of the store that a query names; the longest name counts where several do."""
        words = re.findall(r"\w+", query)[:QUERY_WORDS]
        grams = {
            (i, j): key_of(" ".join(words[i:j]))
            for i in range(len(words))
            for j in range(i + 1, min(i + GRAM, len(words)) + 1)
            if not (j == i + 1 and words[i].lower() in STOP_WORDS)
        }
        known = self._store.terms_of(sorted(set(grams.values())))
        found: dict[Term, None] = {}
        covered: set[int] = set()
        for (i, j), key in sorted(grams.items(), key=lambda gram: gram[0][0] - gram[0][1]):
            if key in known and not covered.intersection(range(i, j)):
                covered.update(range(i, j))
                found.update(dict.fromkeys(known[key]))
        return list(found)

    def facts_about(self, entities: Sequence[Term], query: str, limit: int) -> list[Fact]:
        """Facts of entities, first those whose predicate or other end the query names, too."""
        named = set(re.findall(r"\w+", query.lower()))

        def goodness(fact: Fact) -> tuple[int, float]:
            said = f"{fact.subject.text} {fact.predicate} {fact.object.text}".lower()
            words = set(re.findall(r"[^\W_]+", said))
            return len(named & words), fact.confidence

        facts = self._store.around(entities, NOW, 200)
        return sorted(facts, key=goodness, reverse=True)[:limit]

    def _leg(self, leg: Leg, query: str, entities: Sequence[Term], depth: int) -> list[int]:
        if leg == "keyword":
            return [number for number, _ in self._words.search(query, depth)]
        if leg == "structural":
            return self._by_structure(entities, depth)
        assert self._vectors is not None
        vector = self._vectors.embedder([query])[0]
        return [number for number, _ in self._vectors.search(vector, depth)]

    def _by_structure(self, entities: Sequence[Term], depth: int) -> list[int]:
        """Chunks that name the entities: first those that name the most of them."""
        counts: dict[int, int] = defaultdict(int)
        for entity in entities[:8]:
            for chunk in self._store.mentioning([entity], depth):
                counts[chunk] += 1
        return sorted(counts, key=lambda chunk: (-counts[chunk], -chunk))[:depth]

    def _fused(
        self, lists: dict[Leg, list[int]], limit: int, filters: dict[str, str]
    ) -> list[Ranked]:
        ranks: dict[int, dict[str, int]] = defaultdict(dict)
        for leg, chunks in lists.items():
            for rank, chunk in enumerate(chunks, 1):
                ranks[chunk][leg] = rank
        score = {
            chunk: sum(1 / (FUSION + rank) for rank in places.values())
            for chunk, places in ranks.items()
        }
        order = sorted(score, key=lambda chunk: (-score[chunk], chunk))
        taken: list[Ranked] = []
        for start in range(0, len(order), DEPTH):
            for found in self._store.chunks(order[start : start + DEPTH]):
                if found.superseded is None and _passes(found, filters):
                    taken.append(Ranked(found, score[found.id], ranks[found.id]))
            if len(taken) >= limit:
                break
        return taken[:limit]


def _passes(chunk: Chunk, filters: dict[str, str]) -> bool:
    return all(getattr(chunk, name).lower() == value.lower() for name, value in filters.items())


def sources(facts: Iterable[Fact]) -> list[int]:
    """The chunks that facts come from, each once."""
    return list(dict.fromkeys(fact.source for fact in facts if fact.source is not None))
