"""The graph's contract, name by name: what LLMKG's tools take, give back and refuse."""

import json

import pytest
from knowledge.hashed import HASHED

from llmkg_lab.knowledge import memory
from llmkg_lab.knowledge.facts import KnowledgeError
from llmkg_lab.knowledge.knowledge import Knowledge
from llmkg_lab.knowledge.models import Models
from llmkg_lab.knowledge.store import Document

TEXT = (
    "Oslo is the capital of Norway. The population of Oslo is 709,000. Sigrid Undset, who wrote "
    "Kristin Lavransdatter, won the Nobel Prize in 1928. She was born in Kalundborg in 1882. "
    "Acme was founded by Alice Smith and Bob Jones in 1999. It is based in Bergen."
)


@pytest.fixture
def graph(tmp_path):
    with Knowledge(tmp_path / "graph", Models(HASHED)) as opened:
        yield opened


def triples(found):
    return {(f["subject"], f["predicate"], f["object"]) for f in found["facts"]}


def test_store_fact_and_find_facts(graph):
    stored = graph.store_fact(
        "Ada Lovelace", "works at", "Acme", 0.9, "2001", "2005", "an oral report"
    )
    assert stored["outcome"] == "added"
    fact = stored["fact"]
    assert (fact["subject"], fact["predicate"], fact["object"]) == (
        "Ada Lovelace", "works_at", "Acme",
    )  # fmt: skip
    assert (fact["valid_from"], fact["valid_to"]) == ("2001-01-01", "2005-01-01")
    assert (fact["confidence"], fact["source"]) == (0.9, "an oral report")
    again = graph.store_fact("Ada Lovelace", "works at", "Acme", 0.9, "2001", "2005")
    assert again["outcome"] == "known"
    other = graph.store_fact(
        "Ada Lovelace", "works at", "Acme", 0.4, "2001", "2005", "an oral report"
    )
    assert other["outcome"] == "corrected"
    found = graph.find_facts(subject="ada lovelace", limit=10)
    assert [f["confidence"] for f in found["facts"]] == [0.4]
    assert triples(graph.find_facts(predicate="Works-At")) == triples(found)
    assert triples(graph.find_facts(object="Acme", at="2003")) == triples(found)
    assert graph.find_facts(object="Acme", at="2007")["count"] == 0
    for i in range(12):
        graph.store_fact("Ada Lovelace", "knows", f"friend {i}")
    most = graph.find_facts(subject="Ada Lovelace")
    assert (most["count"], most["more"]) == (10, True)
    assert graph.retract_fact("Ada Lovelace", "works_at", "Acme") == 1
    assert graph.find_facts(object="Acme")["count"] == 0


def test_store_knowledge_extracts_links_and_replaces(graph):
    graph.store_fact("Sigrid Undset", "lives_in", "Lillehammer")
    graph.store_fact("sigrid's house", "based_in", "Lillehammer")
    steps = []
    stored = graph.store_knowledge(TEXT, "Norway", "geo", "atlas", steps.append)
    assert {("Oslo", "capital_of", "Norway"), ("Alice Smith", "founded", "Acme"),
            ("Sigrid Undset", "born_in", "Kalundborg"), ("Acme", "based_in", "Bergen")} <= {
        (f["subject"], f["predicate"], f["object"]) for f in stored["facts"]
    }  # fmt: skip
    assert {"Oslo", "Kristin Lavransdatter", "Bob Jones"} <= set(stored["entities"])
    assert (stored["chunks"], stored["embedded"]) == (1, True)
    assert steps[-1].is_over
    assert {f["source"] for f in stored["facts"]} == {"atlas"}
    undset = triples(graph.find_facts(subject="Sigrid Undset"))
    assert ("Sigrid Undset", "lives_in", "Lillehammer") in undset  # one entity, from both sides
    win = graph.find_facts("Sigrid Undset", "win")["facts"][0]
    assert win["valid_from"] == "1928-01-01"
    graph.store_knowledge("Oslo has fjords.", "Norway", "geo", "atlas")
    assert graph.find_facts(subject="Alice Smith")["count"] == 0
    left = graph.hybrid_search("capital of Norway", "keyword")["hits"]
    assert [hit["text"] for hit in left] == ["Oslo has fjords."]


