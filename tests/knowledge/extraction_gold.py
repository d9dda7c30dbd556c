"""Sentences with what they say, and how well extraction finds it."""

import random
from dataclasses import dataclass
from pathlib import Path

from llmkg_lab.knowledge.extraction import extract

DATA = Path(__file__).parent / "data"
DRAWS = 2000

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Sentence:
    text: str
    facts: frozenset[Triple]
    held_out: bool


def read(path: Path = DATA / "sentences.txt") -> list[Sentence]:
    """The sentences; those behind the empty line between them are held out."""
    blocks = path.read_text().split("\n\n")[1:]
    found = []
    for number, block in enumerate(blocks):
        lines = block.strip("\n").split("\n")
        starts = [i for i, line in enumerate(lines) if not line.startswith(" ")]
        for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
            facts = frozenset(normal(line.split(" | ")) for line in lines[start + 1 : end])
            found.append(Sentence(lines[start], facts, number == 1))
    return found


def normal(triple) -> Triple:
    subject, predicate, value = (part.strip().lower() for part in triple)
    return subject, predicate, value


def said(text: str) -> frozenset[Triple]:
    return frozenset(normal((f.subject, f.predicate, f.object)) for f in extract(text))


def counts(sentences: list[Sentence], extracted=said) -> list[tuple[int, int, int]]:
    """For each sentence: facts found rightly, found, and there."""
    found = [(sentence.facts, extracted(sentence.text)) for sentence in sentences]
    return [(len(gold & ours), len(ours), len(gold)) for gold, ours in found]


def figures(rows: list[tuple[int, int, int]]) -> dict[str, tuple[float, float, float]]:
    """Precision, recall and F1, each with its 95 % bootstrap interval over sentences."""
    draw = random.Random(0)
    draws = [_scores(draw.choices(rows, k=len(rows))) for _ in range(DRAWS)]
    result = {}
    for name, value in _scores(rows).items():
        values = sorted(scores[name] for scores in draws)
        result[name] = value, values[int(0.025 * DRAWS)], values[int(0.975 * DRAWS)]
    return result


def _scores(rows) -> dict[str, float]:
    right, ours, gold = (sum(column) for column in zip(*rows, strict=True))
    precision, recall = right / max(1, ours), right / max(1, gold)
    both = 2 * precision * recall / max(1e-9, precision + recall)
    return {"precision": precision, "recall": recall, "F1": both}
