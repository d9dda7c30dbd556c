"""How questions are answered: by the rules, by a small model, by the model where the rules refuse.

    python -m benchmarks.answers [own] [news]

100 questions on ten texts of our own and 100 on 300 articles of news; both are the tests' own. The
model is SmolLM2-135M-Instruct at int8. It reads the three best passages, is told to say "unknown"
where they do not say it, and decodes greedily; its answer is right wherever it holds a right one,
which is generous. "Phrased": of the answers of the rules that were right, those that the model,
asked for a sentence, still gave. Intervals are Wilson's, 95 %.
"""

import sys
import tempfile
from collections import Counter
from math import sqrt
from pathlib import Path

from benchmarks.extraction import WRITER
from benchmarks.knowledge import MODELS, artifact
from llmkg_lab.knowledge.facts import key_of
from llmkg_lab.knowledge.knowledge import Knowledge
from llmkg_lab.knowledge.models import Models
from llmkg_lab.knowledge.vectors import Embedder
from llmkg_lab.runtime.backend import CachedBackend
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from knowledge import answers_gold

SHORT = GenerationConfig(temperature=0, repetition_penalty=1.0, max_tokens=32)
SETS = {
    "own": (answers_gold.corpus, answers_gold.questions),
    "news": (answers_gold.news, answers_gold.news_questions),
}
TOLD = (
    "Answer the question from the text alone, in as few words as you can. "
    "If the text does not say it, answer: unknown."
)


def main(names: list[str]) -> None:
    embedder = open_backend(artifact(*MODELS["embedder"]))
    writer = open_backend(artifact(*WRITER))
    for name in names or SETS:
        corpus, questions = SETS[name]
        models = Models(Embedder("bench", embedder.embed))
        with tempfile.TemporaryDirectory() as folder, Knowledge(Path(folder), models) as graph:
            for title, text in corpus():
                graph.store_knowledge(text, title)
            rows = [(asked, *_answered(graph, writer, asked)) for asked in questions()]
        for held_out in sorted({asked.held_out for asked, *_ in rows}):
            chosen = [row for row in rows if row[0].held_out == held_out]
            _tell(f"{name}, {'held out' if held_out else 'seen'}", chosen)


def _answered(
    graph: Knowledge, writer: CachedBackend, asked: answers_gold.Asked
) -> tuple[str, str, bool | None]:
    """The outcome by the rules and by the model, and whether a phrased answer is still right."""
    ours = graph.ask_question(asked.text)
    by_rules = answers_gold.outcome(asked, ours)
    passages = [found.chunk.text for found in graph.search.search(asked.text, limit=3).ranked]
    said = _asked(writer, f"{TOLD}\n\nText: {' '.join(passages)}\n\nQuestion: {asked.text}")
    phrased = None
    if by_rules == "right":
        told = f"{ours['answer']} is the answer to: {asked.text} Say it in one sentence."
        phrased = key_of(ours["answer"]) in key_of(_asked(writer, told))
    if by_rules == "wrong":
        print(f"wrong: {asked.text} {ours['answer']!r} for {asked.answers}")
    return by_rules, _outcome(asked, said), phrased


def _asked(writer: CachedBackend, text: str) -> str:
    return writer.generate_text([{"role": "user", "content": text}], SHORT)


def _outcome(asked: answers_gold.Asked, said: str) -> str:
    if "unknown" in said.lower() or not said.strip():
        return "silent" if asked.answers else "refused"
    is_right = any(key_of(form) in key_of(said) for form in asked.answers)
    return "right" if is_right else "wrong"


def _tell(title: str, rows: list) -> None:
    answerable = sum(bool(asked.answers) for asked, *_ in rows)
    ways = {
        "rules": [rules for _, rules, _, _ in rows],
        "model": [model for _, _, model, _ in rows],
        "rules, else model": [
            model if rules in ("refused", "silent") else rules for _, rules, model, _ in rows
        ],
    }
    for way, outcomes in ways.items():
        counts = Counter(outcomes)
        shares = (
            ("right, of answerable", counts["right"], answerable),
            ("wrong, of all", counts["wrong"], len(rows)),
            ("refused, of unanswerable", counts["refused"], len(rows) - answerable),
        )
        words = "; ".join(f"{what} {share(k, n)}" for what, k, n in shares)
        print(f"{title}, {way}: {words}", flush=True)
    phrased = [kept for *_, kept in rows if kept is not None]
    print(f"{title}, phrased: still right {share(sum(phrased), len(phrased))}", flush=True)


def share(count: int, total: int) -> str:
    """A share with Wilson's interval: 3 of 4: 75 % (30 – 95)."""
    p, z = count / total, 1.96
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{count} of {total}: {p:.0%} ({100 * low:.0f} – {100 * high:.0f})"


if __name__ == "__main__":
    main(sys.argv[1:])