def test_hybrid_search(graph):
    graph.store_knowledge(TEXT, "Norway", "geo", "atlas")
    graph.store_knowledge("Herring swims north in winter.", "Fish", "food", "menu")
    for kind in ("semantic", "structural", "keyword", "hybrid"):
        found = graph.hybrid_search("Who won the Nobel Prize? Sigrid Undset", kind, limit=5)
        assert found["hits"][0]["title"] == "Norway", kind
        assert found["searched"] == (
            [kind] if kind != "hybrid" else ["keyword", "semantic", "structural"]
        )
    hit = found["hits"][0]
    assert hit["ranks"] == {"keyword": 1, "semantic": 1, "structural": 1}
    assert hit["score"] == pytest.approx(3 / 61, abs=1e-6)  # reciprocal rank fusion
    assert ("Sigrid Undset", "win", "Nobel Prize") in {
        (f["subject"], f["predicate"], f["object"]) for f in found["facts"]
    }
    only = graph.hybrid_search("Oslo herring", filters={"category": "food"})["hits"]
    assert [h["title"] for h in only] == ["Fish"]


def test_without_an_embedder_it_says_what_was_not_searched(tmp_path):
    with Knowledge(tmp_path) as graph:
        assert graph.store_knowledge(TEXT, "Norway")["embedded"] is False
        found = graph.hybrid_search("capital of Norway")
        assert (found["searched"], found["hits"][0]["title"]) == (
            ["keyword", "structural"],
            "Norway",
        )
        assert "no embedder" in found["note"]
        with pytest.raises(KnowledgeError, match="nothing embeds here"):
            graph.hybrid_search("capital", "semantic")
    with Knowledge(tmp_path, Models(HASHED)) as graph:  # later it is embedded
        assert graph.hybrid_search("capital of Norway", "semantic")["hits"]


def test_ask_question_cites_or_says_that_nothing_says_so(graph):
    graph.store_knowledge(TEXT, "Norway")
    answer = graph.ask_question("Where was Sigrid Undset born?")
    assert (answer["known"], answer["answer"]) == (True, "Kalundborg")
    cited = [c["sentence"] for c in answer["citations"] if c["sentence"]]
    assert cited == ["She was born in Kalundborg in 1882."]
    unknown = graph.ask_question("Who founded Globex?")
    assert (unknown["known"], unknown["answer"], unknown["citations"]) == (False, "", [])
    with_text = graph.ask_question("Who founded Globex?", "Globex was founded by Hank Scorpio.")
    assert with_text["answer"] == "Hank Scorpio"
    graph.store_fact("Globex", "owned_by", "Hank Scorpio")
    assert graph.ask_question("Who is Globex owned by?")["answer"] == "Hank Scorpio"


def test_get_stats(graph):
    graph.store_knowledge(TEXT, "Norway")
    graph.store_fact("Oslo", "capital_of", "Norway", 0.3)
    stats = graph.get_stats(include_details=True)
    assert stats["documents"] == 2
    assert stats["details"]["founded"] == 2
    assert stats["facts"] == sum(stats["details"].values())
    assert stats["chunks"] == stats["embeddings"] == 2
    assert graph.get_stats()["details"] == {}


def test_generate_graph_query(graph):
    graph.store_knowledge(TEXT, "Norway")
    graph.store_fact("Kalundborg", "located_in", "Denmark")
    for question, rows in (
        ("What is the capital of Norway?", [["Oslo"]]),
        ("Who founded Acme?", [["Alice Smith"], ["Bob Jones"]]),
        ("How many founded Acme?", [["2"]]),
        ("Where is Kalundborg located in?", [["Denmark"]]),
    ):
        found = graph.generate_graph_query(question, "sparql")
        assert sorted(found["rows"]) == rows, found
    cypher = graph.generate_graph_query("What is the capital of Norway?", "cypher")
    assert cypher["query"] == (
        "MATCH (known:Entity {name: 'Norway'})<-[:`capital_of`]-(answer) "
        "RETURN DISTINCT answer.name LIMIT 100"
    )
    gremlin = graph.generate_graph_query("Who founded Acme?", "gremlin")
    assert gremlin["query"].startswith("g.V().has('name', 'Acme').in('founded')")
    with pytest.raises(KnowledgeError, match="no entity and no predicate"):
        graph.generate_graph_query("Why?", "sparql")


