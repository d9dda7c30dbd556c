"""100 questions on a corpus of our own, with the real embedder: answered, supported, refused."""

from collections import Counter

import pytest
from knowledge.answers_gold import corpus, is_supported, outcome, questions

from llmkg_lab.knowledge import answers
from llmkg_lab.knowledge.knowledge import Knowledge
from llmkg_lab.knowledge.models import Models
from llmkg_lab.knowledge.vectors import Embedder
from llmkg_lab.runtime.selection import open_backend


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        ("How tall is Brett Lee?", "The tall bowler Brett Lee was fined $8,250.", None),
        ("How tall is Brett Lee?", "The bowler Brett Lee is 187 centimetres tall.", "187"),
        ("Who replaced Stuart MacGill?", "The spin bowler Stuart MacGill was replaced.", None),
        ("Who is the Prime Minister?", "The Prime Minister is Ariel Sharon.", "Ariel Sharon"),
    ],
)
def test_what_is_asked_about_or_in_no_unit_is_no_answer(question, text, answer):
    said = answers.answer(question, [], [answers.Passage(text, "", None)], 5)
    assert said["known"] == (answer is not None), said
    assert (answer or "") in said["answer"]


@pytest.mark.slow
def test_answers_are_cited_and_what_nothing_says_is_refused(tmp_path, make_artifact):
    backend = open_backend(make_artifact("minilm", "int8-rtn").folder)
    with Knowledge(tmp_path, Models(Embedder("minilm", backend.embed))) as graph:
        for title, text in corpus():
            graph.store_knowledge(text, title)
        given = [(asked, graph.ask_question(asked.text)) for asked in questions()]
        near = graph.hybrid_search("a plant that flowers in early summer", "semantic", limit=2)
    assert len(given) == 100
    assert all(is_supported(answer) for _, answer in given if answer["known"])
    for held_out, right, refused in ((False, 0.95, 0.95), (True, 0.8, 0.9)):
        counts = Counter(outcome(q, a) for q, a in given if q.held_out == held_out)
        answerable = sum(bool(q.answers) for q, _ in given if q.held_out == held_out)
        unanswerable = sum(not q.answers for q, _ in given if q.held_out == held_out)
        assert counts["right"] / answerable >= right, counts
        assert counts["refused"] / unanswerable >= refused, counts
    assert near["hits"][0]["title"] == "Ingeborg Falk"  # no word of the query is in it
