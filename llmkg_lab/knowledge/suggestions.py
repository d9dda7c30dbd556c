"""What is worth asking, adding or looking at next, from what the graph already has."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from llmkg_lab.knowledge.facts import Fact, KnowledgeError
from llmkg_lab.knowledge.results import Suggestion
from llmkg_lab.knowledge.validation import gaps

TYPES = ("missing_facts", "connections", "questions", "exploration")


def suggest(kind: str, facts: Sequence[Fact], limit: int) -> list[Suggestion]:
    """Suggestions of one type, the best first. Raises KnowledgeError on an unknown type."""
    if kind not in TYPES:
        raise KnowledgeError(
            f"there is no suggestion type {kind!r}", f"there are {', '.join(TYPES)}"
        )
    makers = dict(zip(TYPES, (_missing_facts, _connections, _questions, _exploration), strict=True))
    return makers[kind](facts)[:limit]


def _missing_facts(facts: Sequence[Fact]) -> list[Suggestion]:
    return [
        Suggestion(kind="missing_facts", text=found.text.partition(";")[0], reason=found.text)
        for found in gaps(facts)
    ]


def _connections(facts: Sequence[Fact]) -> list[Suggestion]:
    """Pairs that share neighbours and have no fact between them."""
    near: dict[str, set[str]] = defaultdict(set)
    for fact in facts:
        near[fact.subject.text].add(fact.object.text)
        near[fact.object.text].add(fact.subject.text)
    shared: Counter[tuple[str, str]] = Counter()
    for of in near.values():
        if len(of) <= 50:  # what all are tied to ties nobody
            names = sorted(of)
            shared.update((a, b) for i, a in enumerate(names) for b in names[i + 1 :])
    return [
        Suggestion(
            kind="connections",
            text=f"{a} and {b}",
            reason=f"{count} things are tied to both, and no fact is between them",
        )
        for (a, b), count in shared.most_common(1000)
        if b not in near[a]
    ]


def _questions(facts: Sequence[Fact]) -> list[Suggestion]:
    """A question that the graph can answer, for each predicate."""
    by_predicate: dict[str, Fact] = {}
    for fact in facts:
        by_predicate.setdefault(fact.predicate, fact)
    return [
        Suggestion(
            kind="questions",
            text=f"{fact.subject.text} {predicate.replace('_', ' ')} what?",
            reason=f"the graph has facts of {predicate}",
        )
        for predicate, fact in sorted(by_predicate.items())
    ]


def _exploration(facts: Sequence[Fact]) -> list[Suggestion]:
    """What is named as an object, and of which nothing is said."""
    subjects = {fact.subject.text for fact in facts}
    named = Counter(fact.object.text for fact in facts if fact.object.kind == "")
    return [
        Suggestion(
            kind="exploration",
            text=name,
            reason=f"{count} facts name it, and none is about it",
        )
        for name, count in named.most_common()
        if name not in subjects and not name[:1].isdigit()
    ]