def test_validate_knowledge_and_mend(graph):
    graph.store_fact("Ada", "born_in", "London", 0.9)
    graph.store_fact("Ada", "born_in", "Paris", 0.2)
    graph.store_fact("Bob", "headquarters", "Rome", 1.0, "1990", "2000")
    graph.store_fact("Bob", "headquarters", "Oslo", 1.0, "2000")  # one after the other
    for i in range(6):
        graph.store_fact(f"city {i}", "is_a", "city")
        if i < 5:
            graph.store_fact(f"city {i}", "population", f"{i},000")
    graph.store_fact("ADA", "knows", "Cyd")
    found = graph.validate_knowledge("all")
    kinds = {(issue["kind"], issue["text"]) for issue in found["issues"]}
    assert ("contradiction", "Ada born_in: London and Paris") in kinds or (
        "contradiction", "Ada born_in: Paris and London",
    ) in kinds  # fmt: skip
    assert any(
        kind == "gap" and text.startswith("city 5 has no population") for kind, text in kinds
    )
    assert any(kind == "duplicate" and "ADA" in text for kind, text in kinds)
    assert not any("headquarters" in text for kind, text in kinds if kind == "contradiction")
    mended = graph.validate_knowledge("contradictions", entity="Ada", fix_issues=True)
    assert mended["fixed"] == 1
    assert [f["object"] for f in graph.find_facts("Ada", "born_in")["facts"]] == ["London"]
    assert graph.validate_knowledge("contradictions")["issues"] == []
    assert graph.time_travel_query("history", entity="Ada")["changes"][-1]["what"] == "superseded"


def test_get_suggestions(graph):
    graph.store_knowledge(TEXT, "Norway")
    graph.store_fact("Acme", "supplies", "Globex")
    graph.store_fact("Initech", "supplies", "Globex")
    connections = graph.get_suggestions("connections", limit=100)
    assert "Acme and Initech" in [s["text"] for s in connections]
    assert "Globex" in [s["text"] for s in graph.get_suggestions("exploration", limit=50)]
    assert graph.get_suggestions("questions", "Oslo")[0]["kind"] == "questions"
    assert graph.get_suggestions("missing_facts") == []


def test_time_travel_query(graph):
    graph.store_fact("Bob", "works_at", "Acme", 1.0, "2001", "2005")
    graph.store_fact("Bob", "works_at", "Globex", 1.0, "2005")
    snapshot = graph.time_travel_query("snapshot", "2003-06-01", "Bob")
    assert [f["object"] for f in snapshot["facts"]] == ["Acme"]
    believed = graph.find_facts("Bob", "works_at")["facts"][0]["recorded"]
    graph.retract_fact("Bob", "works_at", "Acme")
    assert graph.find_facts("Bob", at="2003")["count"] == 0
    assert graph.find_facts("Bob", at="2003", known_at=believed)["count"] == 1
    changes = graph.time_travel_query("changes", entity="Bob", time_range=["2020", "2999"])
    assert [c["what"] for c in changes["changes"]] == ["recorded", "recorded", "superseded"]
    assert graph.time_travel_query("changes", time_range=["1999", "2000"])["changes"] == []


def test_neural_importance_and_divergent_thinking(graph):
    graph.store_knowledge(TEXT, "Norway")
    known = graph.neural_importance_scoring(TEXT)
    new = graph.neural_importance_scoring("Quarks bind gluons within hadrons.")
    assert known["novelty"] == pytest.approx(0, abs=1e-3)
    assert new["novelty"] > 0.5
    assert new["importance"] > known["importance"]
    assert "no text model" in new["note"]
    graph.store_fact("Bergen", "has", "seven hills")
    ideas = graph.divergent_thinking_engine("Acme", 2)
    paths = {idea["concept"]: idea["path"] for idea in ideas["ideas"]}
    assert paths["seven hills"] == ["Acme", "based_in", "Bergen", "has", "seven hills"]


