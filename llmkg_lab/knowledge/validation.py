"""What in a graph does not fit: contradictions, gaps, duplicates; and what is worth adding."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from llmkg_lab.knowledge.facts import Fact, Term, key_of
from llmkg_lab.knowledge.lexicon import word_set

FUNCTIONAL = word_set(
    "born_in date_of_birth birth_date died_in date_of_death death_date capital population area "
    "height age located_in_country founded_in established_in built_in headquarters mother father "
    "official_language isbn"
)
NUMERIC = ("in", "on")  # a predicate such as born_in has a place and a time: one of each
LEAST, SHARE = 10, 0.95  # subjects, and of them those with one object, to call one functional
CLASS, COMMON = 5, 0.8  # members of a kind, and the share of them that have a predicate
ALIKE = 0.92  # the cosine from which names may mean the same
NAMES = 2_000  # that are compared by meaning


@dataclass(frozen=True)
class Finding:
    """Something that does not fit. loser: the fact that a mend would close."""

    kind: str
    text: str
    facts: tuple[Fact, ...] = ()
    losers: tuple[Fact, ...] = ()


def functional(facts: Iterable[Fact]) -> set[str]:
    """The predicates that have one object at a time: those known, and those that show it."""
    objects: dict[str, dict[Term, set[Term]]] = defaultdict(lambda: defaultdict(set))
    for fact in facts:
        objects[fact.predicate][fact.subject].add(fact.object)
    found = set()
    for predicate, of in objects.items():
        single = sum(len(values) == 1 for values in of.values())
        if predicate in FUNCTIONAL or (len(of) >= LEAST and SHARE <= single / len(of) < 1):
            found.add(predicate)
    return found


def contradictions(facts: Sequence[Fact]) -> list[Finding]:
    """Facts that give one thing two values at the same time."""
    single = functional(facts)
    groups: dict[tuple, list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.predicate in single:
            is_time = fact.object.text[:1].isdigit()
            groups[fact.subject, fact.predicate, is_time].append(fact)
    found = []
    for group in groups.values():
        for a, b in combinations(group, 2):
            if a.object != b.object and _overlap(a, b):
                loser = min(a, b, key=lambda fact: (fact.confidence, fact.recorded))
                text = f"{a.subject.text} {a.predicate}: {a.object.text} and {b.object.text}"
                found.append(Finding("contradiction", text, (a, b), (loser,)))
    return found


def _overlap(a: Fact, b: Fact) -> bool:
    low, high = -(1 << 62), 1 << 62
    begins = [low if f.valid_from is None else f.valid_from for f in (a, b)]
    ends = [high if f.valid_to is None else f.valid_to for f in (a, b)]
    if a.valid_to is None and b.valid_to is None and None not in (a.valid_from, b.valid_from):
        return begins[0] == begins[1]  # of two that only begin, the later follows the earlier
    return max(begins) < min(ends)


def gaps(facts: Sequence[Fact]) -> list[Finding]:
    """What nearly all of a kind have, and some lack."""
    members: dict[Term, set[Term]] = defaultdict(set)
    has: dict[Term, set[str]] = defaultdict(set)
    for fact in facts:
        if fact.predicate == "is_a":
            members[fact.object].add(fact.subject)
        has[fact.subject].add(fact.predicate)
    found = []
    for kind, of in members.items():
        if len(of) < CLASS:
            continue
        counts = Counter(predicate for member in of for predicate in has[member])
        for predicate, count in counts.items():
            if COMMON <= count / len(of) < 1 and predicate != "is_a":
                for member in sorted(of):
                    if predicate not in has[member]:
                        text = (
                            f"{member.text} has no {predicate}; "
                            f"{count} of {len(of)} of the kind {kind.text} have"
                        )
                        found.append(Finding("gap", text))
    return found


def duplicates(facts: Sequence[Fact], embed: Callable | None) -> list[Finding]:
    """Names that may mean the same: by their normal form, and by what they mean."""
    names = Counter(
        term for fact in facts for term in (fact.subject, fact.object) if term.kind == ""
    )
    by_key: dict[str, list[Term]] = defaultdict(list)
    for name in names:
        by_key[key_of(name.text)].append(name)
    found = []
    for same in by_key.values():
        for a, b in combinations(sorted(same, key=lambda name: (-names[name], name)), 2):
            found.append(Finding("duplicate", f"{a.text} and {b.text}: the same but for writing"))
    if embed is not None and len(by_key) > 1:
        first = [same[0].text for same in list(by_key.values())[:NAMES]]
        vectors = embed(first)  # (names, hidden)
        cosines = np.triu(vectors @ vectors.T, 1)
        for i, j in zip(*np.nonzero(cosines >= ALIKE), strict=True):
            if _digits(first[i]) == _digits(first[j]):
                text = f"{first[i]} and {first[j]}: alike in meaning ({cosines[i, j]:.2f})"
                found.append(Finding("duplicate", text))
    return found


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())
