"""The knowledge graph as its users have it: LLMKG's names over a store and its indices."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from llmkg_lab.base.progress import Progress, silent, track
from llmkg_lab.knowledge import answers, memory, queries, suggestions, tables, validation
from llmkg_lab.knowledge import extraction as rules
from llmkg_lab.knowledge.facts import (
    NOW,
    PREDICATE_LIMIT,
    QUERY_LIMIT,
    TITLE_LIMIT,
    Fact,
    KnowledgeError,
    Pattern,
    Statement,
    Term,
    When,
    clean_confidence,
    clean_name,
    clean_text,
    key_of,
    moment,
    predicate_of,
    written,
)
from llmkg_lab.knowledge.graph import Sparql
from llmkg_lab.knowledge.models import Models
from llmkg_lab.knowledge.results import (
    Answer,
    Change,
    FactEntry,
    FoundFacts,
    GraphQuery,
    Hit,
    Idea,
    Ideas,
    Importance,
    Issue,
    Leg,
    SearchResult,
    SearchType,
    Stats,
    StoredFact,
    StoredText,
    Suggestion,
    Travel,
    Validation,
)
from llmkg_lab.knowledge.search import LEGS, Search
from llmkg_lab.knowledge.sentences import CHUNK, chunks
from llmkg_lab.knowledge.sqlite import SqliteStore
from llmkg_lab.knowledge.store import Document, Store, Written, now
from llmkg_lab.knowledge.vectors import Nearest, Vectors
from llmkg_lab.knowledge.words import Words

FILE = "knowledge.sqlite"
INDICES = "indices"
EMBEDDED_AT_ONCE = 16  # chunks
SCANNED = 200_000  # facts that validation and suggestions look at
VALIDATIONS = ("contradictions", "gaps", "duplicates")
TRAVELS = ("snapshot", "changes", "history")
FACT_TEXT = "fact"  # the category of a fact's own text


class Knowledge:
    """A knowledge graph in a folder; or over another store, with what finds by meaning there.

    All methods may be called from several threads, and several processes may have one folder open.
    Raises KnowledgeError on what cannot be taken.
    """

    def __init__(
        self,
        folder: Path,
        models: Models | None = None,
        store: Store | None = None,
        nearest: Nearest | None = None,
    ) -> None:
        self.folder, self.models = folder, models or Models()
        self.store: Store = store or SqliteStore(folder / FILE)
        indices = folder / INDICES
        if nearest is None and self.models.embedder is not None:
            nearest = Vectors(self.store, indices, self.models.embedder)
        self._vectors = nearest
        self.search = Search(self.store, Words(self.store, indices), nearest)
        self._sparql = Sparql(self.store)
        self._embedded = -1  # the revision up to which every chunk has a vector

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Save the indices and free what is held."""
        if self._vectors is not None:
            self._vectors.flush()
        self._sparql.close()
        self.store.close()

    # writing

    def store_fact(
        self,
        subject: str,
        predicate: str,
        object: str,
        confidence: float = 1.0,
        valid_from: str | None = None,
        valid_to: str | None = None,
        source: str = "",
    ) -> StoredFact:
        """Store one fact, with a text of its own so that searches find it.

        A fact that is known already changes nothing; one that differs corrects it.
        """
        statement = self._statement(subject, predicate, object, confidence, valid_from, valid_to)
        terms = [statement.subject, statement.object]
        pattern = Pattern(terms[0].text, statement.predicate, terms[1].text)
        before = self.store.find(pattern, limit=50)
        known = [fact for fact in before if _same(fact, statement)]
        if known:
            entry = self.entries(known[:1])[0]
            return StoredFact(outcome="known", revision=self.store.revision(), fact=entry)
        text = f"{terms[0].text} {statement.predicate.replace('_', ' ')} {terms[1].text}."
        document = self._document(
            " · ".join(
                part for part in (*pattern_texts(pattern), written(statement.valid_from)) if part
            ),
            [text],
            category=FACT_TEXT,
            source=source,
            statements=[(0, statement)],
            mentions=[(0, term) for term in terms],
        )
        done = self.store.write(document)
        stored = [f for f in self.store.find(pattern, limit=50) if f.recorded == done.revision]
        begin = statement.valid_from
        is_new = all(fact.valid_from != begin or fact.source is None for fact in before)
        return StoredFact(
            outcome="added" if is_new else "corrected",
            revision=done.revision,
            fact=self.entries(stored[:1])[0],
        )

    def retract_fact(self, subject: str, predicate: str, object: str) -> int:
        """Close a fact: it was believed, and is no longer. How many rows were closed."""
        return self.store.retract(self._find(subject, predicate, object, NOW, 100)).corrected

    def store_knowledge(
        self,
        content: str,
        title: str,
        category: str = "",
        source: str = "",
        progress: Progress = silent,
    ) -> StoredText:
        """Store a text: its chunks, the names in them, and the facts that they say.

        An earlier text of the same title and source is replaced; what it alone said is no longer
        believed.
        """
        text = clean_text(content)
        title = clean_name(title, "title", TITLE_LIMIT)
        category = clean_name(category, "category") if category else ""
        source = clean_name(source, "source", TITLE_LIMIT) if source else ""
        pieces = chunks(text)
        statements, mentions = [], []
        known = [name for name, _ in self.store.predicates()]
        linker = Linker(self.store, known)
        said = rules.extract(text)
        places = _places(pieces)
        for found in said:
            statements.append((places(found.sentence), linker.statement(found)))
        for position, piece in enumerate(pieces):
            mentions += [(position, linker.term(name)) for name in rules.names(piece)]
        mentions += [(at, term) for at, s in statements for term in (s.subject, s.object)]
        document = self._document(
            title, pieces, category, source, statements, list(dict.fromkeys(mentions)), progress
        )
        done = self.store.write(document)
        entities = dict.fromkeys(term.text for _, term in mentions)
        facts = [
            f
            for f in self.store.around([t for _, t in mentions], limit=200)
            if f.source in done.chunks
        ]
        return StoredText(
            document=done.document or 0,
            chunks=len(pieces),
            revision=done.revision,
            entities=list(entities),
            facts=self.entries(facts),
            embedded=bool(document.vectors),
        )

    def load(self, statements: Iterable[Statement]) -> Written:
        """Store many facts at once, without texts of their own, all or none."""
        return self.store.load(statements)

    def import_facts(self, content: bytes, form: str) -> Written:
        """Store the facts of a file: jsonl, csv, turtle, n-triples, n-quads, trig or rdf-xml."""
        return self.store.load(tables.read(content, form))

    def export_facts(self, form: str) -> Iterator[bytes]:
        """The facts that are believed now, as ``import_facts`` reads them."""
        return tables.write(self.store.facts(NOW), form)

    # asking

    def find_facts(
        self,
        subject: str | None = None,
        predicate: str | None = None,
        object: str | None = None,
        limit: int = 10,
        at: str | None = None,
        known_at: str | None = None,
    ) -> FoundFacts:
        """Facts with one, two or three of their parts given."""
        limit = _limited(limit, 100)
        if not any((subject, predicate, object)):
            raise KnowledgeError("the query has no field", "give subject, predicate or object")
        when = self._when(at, known_at)
        found = self._find(subject, predicate, object, when, limit + 1)
        facts = self.entries(found[:limit])
        return FoundFacts(facts=facts, count=len(facts), more=len(found) > limit)

    def hybrid_search(
        self,
        query: str,
        search_type: SearchType = "hybrid",
        filters: dict[str, str] | None = None,
        limit: int = 10,
    ) -> SearchResult:
        """Search chunks by words, meaning, structure, or all three."""
        query = clean_text(query, "query", QUERY_LIMIT)
        if search_type not in (*LEGS, "hybrid"):
            raise KnowledgeError(
                f"there is no search type {search_type!r}", f"there are {', '.join(LEGS)}, hybrid"
            )
        legs: Sequence[Leg] = LEGS if search_type == "hybrid" else (search_type,)
        self._embed_missing()
        found = self.search.search(query, legs, _limited(limit, 100), filters)
        hits = [
            Hit(
                chunk=ranked.chunk.id,
                title=ranked.chunk.title,
                text=ranked.chunk.text,
                source=ranked.chunk.source,
                category=ranked.chunk.category,
                score=round(ranked.score, 6),
                ranks=ranked.ranks,
            )
            for ranked in found.ranked
        ]
        facts = self.entries(found.facts)
        return SearchResult(hits=hits, facts=facts, searched=list(found.legs), note=found.note)

    def ask_question(self, question: str, context: str = "", max_results: int = 5) -> Answer:
        """Answer from what is stored, with citations, or say that nothing says so."""
        question = clean_text(question, "question", QUERY_LIMIT)
        limit = _limited(max_results, 20)
        self._embed_missing()
        found = self.search.search(question, limit=max(limit, 10))
        passages = [
            answers.Passage(ranked.chunk.text, ranked.chunk.title, ranked.chunk.id)
            for ranked in found.ranked
            if ranked.chunk.category != FACT_TEXT
        ]
        if context:
            passages.insert(0, answers.Passage(clean_text(context, "context"), "", None))
        entities = self.search.entities(question)
        facts = self.search.facts_about(entities, question, 100)
        return answers.answer(question, facts, passages, limit)

    def remember(self, query: str, budget: int = 512, limit: int = 20) -> memory.Retrieval:
        """What is worth its tokens for a query: by likeness, recency and importance."""
        query = clean_text(query, "query", QUERY_LIMIT)
        count = self.models.count_tokens or (lambda text: 1 + len(text) // 4)
        self._embed_missing()
        return memory.retrieve(query, self.search, self.store, budget, count, now(), limit)

    def consolidate(self, limit: int = 1000) -> int:
        """Join what was often retrieved together; how many joined texts were written."""
        last = self.store.count("chunk", 1 << 62)
        ties = self.store.together(list(range(1, last + 1))[-limit:], limit)
        written_ = 0
        for group in memory.clusters(ties):
            embed = self.models.embedder
            document = memory.consolidated(self.store.chunks(group), embed, 2 * CHUNK)
            if document is not None and not self._is_stored(document):
                texts, names = document.chunks, rules.names(document.chunks[0])
                linker = Linker(self.store, ())
                mentions = [(0, linker.term(name)) for name in names]
                self.store.write(
                    self._document(
                        document.title, texts, document.category, document.source, (), mentions
                    )
                )
                written_ += 1
        return written_

    def get_suggestions(
        self, suggestion_type: str = "exploration", focus_area: str = "", limit: int = 10
    ) -> list[Suggestion]:
        """What is worth asking or adding next."""
        return suggestions.suggest(suggestion_type, self._scan(focus_area), _limited(limit, 100))

    def get_stats(self, include_details: bool = False) -> Stats:
        """What the store holds; with details, its predicates and how many facts each has."""
        counts = self.store.stats()
        embedder = self.models.embedder
        return Stats(
            facts=counts["facts"],
            superseded=counts["superseded"],
            entities=counts["terms"],
            predicates=counts["predicates"],
            documents=counts["documents"],
            chunks=counts["chunks"],
            embeddings=counts["embeddings"],
            revision=counts["revision"],
            bytes=counts["bytes"],
            embedder=embedder.name if embedder else "",
            details=dict(self.store.predicates()[:200]) if include_details else {},
        )

    def generate_graph_query(
        self, natural_query: str, query_language: str = "sparql"
    ) -> GraphQuery:
        """A question as a query of a graph language; SPARQL is run here."""
        question = clean_text(natural_query, "query", QUERY_LIMIT)
        entities = self.search.entities(question)
        predicates = [name for name, _ in self.store.predicates()]
        template = queries.understand(question, entities, predicates)
        query = queries.write(template, query_language)
        result = GraphQuery(
            language=query_language,
            query=query,
            template=template.name,
            columns=[],
            rows=[],
            note="only SPARQL is run here" if query_language != "sparql" else "",
        )
        if query_language == "sparql":
            table = self._sparql.query(query)
            result = {**result, "columns": table.columns, "rows": table.rows}
        return result

    def sparql(self, query: str, limit: int = 100) -> GraphQuery:
        """Run SPARQL that reads, over what is believed now."""
        table = self._sparql.query(
            clean_text(query, "query", 5 * QUERY_LIMIT), _limited(limit, 1000)
        )
        note = "there is more than the limit let through" if table.more else ""
        return GraphQuery(
            language="sparql",
            query=query,
            template="",
            columns=table.columns,
            rows=table.rows,
            note=note,
        )

    def validate_knowledge(
        self, validation_type: str = "all", entity: str | None = None, fix_issues: bool = False
    ) -> Validation:
        """Look for contradictions, gaps and duplicates; a mend closes the less certain fact."""
        if validation_type not in (*VALIDATIONS, "all"):
            raise KnowledgeError(
                f"there is no validation type {validation_type!r}",
                f"there are {', '.join(VALIDATIONS)}, all",
            )
        checked = VALIDATIONS if validation_type == "all" else (validation_type,)
        facts = self._scan(entity or "")
        findings: list[validation.Finding] = []
        if "contradictions" in checked:
            findings += validation.contradictions(facts)
        if "gaps" in checked:
            findings += validation.gaps(facts)
        if "duplicates" in checked:
            findings += validation.duplicates(facts, self.models.embedder)
        losers = [loser for finding in findings for loser in finding.losers]
        fixed = self.store.retract(losers).corrected if fix_issues and losers else 0
        issues = [
            Issue(
                kind=finding.kind,  # type: ignore[typeddict-item]
                text=finding.text,
                facts=self.entries(finding.facts),
                fixed=bool(fix_issues and finding.losers),
            )
            for finding in findings[:200]
        ]
        return Validation(checked=list(checked), issues=issues, fixed=fixed)

    def neural_importance_scoring(self, text: str, context: str = "") -> Importance:
        """How much a text says that was not expected, and that the store does not hold."""
        text = clean_text(text, "text")
        context = clean_text(context, "context") if context else ""
        return memory.importance_of(text, self.models.surprise, self.search, context)

    def divergent_thinking_engine(
        self, seed_concept: str, exploration_depth: int = 2, max_ideas: int = 10
    ) -> Ideas:
        """Concepts that are tied to a seed over some facts, the least alike first."""
        seed = clean_name(seed_concept, "seed_concept")
        depth, limit = _limited(exploration_depth, 4), _limited(max_ideas, 50)
        paths: dict[str, list[str]] = {}
        frontier = self.store.terms_of([key_of(seed)]).get(key_of(seed), [])
        seen = {term.text for term in frontier}
        for _ in range(depth):
            reached: list[Term] = []
            for term in frontier[:50]:
                for fact in self.store.around([term], limit=20):
                    other = fact.object if fact.subject == term else fact.subject
                    if other.text not in seen:
                        seen.add(other.text)
                        way = paths.get(term.text, [term.text])
                        paths[other.text] = [*way, fact.predicate, other.text]
                        reached.append(other)
            frontier = reached
        names = list(paths)[:200]
        distances = dict(zip(names, self._distances(seed, names), strict=True))
        order = sorted(names, key=lambda name: -distances[name])[:limit]
        return Ideas(
            seed=seed,
            ideas=[Idea(concept=n, path=paths[n], distance=round(distances[n], 4)) for n in order],
        )

    def time_travel_query(
        self,
        query_type: str = "snapshot",
        timestamp: str | None = None,
        entity: str | None = None,
        time_range: Sequence[str] | None = None,
        limit: int = 50,
    ) -> Travel:
        """Facts as they held at a time, as the store believed them then, or how they changed.

        snapshot: what held at ``timestamp`` in the world, by what is believed now. history: all
        that was ever believed of ``entity``. changes: what was recorded and superseded within
        ``time_range``, two times.
        """
        limit = _limited(limit, 100)
        if query_type not in TRAVELS:
            raise KnowledgeError(
                f"there is no query type {query_type!r}", f"there are {', '.join(TRAVELS)}"
            )
        if query_type == "snapshot" and timestamp is None:
            raise KnowledgeError("a snapshot needs a timestamp", "give one as in 2024-05-01")
        if query_type != "snapshot" and entity is None and time_range is None:
            raise KnowledgeError(f"{query_type} needs an entity or a time_range", "give one")
        if query_type == "snapshot":
            found = self._about(entity, When(valid=moment(timestamp)), limit + 1)
            facts = self.entries(found[:limit])
            more = len(found) > limit
            return Travel(
                query_type=query_type, timestamp=timestamp, facts=facts, changes=[], more=more
            )
        found = self._about(entity, When(ever=True), 20 * limit)
        changes = self._changes(found, time_range)
        return Travel(
            query_type=query_type,
            timestamp=timestamp,
            facts=self.entries(found[:limit]) if query_type == "history" else [],
            changes=changes[:limit],
            more=len(changes) > limit,
        )

    def entries(self, facts: Sequence[Fact]) -> list[FactEntry]:
        """Facts as JSON has them, with times and sources in words."""
        revisions = [r for fact in facts for r in (fact.recorded, fact.superseded) if r is not None]
        times = self.store.times(revisions)
        wanted = list({fact.source for fact in facts if fact.source is not None})
        named = {chunk.id: chunk.source or chunk.title for chunk in self.store.chunks(wanted)}
        return [
            FactEntry(
                subject=fact.subject.text,
                predicate=fact.predicate,
                object=fact.object.text,
                confidence=fact.confidence,
                valid_from=written(fact.valid_from),
                valid_to=written(fact.valid_to),
                recorded=written(times[fact.recorded]) or "",
                superseded=written(times[fact.superseded]) if fact.superseded else None,
                source=named.get(fact.source) if fact.source is not None else None,
            )
            for fact in facts
        ]

    # within

    def _statement(
        self, subject: str, predicate: str, object: str, confidence: float,
        valid_from: str | None, valid_to: str | None,
    ) -> Statement:  # fmt: skip
        begin = moment(valid_from, "valid_from") if valid_from else None
        end = moment(valid_to, "valid_to") if valid_to else None
        if begin is not None and end is not None and begin >= end:
            raise KnowledgeError("valid_to is not after valid_from", "give the later time last")
        return Statement(
            Term(clean_name(subject, "subject")),
            predicate_of(clean_name(predicate, "predicate", PREDICATE_LIMIT)),
            Term(clean_name(object, "object")),
            clean_confidence(confidence),
            begin,
            end,
        )

    def _document(
        self,
        title: str,
        pieces: Sequence[str],
        category: str = "",
        source: str = "",
        statements: Sequence[tuple[int, Statement]] = (),
        mentions: Sequence[tuple[int, Term]] = (),
        progress: Progress = silent,
    ) -> Document:
        """A document with its vectors and importance, which are made before the store is locked."""
        embedder, surprise = self.models.embedder, self.models.surprise
        vectors: list[bytes] = []
        importance: list[float | None] = []
        batches = [
            pieces[i : i + EMBEDDED_AT_ONCE] for i in range(0, len(pieces), EMBEDDED_AT_ONCE)
        ]
        for batch in track(batches, progress, "reading", "parts") if embedder or surprise else ():
            vectors += embedder.packed(batch) if embedder else []
            importance += [
                self._importance(piece) if category != FACT_TEXT else None for piece in batch
            ]
        model = embedder.name if embedder else ""
        return Document(
            title, pieces, category, source, statements, mentions, vectors, model, importance
        )

    def _importance(self, piece: str) -> float:
        return memory.importance_of(piece, self.models.surprise, self.search)["importance"]

    def _is_stored(self, document: Document) -> bool:
        """Whether a joined text is there already, word for word."""
        text = document.chunks[0]
        found = self.search.search(
            text[:QUERY_LIMIT], ("keyword",), 5, {"category": document.category}
        )
        return any(ranked.chunk.text == text for ranked in found.ranked)

    def _embed_missing(self) -> None:
        """Embed what came without a vector; to look for it takes long, so only after a change."""
        revision = self.store.revision()
        if self._vectors is not None and revision != self._embedded:
            while self._vectors.embed_missing():
                pass
            self._embedded = revision

    def _find(
        self, subject: str | None, predicate: str | None, object: str | None, when: When, limit: int
    ) -> list[Fact]:
        pattern = Pattern(
            clean_name(subject, "subject") if subject else None,
            predicate_of(clean_name(predicate, "predicate", PREDICATE_LIMIT))
            if predicate
            else None,
            clean_name(object, "object") if object else None,
        )
        return self.store.find(pattern, when, limit)

    def _about(self, entity: str | None, when: When, limit: int) -> list[Fact]:
        if entity is None:
            facts = []
            for fact in self.store.facts(when):
                facts.append(fact)
                if len(facts) == limit:
                    break
            return facts
        key = key_of(clean_name(entity, "entity"))
        return self.store.around(self.store.terms_of([key]).get(key, []), when, limit)

    def _scan(self, focus: str) -> list[Fact]:
        return self._about(focus or None, NOW, SCANNED)

    def _when(self, at: str | None, known_at: str | None) -> When:
        valid = moment(at, "at") if at else None
        known = self.store.revision_at(moment(known_at, "known_at")) if known_at else None
        return When(valid, known)

    def _changes(self, facts: Sequence[Fact], time_range: Sequence[str] | None) -> list[Change]:
        begin, end = "", "9999"
        if time_range is not None:
            if len(time_range) != 2:
                raise KnowledgeError("time_range is not two times", "give the first and the last")
            begin, end = (written(moment(at, "time_range")) or "" for at in time_range)
        changes = []
        for entry in self.entries(facts):
            changes.append(Change(at=entry["recorded"], what="recorded", fact=entry))
            if entry["superseded"]:
                changes.append(Change(at=entry["superseded"], what="superseded", fact=entry))
        within = [change for change in changes if begin <= change["at"] < end]
        return sorted(within, key=lambda change: (change["at"], change["what"]))

    def _distances(self, seed: str, names: Sequence[str]) -> list[float]:
        embedder = self.models.embedder
        if embedder is None or not names:
            return [0.0] * len(names)
        vectors = embedder([seed, *names])
        return [float(1 - cosine) for cosine in vectors[1:] @ vectors[0]]


class Linker:
    """Names of a text to terms of a store: the same but for writing is the same thing."""

    def __init__(self, store: Store, predicates: Sequence[str]) -> None:
        self._store = store
        self._terms: dict[str, Term] = {}
        self._predicates = {queries.stemmed(name): name for name in reversed(predicates)}

    def term(self, name: str) -> Term:
        """The term that a name means: a known one, or a new one."""
        key = key_of(name)
        if key not in self._terms:
            known = [t for t in self._store.terms_of([key]).get(key, []) if t.kind == ""]
            exact = Term(clean_name(name))
            self._terms[key] = exact if exact in known or not known else known[0]
        return self._terms[key]

    def statement(self, found: rules.Found) -> Statement:
        """A fact of a text with known terms, and a known predicate where it means the same."""
        predicate = predicate_of(found.predicate)
        return Statement(
            self.term(found.subject),
            self._predicates.get(queries.stemmed(predicate), predicate),
            self.term(found.object),
            rules.CONFIDENCE,
            moment(found.valid_from) if found.valid_from else None,
            moment(found.valid_to) if found.valid_to else None,
        )


def pattern_texts(pattern: Pattern) -> tuple[str, str, str]:
    """The three texts of a pattern that has them all."""
    return pattern.subject or "", pattern.predicate or "", pattern.object or ""


def _places(pieces: Sequence[str]) -> Any:
    """A function from a sentence to the chunk that it stands in."""

    def place(sentence: str) -> int:
        start = sentence[:60]
        return next((i for i, piece in enumerate(pieces) if start in piece), 0)

    return place


def _same(fact: Fact, statement: Statement) -> bool:
    names = ("subject", "predicate", "object", "confidence", "valid_from", "valid_to")
    return all(getattr(fact, name) == getattr(statement, name) for name in names)


def _limited(value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise KnowledgeError(f"{value!r} is not a number from 1 to {most}", "mend the limit")
    return value
