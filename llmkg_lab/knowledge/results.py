"""What questions to the knowledge graph give back, as JSON has it."""

from typing import Literal

from typing_extensions import TypedDict  # pydantic reads Python's own only from 3.12 on

SearchType = Literal["semantic", "structural", "keyword", "hybrid"]
Leg = Literal["semantic", "structural", "keyword"]


class FactEntry(TypedDict):
    """A fact, with its times in ISO 8601."""

    subject: str
    predicate: str
    object: str
    confidence: float
    valid_from: str | None
    valid_to: str | None
    recorded: str
    superseded: str | None
    source: str | None


class StoredFact(TypedDict):
    """What became of a fact."""

    outcome: Literal["added", "corrected", "known"]
    revision: int
    fact: FactEntry


class StoredText(TypedDict):
    """What became of a text."""

    document: int
    chunks: int
    revision: int
    entities: list[str]
    facts: list[FactEntry]
    embedded: bool


class FoundFacts(TypedDict):
    """Facts of a pattern; ``more``: there are more than the limit let through."""

    facts: list[FactEntry]
    count: int
    more: bool


class Hit(TypedDict):
    """A chunk that a search found, and its place in each kind of search."""

    chunk: int
    title: str
    text: str
    source: str
    category: str
    score: float
    ranks: dict[str, int]


class SearchResult(TypedDict):
    """Chunks, the best first, and the facts about what the query names."""

    hits: list[Hit]
    facts: list[FactEntry]
    searched: list[str]
    note: str


class Citation(TypedDict):
    """What an answer rests on."""

    chunk: int | None
    title: str
    sentence: str
    fact: str


class Answer(TypedDict):
    """An answer with what it rests on; where nothing says so, none."""

    known: bool
    answer: str
    confidence: float
    citations: list[Citation]
    reason: str


class Stats(TypedDict):
    """What the store holds."""

    facts: int
    superseded: int
    entities: int
    predicates: int
    documents: int
    chunks: int
    embeddings: int
    revision: int
    bytes: int
    embedder: str
    details: dict[str, int]


class Suggestion(TypedDict):
    """Something worth asking, adding or looking at."""

    kind: str
    text: str
    reason: str


class Issue(TypedDict):
    """Something that does not fit."""

    kind: Literal["contradiction", "gap", "duplicate"]
    text: str
    facts: list[FactEntry]
    fixed: bool


class Validation(TypedDict):
    """What validation looked at and found."""

    checked: list[str]
    issues: list[Issue]
    fixed: int


class GraphQuery(TypedDict):
    """A query in a graph language, and what it finds here."""

    language: str
    query: str
    template: str
    columns: list[str]
    rows: list[list[str | None]]
    note: str


class Importance(TypedDict):
    """How much a text is worth keeping, from 0 to 1, and why."""

    importance: float
    surprise: float | None
    novelty: float | None
    nearest: str
    note: str


class Idea(TypedDict):
    """A concept that is not far from a seed, and the way there."""

    concept: str
    path: list[str]
    distance: float


class Ideas(TypedDict):
    """Where thoughts may go from a seed."""

    seed: str
    ideas: list[Idea]


class Change(TypedDict):
    """A fact that began or ended to be believed, or to hold."""

    at: str
    what: Literal["recorded", "superseded"]
    fact: FactEntry


class Travel(TypedDict):
    """Facts as they were, or how they changed."""

    query_type: str
    timestamp: str | None
    facts: list[FactEntry]
    changes: list[Change]
    more: bool


class Memory(TypedDict):
    """What fits a token budget, the best first, with what its score is made of."""

    chunk: int
    title: str
    text: str
    score: float
    similarity: float
    recency: float
    importance: float
    tokens: int
