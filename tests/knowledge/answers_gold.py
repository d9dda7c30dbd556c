"""Questions on a corpus of our own and on news, and how they are answered."""

from dataclasses import dataclass
from pathlib import Path

from llmkg_lab.data import texts
from llmkg_lab.knowledge.facts import key_of

DATA = Path(__file__).parent / "data"
SEEN = 40  # questions that were there while the rules were written


@dataclass(frozen=True)
class Asked:
    text: str
    answers: tuple[str, ...]  # none: nothing says so
    held_out: bool


def questions() -> list[Asked]:
    """On our own corpus."""
    return _read("questions.txt", SEEN)


def news_questions() -> list[Asked]:
    """On the news."""
    return _read("news_questions.txt", 0)


def _read(name: str, seen: int) -> list[Asked]:
    lines = [line for line in (DATA / name).read_text().splitlines() if line[:1] != "#"]
    found = []
    for number, line in enumerate(lines):
        text, _, answers = line.removesuffix(" -").partition(" = ")
        forms = tuple(filter(None, answers.split(" / ")))
        found.append(Asked(text, forms, number >= seen))
    return found


def corpus() -> list[tuple[str, str]]:
    """Titles and texts."""
    parts = (DATA / "corpus.md").read_text().split("# ")[1:]
    return [tuple(part.strip().split("\n\n", 1)) for part in parts]


def news() -> list[tuple[str, str]]:
    """The same of 300 articles of news, which gensim's package holds."""
    lines = texts.load(("lee_background",)).text.splitlines()
    return [(f"News {i}", line) for i, line in enumerate(filter(str.strip, lines))]


def outcome(asked: Asked, answer) -> str:
    """right, wrong (another answer, or one where there is none), refused, or silent."""
    if not answer["known"]:
        return "silent" if asked.answers else "refused"
    return "right" if any(_same(answer["answer"], form) for form in asked.answers) else "wrong"


def _same(given: str, wanted: str) -> bool:
    """Whether an answer is what is wanted; words around it may be there, as in 240 people."""
    ours, theirs = key_of(given).split(), key_of(wanted).split()
    return ours == theirs or (
        len(ours) <= len(theirs) + 3
        and any(ours[i : i + len(theirs)] == theirs for i in range(len(ours)))
    )


def is_supported(answer) -> bool:
    """Whether what is cited holds the answer, word for word."""
    cited = [key_of(f"{c['sentence']} {c['fact']} {c['title']}") for c in answer["citations"]]
    return any(key_of(answer["answer"]) in text for text in cited)
