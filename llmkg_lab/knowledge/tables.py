"""Facts in and out of files: JSON lines and CSV with all that a fact has, RDF without its times."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import pyoxigraph as rdf

from llmkg_lab.knowledge import graph
from llmkg_lab.knowledge.facts import (
    LITERAL_LIMIT,
    NAME,
    Fact,
    KnowledgeError,
    Statement,
    Term,
    clean_confidence,
    clean_name,
    moment,
    predicate_of,
    written,
)

COLUMNS = (
    "subject", "subject_kind", "predicate", "object", "object_kind", "confidence", "valid_from",
    "valid_to",
)  # fmt: skip
FORMATS = ("jsonl", "csv", *graph.FORMATS)
BATCH = 10_000  # facts of a piece of output


def read(content: bytes, form: str) -> Iterator[Statement]:
    """The statements of a file. Raises KnowledgeError, which names the line that is wrong."""
    if form not in FORMATS:
        raise KnowledgeError(f"there is no format {form!r}", f"there are {', '.join(FORMATS)}")
    if form in graph.FORMATS:
        yield from graph.read(content, form)
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise KnowledgeError(f"this is not UTF-8: {error}", "write it as UTF-8") from error
    rows = _json_rows(text) if form == "jsonl" else _csv_rows(text)
    for line, row in rows:
        try:
            yield _statement(row)
        except KnowledgeError as error:
            raise KnowledgeError(f"line {line}: {error.message}", error.hint) from None


def write(facts: Iterable[Fact], form: str) -> Iterator[bytes]:
    """A file of facts, in pieces. RDF holds what is true now, without times and confidence."""
    if form not in FORMATS:
        raise KnowledgeError(f"there is no format {form!r}", f"there are {', '.join(FORMATS)}")
    if form in graph.FORMATS:
        yield rdf.serialize(graph.triples(facts), format=graph.FORMATS[form]) or b""
        return
    if form == "csv":
        yield _csv([COLUMNS])
    remaining = iter(facts)
    while batch := list(islice(remaining, BATCH)):
        rows = [_row(fact) for fact in batch]
        if form == "csv":
            yield _csv([[row[name] for name in COLUMNS] for row in rows])
        else:
            yield "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _row(fact: Fact) -> dict[str, Any]:
    return {
        "subject": fact.subject.text,
        "subject_kind": fact.subject.kind,
        "predicate": fact.predicate,
        "object": fact.object.text,
        "object_kind": fact.object.kind,
        "confidence": fact.confidence,
        "valid_from": written(fact.valid_from),
        "valid_to": written(fact.valid_to),
    }


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _json_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise KnowledgeError(f"line {line} is not JSON: {error}", "mend it") from error
        if not isinstance(row, dict):
            raise KnowledgeError(f"line {line} is not an object", "give one fact on each line")
        yield line, row


def _csv_rows(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if value and name}
    except csv.Error as error:
        raise KnowledgeError(f"line {reader.line_num} is not CSV: {error}", "mend it") from error


def _statement(row: Mapping[str, Any]) -> Statement:
    if unknown := set(row) - set(COLUMNS):
        raise KnowledgeError(
            f"there is no column {', '.join(sorted(unknown))}", f"there are {', '.join(COLUMNS)}"
        )
    confidence = row.get("confidence", 1.0)
    if isinstance(confidence, str):
        try:
            confidence = float(confidence)
        except ValueError:
            raise KnowledgeError(f"confidence is {confidence!r}", "it is a number") from None
    begin, end = (row.get(name) for name in ("valid_from", "valid_to"))
    return Statement(
        _term(row, "subject"),
        predicate_of(clean_name(row.get("predicate"), "predicate", 2000)),
        _term(row, "object"),
        clean_confidence(confidence),
        moment(begin, "valid_from") if begin else None,
        moment(end, "valid_to") if end else None,
    )


def _term(row: Mapping[str, Any], name: str) -> Term:
    kind = row.get(f"{name}_kind") or NAME
    if not isinstance(kind, str) or not (kind in ("", "i", "b") or kind[0] == '"'):
        raise KnowledgeError(f"{name}_kind is {kind!r}", "leave it empty for names")
    limit = LITERAL_LIMIT if kind else 128
    return Term(clean_name(row.get(name), name, limit), kind)
