"""What is worth remembering, and what of it fits: importance, retrieval, consolidation.

Importance of a text is how much it says that was not expected: the model's own surprise at it (the
mean negative log-likelihood of its tokens) and its novelty (the distance to what the store holds).
Retrieval weighs likeness, recency and importance, under a budget of tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmkg_lab.knowledge.results import Importance, Memory
from llmkg_lab.knowledge.search import Search
from llmkg_lab.knowledge.sentences import sentences
from llmkg_lab.knowledge.store import Chunk, Document, Store

EXPECTED, SPREAD = 3.5, 1.0  # nats per token of plain English to a small model
HALF_LIFE = 7 * 24.0  # hours after which recency is a half
WEIGHTS = {"similarity": 0.7, "recency": 0.15, "importance": 0.15}
TIES = 3  # times that chunks were retrieved together before they are consolidated
CATEGORY = "memory"
HOUR = 3_600_000_000  # microseconds

Surprise = Callable[[str], np.ndarray]  # a text to (tokens - 1,) nats
CountTokens = Callable[[str], int]


def surprise_of(text: str, surprise: Surprise | None) -> float | None:
    """The mean negative log-likelihood of a text in nats per token; None where nothing reads."""
    if surprise is None:
        return None
    nats = surprise(text)
    return float(nats.mean()) if len(nats) else None


def novelty_of(text: str, search: Search) -> tuple[float | None, Chunk | None]:
    """One minus the cosine to the nearest chunk, and that chunk; 1 where the store is empty."""
    near = search.nearest(text, 1)
    if not near:
        return None, None
    return 1 - max(0.0, min(1.0, near[0][1])), near[0][0]


def importance_of(
    text: str, surprise: Surprise | None, search: Search, context: str = ""
) -> Importance:
    """How much a text is worth keeping.

    context: what is read before the text and not counted; with it, what follows from it surprises
    less.
    """
    nats = surprise_of(text, surprise)
    if context and surprise is not None and nats is not None:
        both, before = surprise(f"{context} {text}"), surprise(context)
        rest = both[len(before) :]
        nats = float(rest.mean()) if len(rest) else nats
    novelty, nearest = novelty_of(text, search)
    parts = []
    if nats is not None:
        parts.append(1 / (1 + math.exp((EXPECTED - nats) / SPREAD)))
    if novelty is not None:
        parts.append(novelty)
    missing = [
        word
        for word, value in (("surprise: no text model is open", nats),
                            ("novelty: no embedder is open, or the store is empty", novelty))
        if value is None
    ]  # fmt: skip
    return Importance(
        importance=sum(parts) / len(parts) if parts else 0.5,
        surprise=nats,
        novelty=novelty,
        nearest=nearest.text if nearest else "",
        note="without " + "; ".join(missing) if missing else "",
    )


@dataclass(frozen=True)
class Retrieval:
    """What was retrieved under a budget."""

    memories: list[Memory]
    tokens: int


def retrieve(
    query: str,
    search: Search,
    store: Store,
    budget: int,
    count: CountTokens,
    now: int,
    limit: int = 20,
) -> Retrieval:
    """Return chunks that are worth their tokens for a query, the best first.

    What is taken is noted, so that what is often retrieved together may be consolidated.
    """
    scored = [(_scored(chunk, likeness, now), chunk) for chunk, likeness in _alike(query, search)]
    scored.sort(key=lambda pair: -pair[0]["score"])
    taken: list[Memory] = []
    spent = 0
    for memory, chunk in scored:
        tokens = count(chunk.text)
        if spent + tokens <= budget and len(taken) < limit:
            taken.append({**memory, "tokens": tokens})
            spent += tokens
    if taken:
        store.touch([memory["chunk"] for memory in taken], now)
    return Retrieval(taken, spent)


def _alike(query: str, search: Search) -> list[tuple[Chunk, float]]:
    """Chunks and their likeness to a query: cosines, else fused ranks as a share of the best."""
    if near := search.nearest(query, 50):
        return near
    ranked = search.search(query, limit=50).ranked
    best = ranked[0].score if ranked else 1.0
    return [(found.chunk, found.score / best) for found in ranked]


def _scored(chunk: Chunk, similarity: float, now: int) -> Memory:
    hours = max(0, now - chunk.used) / HOUR if chunk.used else None
    recency = 0.5 ** (hours / HALF_LIFE) if hours is not None else 0.0
    importance = 0.5 if chunk.importance is None else chunk.importance
    parts = {"similarity": similarity, "recency": recency, "importance": importance}
    return Memory(
        chunk=chunk.id,
        title=chunk.title,
        text=chunk.text,
        score=sum(WEIGHTS[name] * value for name, value in parts.items()),
        similarity=similarity,
        recency=recency,
        importance=importance,
        tokens=0,
    )


def clusters(ties: Sequence[tuple[int, int, int]], least: int = TIES) -> list[list[int]]:
    """Chunks that are tied, directly or through others, at least so often."""
    parent: dict[int, int] = {}

    def root(chunk: int) -> int:
        while parent.setdefault(chunk, chunk) != chunk:
            chunk = parent[chunk]
        return chunk

    for a, b, times in ties:
        if times >= least:
            parent[root(a)] = root(b)
    groups: dict[int, list[int]] = {}
    for chunk in sorted(parent):
        groups.setdefault(root(chunk), []).append(chunk)
    return [group for group in groups.values() if len(group) > 1]


def consolidated(chunks: Sequence[Chunk], embed: Callable | None, size: int) -> Document | None:
    """One text out of chunks: of each the sentence nearest to what all have in common.

    None where there is nothing to join.
    """
    texts = [list(sentences(chunk.text)) for chunk in chunks if chunk.superseded is None]
    texts = [found for found in texts if found]
    if len(texts) < 2:
        return None
    chosen = [found[0] for found in texts]
    if embed is not None:
        flat = [sentence for found in texts for sentence in found]
        vectors = embed(flat)  # (sentences, hidden)
        closeness = dict(zip(flat, vectors @ vectors.mean(axis=0), strict=True))
        chosen = [max(found, key=closeness.__getitem__) for found in texts]
    text, kept = "", []
    for sentence in dict.fromkeys(chosen):
        if len(text) + len(sentence) + 1 <= size:
            text = f"{text} {sentence}".strip()
            kept.append(sentence)
    if len(kept) < 2:
        return None
    numbers = "+".join(str(chunk.id) for chunk in chunks)
    return Document(
        title=" · ".join(dict.fromkeys(chunk.title for chunk in chunks))[:256],
        chunks=[text],
        category=CATEGORY,
        source=f"chunks {numbers}"[:256],
    )
