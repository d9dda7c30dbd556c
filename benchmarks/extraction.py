"""What rules and what a small model take from 200 sentences, and how 100 questions are answered.

    python -m benchmarks.extraction [--answers]

The sentences, questions and corpus are the tests' own. The model is SmolLM2-135M-Instruct at int4,
shown four examples and asked for one fact on each line; it decodes greedily.
"""

import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

from benchmarks.knowledge import MODELS, _artifact
from llmkg_lab.knowledge.knowledge import Knowledge
from llmkg_lab.knowledge.models import Models
from llmkg_lab.knowledge.vectors import Embedder
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from knowledge import answers_gold, extraction_gold

SHOWN = (3, 8, 10, 16)  # sentences of the seen half: a fact, none, three facts, two facts
GREEDY = GenerationConfig(
    temperature=0, repetition_penalty=1.0, max_tokens=60, stop_tokens=("\n\n",)
)


def main() -> None:
    if "--answers" in sys.argv:
        answers()
        return
    sentences = extraction_gold.read()
    ask = asked_model(sentences)
    for name, extracted in (("rules", extraction_gold.said), ("SmolLM2-135M", ask)):
        for held_out in (False, True):
            chosen = [s for s in sentences if s.held_out == held_out]
            if name != "rules" and not held_out:
                continue  # its examples are among them
            figures = extraction_gold.figures(extraction_gold.counts(chosen, extracted))
            words = ", ".join(
                f"{metric} {value:.2f} ({low:.2f} – {high:.2f})"
                for metric, (value, low, high) in figures.items()
            )
            print(
                f"{name}, {'held out' if held_out else 'seen'}, {len(chosen)}: {words}", flush=True
            )


def asked_model(sentences):
    """A function from a text to the facts that the model writes."""
    backend = open_backend(_artifact(*MODELS["writer"]))
    shown = "\n\n".join(_example(sentences[i]) for i in SHOWN)
    prompt = "Each sentence is followed by its facts: subject | predicate | object.\n\n" + shown

    @cache
    def ask(text: str) -> frozenset:
        said = backend.generate_text(f"{prompt}\n\nSentence: {text}\nFacts:", GREEDY)
        lines = [line.split(" | ") for line in said.splitlines() if line.count(" | ") == 2]
        return frozenset(extraction_gold.normal(line) for line in lines)

    return ask


def _example(sentence) -> str:
    facts = "\n".join(" | ".join(fact) for fact in sorted(sentence.facts)) or "none"
    return f"Sentence: {sentence.text}\nFacts:\n{facts}"


def answers() -> None:
    backend = open_backend(_artifact(*MODELS["embedder"]))
    models = Models(Embedder("bench", backend.embed))
    with tempfile.TemporaryDirectory() as folder, Knowledge(Path(folder), models) as graph:
        for title, text in answers_gold.corpus():
            graph.store_knowledge(text, title)
        for held_out in (False, True):
            chosen = [q for q in answers_gold.questions() if q.held_out == held_out]
            given = [(q, graph.ask_question(q.text)) for q in chosen]
            counts = Counter(answers_gold.outcome(q, a) for q, a in given)
            supported = [answers_gold.is_supported(a) for _, a in given if a["known"]]
            half = "held out" if held_out else "seen"
            print(half, dict(counts), f"supported {sum(supported)} of {len(supported)}")


if __name__ == "__main__":
    main()