def test_memory_weighs_fits_a_budget_and_consolidates(graph):
    for i in range(6):
        graph.store_knowledge(f"The voyage of Vessel {i} took long. It met storm {i}.", f"v{i}")
    first = graph.remember("the voyage of Vessel 3", budget=40)
    assert first.tokens <= 40
    assert first.memories[0]["title"] == "v3"
    assert [m["recency"] for m in first.memories] == [0.0] * len(first.memories)
    again = graph.remember("the voyage of Vessel 3", budget=40)
    assert again.memories[0]["recency"] == pytest.approx(1, abs=0.01)
    scores = [m["score"] for m in again.memories]
    assert scores == sorted(scores, reverse=True)
    weights = memory.WEIGHTS
    best = again.memories[0]
    assert best["score"] == pytest.approx(sum(weights[name] * best[name] for name in weights))
    assert graph.consolidate() == 0  # twice is not often
    graph.remember("the voyage of Vessel 3", budget=40)
    assert graph.consolidate() == 1
    assert graph.consolidate() == 0
    joined = graph.hybrid_search("voyage Vessel", filters={"category": memory.CATEGORY})["hits"]
    assert "Vessel 3" in joined[0]["text"]


LONG = "x" * 129
REFUSED = [
    ("subject has 129 characters, at most 128", "store_fact", (LONG, "p", "o")),
    ("predicate has 65 characters, at most 64", "store_fact", ("s", "p" * 65, "o")),
    ("object has 129 characters, at most 128", "store_fact", ("s", "p", LONG)),
    ("subject is empty", "store_fact", (" \n", "p", "o")),
    ("object holds the control character U\\+0000", "store_fact", ("s", "p", "o\0")),
    ("subject holds the control character U\\+D800", "store_fact", ("\ud800", "p", "o")),
    ("confidence is 1.5", "store_fact", ("s", "p", "o", 1.5)),
    ("confidence is nan", "store_fact", ("s", "p", "o", float("nan"))),
    ("confidence is True", "store_fact", ("s", "p", "o", True)),
    ("valid_from 'soon' is not a time", "store_fact", ("s", "p", "o", 1.0, "soon")),
    ("valid_to is not after valid_from", "store_fact", ("s", "p", "o", 1.0, "2001", "2001")),
    ("content has 50,001 characters, at most 50,000", "store_knowledge", ("y" * 50_001, "t")),
    ("content is empty", "store_knowledge", ("\0\n", "t")),
    ("title is empty", "store_knowledge", ("a text", "")),
    ("title has 257 characters", "store_knowledge", ("a text", "t" * 257)),
    ("the query has no field", "find_facts", ()),
    ("the query has no field", "find_facts", ("", None, "")),
    ("101 is not a number from 1 to 100", "find_facts", ("s", None, None, 101)),
    ("0 is not a number from 1 to 100", "find_facts", ("s", None, None, 0)),
    ("'9' is not a number", "find_facts", ("s", None, None, "9")),
    ("21 is not a number from 1 to 20", "ask_question", ("who?", "", 21)),
    ("question has 2,001 characters", "ask_question", ("w" * 2001,)),
    ("there is no search type 'psychic'", "hybrid_search", ("q", "psychic")),
    ("there is no filter colour", "hybrid_search", ("q", "hybrid", {"colour": "red"})),
    ("there is no suggestion type", "get_suggestions", ("gossip",)),
    ("there is no query language 'sql'", "generate_graph_query", ("Oslo capital_of", "sql")),
    ("there is no validation type", "validate_knowledge", ("taste",)),
    ("text has 50,001 characters", "neural_importance_scoring", ("z" * 50_001,)),
    ("5 is not a number from 1 to 4", "divergent_thinking_engine", ("s", 5)),
    ("there is no query type 'future'", "time_travel_query", ("future",)),
    ("a snapshot needs a timestamp", "time_travel_query", ("snapshot",)),
    ("changes needs an entity or a time_range", "time_travel_query", ("changes",)),
    ("time_range is not two times", "time_travel_query", ("changes", None, None, ["2001"])),
]  # fmt: skip


def test_every_limit_has_its_error(graph):
    graph.store_fact("Oslo", "capital_of", "Norway")
    before = graph.get_stats()
    for message, name, given in REFUSED:
        with pytest.raises(KnowledgeError, match=message) as refused:
            getattr(graph, name)(*given)
        assert refused.value.hint, name
        assert len(str(refused.value)) < 300  # none repeats what is too long
    assert graph.get_stats() == before


