"""RDF in and out, and SPARQL: the store's facts as a graph of triples."""

import json
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import pyoxigraph as rdf

from llmkg_lab.base.bounded import Bounded, BoundsError
from llmkg_lab.knowledge.facts import (
    BLANK,
    IRI,
    IRI_LIMIT,
    LITERAL_LIMIT,
    NAME,
    NOW,
    STRING,
    Fact,
    KnowledgeError,
    Statement,
    Term,
    clean_name,
    clean_text,
    predicate_of,
)
from llmkg_lab.knowledge.store import Store

NAMES, PREDICATES = "urn:llmkg:name:", "urn:llmkg:predicate:"
XSD_STRING = "http://www.w3.org/2001/XMLSchema#string"
FORMATS = {
    "turtle": rdf.RdfFormat.TURTLE,
    "n-triples": rdf.RdfFormat.N_TRIPLES,
    "n-quads": rdf.RdfFormat.N_QUADS,
    "trig": rdf.RdfFormat.TRIG,
    "rdf-xml": rdf.RdfFormat.RDF_XML,
}
SECONDS, MEMORY = 10, 6 << 30  # of computing, and bytes of address space, for one query

_reader = Bounded(Path(__file__).with_name("rdf_child.py"))

Node = rdf.NamedNode | rdf.BlankNode | rdf.Literal


def triples(facts: Iterable[Fact]) -> Iterator[rdf.Triple]:
    """Facts as triples, without what RDF has no place for: times and confidence."""
    for fact in facts:
        subject, value = node(fact.subject), node(fact.object)
        if not isinstance(subject, rdf.Literal):
            yield rdf.Triple(subject, predicate_node(fact.predicate), value)


def node(term: Term) -> Node:
    """A term of the store in RDF."""
    if term.kind == IRI:
        return rdf.NamedNode(term.text)
    if term.kind == BLANK:
        return rdf.BlankNode(term.text)
    if term.kind == STRING:
        return rdf.Literal(term.text)
    if term.kind.startswith('"@'):
        return rdf.Literal(term.text, language=term.kind[2:])
    if term.kind.startswith('"^^'):
        return rdf.Literal(term.text, datatype=rdf.NamedNode(term.kind[3:]))
    return rdf.NamedNode(NAMES + quote(term.text, safe=""))


def predicate_node(predicate: str) -> rdf.NamedNode:
    """A predicate in RDF: an IRI as it is, a name of ours with a prefix."""
    return rdf.NamedNode(
        predicate if _is_iri(predicate) else PREDICATES + quote(predicate, safe="")
    )


def read(content: bytes, form: str) -> Iterator[Statement]:
    """The statements of an RDF file. Raises KnowledgeError where it is not one."""
    if form not in FORMATS:
        raise KnowledgeError(f"there is no format {form!r}", f"there are {', '.join(FORMATS)}")
    try:  # a process may be ended by what it reads, as by brackets that nest too deep
        seconds = 2 + len(content) // 1_000_000
        plain = _reader.ask(form.encode() + b"\n" + content, seconds=seconds, memory=MEMORY)
    except BoundsError as error:
        raise KnowledgeError(f"this is not {form}: {error}", "check its format") from error
    for quad in rdf.parse(plain, format=rdf.RdfFormat.N_TRIPLES):
        yield Statement(_term(quad.subject), _predicate(quad.predicate), _term(quad.object))


def _term(value: Node) -> Term:
    if isinstance(value, rdf.BlankNode):
        return Term(clean_name(value.value, "a blank node"), BLANK)
    if isinstance(value, rdf.NamedNode):
        if value.value.startswith(NAMES):
            return Term(clean_name(unquote(value.value[len(NAMES) :]), "a name"), NAME)
        return Term(clean_name(value.value, "an IRI", IRI_LIMIT), IRI)
    text = clean_text(value.value, "a literal", LITERAL_LIMIT) if value.value.strip() else ""
    if value.language:
        return Term(text, f'"@{value.language}')
    if value.datatype.value != XSD_STRING:
        return Term(text, f'"^^{value.datatype.value}')
    return Term(text, STRING)


def _predicate(value: rdf.NamedNode) -> str:
    if value.value.startswith(PREDICATES):
        return predicate_of(clean_name(unquote(value.value[len(PREDICATES) :]), "a predicate"))
    return clean_name(value.value, "a predicate", IRI_LIMIT)


def _is_iri(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", text) is not None


@dataclass(frozen=True)
class Table:
    """What a query found; a name of ours stands as its text."""

    columns: list[str]
    rows: list[list[str | None]]
    more: bool  # there are more rows than the limit let through


class Sparql:
    """SPARQL over the facts of a store, in a process with bounds on time and memory.

    It only reads, and nothing outside is asked: SERVICE is refused.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._child = Bounded(Path(__file__).with_name("sparql_child.py"), idle=120)
        self._name = f"{id(self):x}"
        self._lock = threading.Lock()

    def query(self, query: str, limit: int = 100, seconds: int = SECONDS) -> Table:
        """Run a SELECT, ASK, CONSTRUCT or DESCRIBE over what is believed now.

        Raises KnowledgeError on another query, on one that is wrong, or that takes too long.
        """
        refuse_reaching_out(query)
        asked = {"query": query, "limit": limit}
        try:
            with self._lock:
                graph = f"{self._name} {self._store.revision()}"
                found = self._ask({**asked, "graph": graph, "loaded": False}, b"", seconds)
                if found.get("cold"):
                    content = rdf.serialize(
                        triples(self._store.facts(NOW)), format=rdf.RdfFormat.N_TRIPLES
                    )
                    asked_with = {**asked, "graph": graph, "loaded": True}
                    found = self._ask(
                        asked_with, content or b"", seconds + len(content or b"") // 5_000_000
                    )
        except BoundsError as error:
            raise KnowledgeError(
                f"the query was not answered: {error}", "mend or narrow it"
            ) from error
        rows = [[value and _shown(value["text"]) for value in row] for row in found["rows"]]
        return Table(found["columns"], rows, found["more"])

    def close(self) -> None:
        """End its process."""
        self._child.close()

    def _ask(self, header: dict, content: bytes, seconds: int) -> dict:
        request = json.dumps(header).encode() + b"\n" + content
        return dict(json.loads(self._child.ask(request, seconds=seconds, memory=MEMORY)))


def refuse_reaching_out(query: str) -> None:
    """Raise KnowledgeError where a query would ask another server."""
    if re.search(r"\\[uU]", query):
        raise KnowledgeError("the query holds escapes such as \\u0041", "write the characters")
    if re.search(r"(?<![\w:#/<?$-])SERVICE(?![\w:-])", query, re.IGNORECASE):
        raise KnowledgeError("SERVICE asks another server", "ask this store's facts alone")


def _shown(text: str) -> str:
    for prefix in (NAMES, PREDICATES):
        if text.startswith(prefix):
            return unquote(text[len(prefix) :])
    return text


def literal(text: str) -> str:
    """A text as SPARQL writes it; nothing in it can end it."""
    return str(rdf.Literal(text))


def iri(text: str, *, predicate: bool = False) -> str:
    """A name as SPARQL writes it; nothing in it can end it."""
    return str(predicate_node(text) if predicate else node(Term(text)))
