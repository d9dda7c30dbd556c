"""How questions are answered: by the rules, by a small model, by the model where the rules refuse.

    python -m benchmarks.answers [own] [news] [--rules]

100 questions on ten texts of our own and 100 on 300 articles of news; both are the tests' own. The
model is SmolLM2-135M-Instruct at int8. It reads the two best passages, is told to say "unknown"
where they do not say it, and decodes greedily; its answer is right wherever it holds a right one,
which is generous. "Phrased": of the answers of the rules that were right, those that the model,
asked for a sentence, still gave. Intervals are Wilson's, 95 %. --rules: without the model.
"""

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
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

SHORT = GenerationConfig(temperature=0, repetition_penalty=1.0, max_tokens=24)
SETS = {
    "own": (answers_gold.corpus, answers_gold.questions),
    "news": (answers_gold.news, answers_gold.news_questions),
}
TOLD = (
    "Answer the question from the text alone, in as few words as you can. "
    "If the text does not say it, answer: unknown."
)


def main(names: list[str], writes: bool) -> None:
    embedder = open_backend(artifact(*MODELS["embedder"]))
    writer = open_backend(artifact(*WRITER)) if writes else None
    for name in names or SETS:
        corpus, questions = SETS[name]
        models = Models(Embedder("bench", embedder.embed))
        with tempfile.TemporaryDirectory() as folder, Knowledge(Path(folder), models) as graph:
            for title, text in corpus():
                graph.store_knowledge(text, title)
            rows = [Row(asked, graph.ask_question(asked.text)) for asked in questions()]
            for row in rows if writer else ():
                row.ask(graph, writer)
        for held_out in sorted({row.asked.held_out for row in rows}):
            chosen = [row for row in rows if row.asked.held_out == held_out]
            _tell(f"{name}, {'held out' if held_out else 'seen'}", chosen)


@dataclass
class Row:
    """A question and what became of it: by the rules, by the model, phrased by the model."""

    asked: answers_gold.Asked
    answer: dict
    by_model: str = ""
    is_kept: bool | None = None  # by the model's sentence; None where the rules were not right

    @property
    def by_rules(self) -> str:
        """The outcome of the rules."""
        return answers_gold.outcome(self.asked, self.answer)

    def ask(self, graph: Knowledge, writer: CachedBackend) -> None:
        """Let the model answer, and phrase."""
        question = self.asked.text
        passages = [found.chunk.text for found in graph.search.search(question, limit=2).ranked]
        text = f"{TOLD}\n\nText: {' '.join(passages)}\n\nQuestion: {question}"
        self.by_model = _outcome(self.asked, _asked(writer, text))
        if self.by_rules == "right":
            ours = self.answer["answer"]
            told = f"{ours} is the answer to: {question} Say it in one sentence."
            self.is_kept = key_of(ours) in key_of(_asked(writer, told))


def _asked(writer: CachedBackend, text: str) -> str:
    return writer.generate_text([{"role": "user", "content": text}], SHORT)


def _outcome(asked: answers_gold.Asked, said: str) -> str:
    if "unknown" in said.lower() or not said.strip():
        return "silent" if asked.answers else "refused"
    is_right = any(key_of(form) in key_of(said) for form in asked.answers)
    return "right" if is_right else "wrong"


def _tell(title: str, rows: list[Row]) -> None:
    for row in rows:
        if row.by_rules == "wrong":
            print(f"wrong: {row.asked.text} {row.answer['answer']!r} for {row.asked.answers}")
    ways = {"rules": [row.by_rules for row in rows]}
    if rows[0].by_model:
        ways["model"] = [row.by_model for row in rows]
        refused = ("refused", "silent")
        ways["rules, else model"] = [
            row.by_model if row.by_rules in refused else row.by_rules for row in rows
        ]
    answerable = sum(bool(row.asked.answers) for row in rows)
    for way, outcomes in ways.items():
        counts = Counter(outcomes)
        shares = (
            ("right, of answerable", counts["right"], answerable),
            ("wrong, of all", counts["wrong"], len(rows)),
            ("refused, of unanswerable", counts["refused"], len(rows) - answerable),
        )
        words = "; ".join(f"{what} {share(k, n)}" for what, k, n in shares)
        print(f"{title}, {way}: {words}", flush=True)
    given = [row.answer for row in rows if row.answer["known"]]
    supported = sum(map(answers_gold.is_supported, given))
    print(f"{title}, rules: supported {share(supported, len(given))}")
    if kept := [row.is_kept for row in rows if row.is_kept is not None]:
        print(f"{title}, phrased: still right {share(sum(kept), len(kept))}", flush=True)


def share(count: int, total: int) -> str:
    """A share with Wilson's interval: 3 of 4: 75 % (30 – 95)."""
    p, z = count / total, 1.96
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{count} of {total}: {p:.0%} ({100 * low:.0f} – {100 * high:.0f})"


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--rules"], "--rules" not in sys.argv)