@pytest.mark.parametrize(
    "form", ["jsonl", "csv", "turtle", "n-triples", "n-quads", "trig", "rdf-xml"]
)
def test_files_go_in_and_out(graph, tmp_path, form):
    graph.store_fact('Ada "the first"', "works at", "Ünïcode <&> Co, Ltd", 0.5, "2001", "2005")
    graph.store_fact("=1+1", "knows", "O'Hara; DROP TABLE fact")
    graph.store_knowledge(TEXT, "Norway")
    content = b"".join(graph.export_facts(form))
    with Knowledge(tmp_path / "other") as other:
        done = other.import_facts(content, form)
        facts = list(graph.store.facts())
        keep = (lambda f: f[:3]) if form not in ("jsonl", "csv") else (lambda f: f[:6])
        assert {keep(f) for f in other.store.facts()} == {keep(f) for f in facts}
        assert done.added == len({keep(f) for f in facts})
        assert b"".join(sorted(other.export_facts("jsonl"))) == b"".join(
            sorted(other.export_facts("jsonl"))
        )
        assert other.import_facts(content, form).added == 0


def test_rdf_terms_survive(graph):
    turtle = b"""
    @prefix ex: <http://example.org/> .
    ex:a ex:p "1"^^<http://www.w3.org/2001/XMLSchema#integer>, "chat"@fr, "plain", ex:b, _:x .
    """
    graph.import_facts(turtle, "turtle")
    first = set(b"".join(graph.export_facts("n-triples")).splitlines())
    assert len(first) == 5
    assert b'<http://example.org/a> <http://example.org/p> "chat"@fr .' in first
    found = graph.sparql("SELECT ?o { ?s <http://example.org/p> ?o FILTER(isLiteral(?o)) }")
    assert sorted(row[0] for row in found["rows"]) == ["1", "chat", "plain"]


@pytest.mark.parametrize(("form", "content", "message"), [
    ("jsonl", b'{"subject": "a"}', "line 1: predicate is not a text"),
    ("jsonl", b'{"subject": "a", "predicate": "p", "object": "o"}\n[1]', "line 2 is not an object"),
    ("jsonl", b'{"subject": "a", "predicate": "p", "object": "o", "x": 1}', "no column x"),
    ("jsonl", b"\xff\xfe", "not UTF-8"),
    ("jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ("csv", b"subject,predicate,object\na,p,\n", "line 2: object is not a text"),
    ("csv", b'subject,predicate,object\n"a', "is not CSV"),
    ("turtle", b"<a> <b> .", "not turtle"),
    ("parquet", b"", "no format"),
])  # fmt: skip
def test_files_that_are_wrong_are_refused_whole(graph, form, content, message):
    with pytest.raises(KnowledgeError, match=message):
        graph.import_facts(content, form)
    assert graph.get_stats()["facts"] == 0


def test_results_are_json(graph):
    graph.store_knowledge(TEXT, "Norway")
    for result in (graph.hybrid_search("Oslo"), graph.ask_question("Who founded Acme?"),
                   graph.get_stats(True), graph.validate_knowledge(),
                   graph.generate_graph_query("Who founded Acme?")):  # fmt: skip
        assert json.loads(json.dumps(result)) == result


def test_chunks_without_a_vector_are_looked_for_only_after_a_change(tmp_path, monkeypatch):
    """It looks at every chunk: of 100,000 that takes 40 ms."""
    looks = []
    with Knowledge(tmp_path, Models(HASHED)) as graph:
        look = graph.store.without_vector
        monkeypatch.setattr(graph.store, "without_vector", lambda *a: looks.append(1) or look(*a))
        graph.store.write(Document("t", ["a red boat"]))  # another program's, without a vector
        for _ in range(3):
            assert graph.hybrid_search("boat of red", "semantic")["hits"][0]["title"] == "t"
        found, before = len(looks), graph.get_stats()["embeddings"]
        graph.hybrid_search("boat of red", "semantic")
        assert (len(looks), before) == (found, 1)
        graph.store.write(Document("u", ["a blue house"]))
        assert graph.hybrid_search("blue house", "semantic")["hits"][0]["title"] == "u"
