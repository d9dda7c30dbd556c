"""What rules and what a small model take from 200 sentences: python -m benchmarks.extraction

The sentences are the tests' own. The model is SmolLM2-135M-Instruct at int8, shown four examples
and asked for one fact on each line; it decodes greedily.
"""

import sys
from functools import cache
from pathlib import Path

from benchmarks.knowledge import artifact
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from knowledge import extraction_gold

WRITER = "smollm2_135m_instruct", "int8-rtn"
SHOWN = (3, 8, 10, 16)  # sentences of the seen half: a fact, none, three facts, two facts
GREEDY = GenerationConfig(
    temperature=0, repetition_penalty=1.0, max_tokens=60, stop_tokens=("\n\n",)
)


def main() -> None:
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
    backend = open_backend(artifact(*WRITER), reuse_prompts=True)
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


if __name__ == "__main__":
    main()
