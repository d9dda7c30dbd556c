"""Questions into queries of graph languages, by templates over the predicates that are known."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llmkg_lab.knowledge import graph
from llmkg_lab.knowledge.facts import KnowledgeError, Term
from llmkg_lab.knowledge.words import STOP_WORDS, stem

LANGUAGES = ("sparql", "cypher", "gremlin")
LIMIT = 100


@dataclass(frozen=True)
class Template:
    """A question's form: a path of predicates between what is known and what is asked.

    Args:
        known: the entity that the question names, None where it names none.
        path: predicates from the known entity; ``forward`` says for each whether the entity that
            is nearer to the known one is the subject.
        counts: whether their number is asked.
    """

    name: str
    known: str | None
    path: tuple[str, ...]
    forward: tuple[bool, ...]
    counts: bool


def understand(question: str, entities: Sequence[Term], predicates: Sequence[str]) -> Template:
    """The template of a question. Raises KnowledgeError where none fits."""
    known = entities[0].text if entities else None
    rest = question
    if known:
        rest = re.sub(re.escape(known), " @ ", question, count=1, flags=re.IGNORECASE)
    found = _named(rest, predicates)
    if not found and known:
        return Template("about", known, (), (), False)
    if not found:
        raise KnowledgeError(
            "the question names no entity and no predicate that is known",
            "get_stats with include_details lists the predicates",
        )
    path = tuple(found[:2])
    at = rest.find("@")
    first = _position(rest, path[0])
    forward = at <= first if known else True
    if known and path[0].endswith("_of"):  # the capital of Norway: ? capital_of Norway
        forward = at < first
    if len(path) == 2 and known:  # the nearer predicate is walked first
        by_distance = sorted(path, key=lambda name: abs(_position(rest, name) - at))
        directions = tuple(
            not name.endswith("_of") if at > _position(rest, name) else True for name in by_distance
        )
        return Template("path", known, tuple(by_distance), directions, _counts(question))
    name = "count" if _counts(question) else ("objects" if forward else "subjects")
    return Template(name, known, path[:1], (forward,), _counts(question))


def write(template: Template, language: str) -> str:
    """The query of a template. What a name holds can never end it."""
    if language not in LANGUAGES:
        raise KnowledgeError(
            f"there is no query language {language!r}", f"there are {', '.join(LANGUAGES)}"
        )
    return {"sparql": _sparql, "cypher": _cypher, "gremlin": _gremlin}[language](template)


def _sparql(template: Template) -> str:
    known = graph.iri(template.known) if template.known is not None else "?known"
    if not template.path:
        return (
            f"SELECT ?predicate ?value WHERE {{ {{ {known} ?predicate ?value }} UNION "
            f"{{ ?value ?predicate {known} }} }} LIMIT {LIMIT}"
        )
    steps, here = [], known
    for number, (name, forward) in enumerate(zip(template.path, template.forward, strict=True)):
        there = "?answer" if number == len(template.path) - 1 else f"?step{number}"
        a, b = (here, there) if forward else (there, here)
        steps.append(f"{a} {graph.iri(name, predicate=True)} {b}")
        here = there
    where = " . ".join(steps)
    if template.counts:
        return f"SELECT (COUNT(DISTINCT ?answer) AS ?count) WHERE {{ {where} }}"
    shown = "?answer" if template.known is not None else "?known ?answer"
    return f"SELECT DISTINCT {shown} WHERE {{ {where} }} LIMIT {LIMIT}"


def _cypher(template: Template) -> str:
    known = f"(known:Entity {{name: {_quoted(template.known)}}})" if template.known else "(known)"
    if not template.path:
        return f"MATCH {known}-[relation]-(value) RETURN type(relation), value.name LIMIT {LIMIT}"
    pattern = known
    for number, (name, forward) in enumerate(zip(template.path, template.forward, strict=True)):
        there = "(answer)" if number == len(template.path) - 1 else f"(step{number})"
        edge = f"[:`{name.replace('`', '``')}`]"
        pattern += f"-{edge}->{there}" if forward else f"<-{edge}-{there}"
    asked = "count(DISTINCT answer)" if template.counts else "DISTINCT answer.name"
    return f"MATCH {pattern} RETURN {asked} LIMIT {LIMIT}"


def _gremlin(template: Template) -> str:
    text = "g.V()" + (f".has('name', {_quoted(template.known)})" if template.known else "")
    if not template.path:
        return text + f".both().limit({LIMIT})"
    for name, forward in zip(template.path, template.forward, strict=True):
        text += f".{'out' if forward else 'in'}({_quoted(name)})"
    return text + (
        ".dedup().count()" if template.counts else f".values('name').dedup().limit({LIMIT})"
    )


def _quoted(text: str | None) -> str:
    escaped = (text or "").replace("\\", "\\\\").replace("'", "\\'")
    return "'" + re.sub(r"[\x00-\x1f\u2028\u2029]", " ", escaped) + "'"


def _named(question: str, predicates: Sequence[str]) -> list[str]:
    """The predicates that a question names, those with the most words of it first."""
    said = {stem(word) for word in re.findall(r"\w+", question.lower())}
    scored = []
    for predicate in predicates:
        words = [word for word in predicate.split("_") if word not in STOP_WORDS]
        stems = {stem(word) for word in words or predicate.split("_")}
        if stems and stems <= said:
            scored.append((len(stems), predicate))
    found: list[str] = []
    covered: set[str] = set()
    for _, predicate in sorted(scored, key=lambda pair: (-pair[0], pair[1])):
        stems = {stem(word) for word in predicate.split("_") if word not in STOP_WORDS}
        if not stems & covered:
            covered |= stems
            found.append(predicate)
    return found


def _position(question: str, predicate: str) -> int:
    """Where a question names a predicate."""
    wanted = {stem(word) for word in predicate.split("_")}
    for match in re.finditer(r"\w+", question):
        if stem(match[0].lower()) in wanted:
            return match.start()
    return 0


def _counts(question: str) -> bool:
    return re.search(r"\bhow many\b|\bnumber of\b", question, re.IGNORECASE) is not None


def stemmed(predicate: str) -> str:
    """What predicates that mean the same have in common: works_at and work_at."""
    return "_".join(stem(word) for word in predicate.split("_"))
