"""Questions answered from what is stored, word for word, with what says so; or not at all.

No model phrases an answer, so that each can be checked against what it cites. A question is taken
apart into the kind of thing that it asks for and the words that it is about; an answer is the other
end of a fact, or a name, number or time of a sentence, that has all of them.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llmkg_lab.knowledge import lexicon
from llmkg_lab.knowledge.extraction import LONGEST, extract
from llmkg_lab.knowledge.facts import Fact, key_of
from llmkg_lab.knowledge.results import Answer, Citation
from llmkg_lab.knowledge.sentences import Phrase, phrases, sentences, tokens
from llmkg_lab.knowledge.words import STOP_WORDS, stem

Kind = Literal["name", "place", "time", "number", "thing"]
ENOUGH = 0.75  # of a question's words, by weight, that what supports an answer has to have
SURE = 0.9  # the same for a sentence in which the answer is not the end of a fact
_ALIKE = [  # words that ask for the same
    "die death dead", "bear birth", "live reside home inhabit", "found establish create set start",
    "author write book novel", "paint painter", "compose composer", "direct director",
    "invent inventor", "discover discoverer", "tall high height", "population inhabitant people",
    "build construct erect", "locate lie stand situate", "work employ", "study educate attend",
    "win receive award", "marry wife husband spouse", "teach professor lecture", "big large area",
    "cost price", "begin start open", "end close stop", "lead head", "name call", "long length",
]  # fmt: skip
_GROUP: dict[str, str] = {}
_LENGTH = re.compile(r"\b(\w*met(re|er)s?|feet|foot|inch(es)?|miles?|yards?|[ckm]?m|ft)\b")
_UNITS = {  # what a measure has to be in
    **dict.fromkeys(("tall", "high", "deep", "wide", "height", "depth"), _LENGTH),
    "heavy": re.compile(r"\b(\w*grams?|\w*tonn?es?|tons?|pounds?|kg|kilos?)\b"),
    "area": re.compile(r"\b(square|hectares?|acres?)\b"),
}
_NUMBER = re.compile(r"\d")
_TIME = re.compile(rf"\b[12]\d{{3}}\b|\b(?:{lexicon.MONTHS})\b")


@dataclass(frozen=True)
class Question:
    """A question taken apart.

    Args:
        words: the normal forms of what it is about, without its question words.
        names: the names and numbers in it, each of which an answer's support must have.
        unit: of how many what, how tall.
        runs: the names again, with those that follow each other as one.
    """

    text: str
    kind: Kind
    words: frozenset[str]
    names: tuple[str, ...]
    unit: str = ""
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passage:
    """A text that may hold an answer."""

    text: str
    title: str
    chunk: int | None


@dataclass(frozen=True)
class Candidate:
    """A possible answer: what it is, how well it is supported, and by what."""

    answer: str
    score: float
    citation: Citation


def parse(question: str) -> Question:
    """Take a question apart."""
    words = [token.text for token in tokens(question)]
    lower = [word.lower() for word in words]
    kind, unit = _kind(lower)
    skip = (
        STOP_WORDS | _ASKING | ({unit} if kind == "number" and unit in ("tall", "high") else set())
    )
    about = [word for word in lower if re.match(r"\w", word) and word not in skip]
    if kind == "time":
        about = [word for word in about if word not in ("year", "date", "day", "time")]
    if kind in ("place", "name"):
        about = [
            word for word in about if word not in ("city", "country", "place", "person", "town")
        ]
    names = tuple(_names(words))
    return Question(question, kind, frozenset(map(normal, about)), names, unit, _runs(words))


def answer(question: str, facts: Sequence[Fact], passages: Sequence[Passage], limit: int) -> Answer:
    """Answer a question from facts and passages, or say that nothing says so."""
    asked = parse(question)
    if not asked.words:
        return _unknown("the question has no words that could be looked for")
    candidates = [*_from_facts(asked, facts), *_from_passages(asked, passages)]
    best = max((c.score for c in candidates), default=0.0)
    if best < ENOUGH:
        return _unknown(
            "nothing stored says so"
            + (f"; the nearest: {_nearest(asked, passages)}" if passages else "")
        )
    chosen = next(c for c in candidates if c.score == best)
    agreeing = [c for c in candidates if key_of(c.answer) == key_of(chosen.answer)]
    citations: list[Citation] = []
    for candidate in sorted(agreeing, key=lambda c: -c.score):
        if candidate.score >= ENOUGH and candidate.citation not in citations:
            citations.append(candidate.citation)
    return Answer(
        known=True,
        answer=chosen.answer,
        confidence=round(min(best, 1.0), 3),
        citations=citations[:limit],
        reason="word for word from what is cited",
    )


def normal(word: str) -> str:
    """What forms of a word, and words that ask for the same, have in common."""
    base = stem(lexicon.LEMMAS.get(word, word))
    return _GROUP.get(base, base)


for _same in _ALIKE:
    _stems = [stem(_word) for _word in _same.split()]
    _GROUP.update(dict.fromkeys(_stems, _stems[0]))
_GROUP[stem("born")] = _GROUP[stem("bear")]

_ASKING = lexicon.word_set(
    "much many far name named tell me please give called kind type s does did do"
) - {"name"}


def _kind(words: Sequence[str]) -> tuple[Kind, str]:
    text = " ".join(words)
    if re.search(r"\bwhen\b|\b(what|which) (year|date|day)\b|\bin what year\b", text):
        return "time", ""
    if found := re.search(
        r"\bhow (many|much|tall|high|long|old|far|large|big|deep|wide|heavy)\b(?: (\w+))?", text
    ):
        return "number", found[2] or "" if found[1] in ("many", "much") else found[1]
    found = re.search(r"\b(population|height|length|area|depth)\b", text)
    if found and "what" in words:
        return "number", found[1] if found[1] in _UNITS else ""
    if re.search(r"\bwhere\b|\b(what|which) (city|country|town|place|village|island)\b", text):
        return "place", ""
    if re.search(r"\bwhom?\b|\bwhose\b|\b(what|which) (person|company|author|university)\b", text):
        return "name", ""
    return "thing", ""


def _names(words: Sequence[str]) -> Iterator[str]:
    """Capitalized words and numbers of a question, but for its first word."""
    for at, word in enumerate(words):
        if word[:1].isdigit() or (at and word[:1].isupper() and word.lower() not in STOP_WORDS):
            yield key_of(word)


def _runs(words: Sequence[str]) -> tuple[str, ...]:
    """Names of a question; those that stand beside each other are one."""
    runs: list[list[str]] = [[]]
    for word in words[1:]:
        if word[:1].isupper():
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return tuple(" ".join(run) for run in runs if run)


def _coverage(asked: Question, said: Iterable[str]) -> float:
    """The share of a question's words that a text has; names weigh double."""
    have = {normal(word) for word in said}
    names = {normal(word) for name in asked.names for word in name.split()}
    weights = {word: 2.0 if word in names else 1.0 for word in asked.words}
    total = sum(weights.values())
    return sum(weight for word, weight in weights.items() if word in have) / total


def _words(text: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[^\W_]+", text)]


def _has_names(asked: Question, text: str) -> bool:
    have = {normal(word) for word in key_of(text).split()}
    return all(normal(word) in have for name in asked.names for word in name.split())


def _fits(asked: Question, value: str) -> bool:
    """Whether a value is of the kind that is asked for, and not in the question."""
    words = {normal(word) for word in _words(value)} - {normal(word) for word in STOP_WORDS}
    if not words or words <= asked.words:
        return False
    if asked.kind == "name" and any(_only_names(value, run) for run in asked.runs):
        return False  # who is asked for is not who is asked about
    if asked.kind == "time":
        return _TIME.search(value) is not None
    if asked.kind == "number":
        measure = _UNITS.get(asked.unit)
        is_measured = measure is None or measure.search(value.lower()) is not None
        return _NUMBER.search(value) is not None and is_measured
    if asked.kind in ("name", "place"):
        return value[:1].isupper() or not _NUMBER.search(value)
    return True


def _only_names(value: str, run: str) -> bool:
    """Whether a value names nobody but whom a question names: the bowler Stuart MacGill."""
    before, found, behind = f" {value} ".partition(f" {run} ")
    return bool(found) and not re.search(r"[A-Z]", before + behind)


def _from_facts(asked: Question, facts: Sequence[Fact]) -> Iterator[Candidate]:
    for fact in facts:
        said = f"{fact.subject.text} {fact.predicate.replace('_', ' ')} {fact.object.text}"
        citation = Citation(chunk=fact.source, title="", sentence="", fact=said)
        yield from _ends(
            asked, (fact.subject.text, fact.predicate, fact.object.text), said, citation,
            fact.confidence,
        )  # fmt: skip


def _ends(
    asked: Question, fact: tuple[str, str, str], support: str, citation: Citation, trust: float
) -> Iterator[Candidate]:
    """The ends of a fact that may be the answer: the other end is what is asked about."""
    subject, predicate, value = fact
    if not _has_names(asked, support):
        return
    relation = {normal(word) for word in predicate.split("_") if word not in STOP_WORDS}
    if relation and not relation & asked.words and predicate != "is_a":
        return
    for end, other in ((value, subject), (subject, value)):
        near = {normal(word) for word in _words(other)}
        if not near & asked.words or not _fits(asked, end):
            continue
        if not _may_end(asked, predicate, is_value=end is value):
            continue
        if asked.kind in ("name", "place") and not end[:1].isupper():
            continue
        score = _coverage(asked, _words(support)) * (0.9 + 0.1 * trust)
        yield Candidate(end, score + 0.05, citation)


def _may_end(asked: Question, predicate: str, *, is_value: bool) -> bool:
    """Whether the kind that is asked for may stand at this end of a predicate."""
    preposition = predicate.rpartition("_")[2]
    if preposition not in lexicon.PREPOSITIONS:
        return not (is_value and asked.kind == "place")
    said = preposition in _words(asked.text) or preposition == "of"
    if is_value:
        return said or asked.kind not in ("name", "thing")
    return said


def _from_passages(asked: Question, passages: Sequence[Passage]) -> Iterator[Candidate]:
    for passage in passages:
        for found in extract(passage.text):
            support = f"{found.sentence} {found.subject} {passage.title}"
            citation = _cite(passage, found.sentence)
            fact = found.subject, found.predicate, found.object
            if found.valid_from and asked.kind == "time":
                yield from _ends(asked, (*fact[:2], found.valid_from), support, citation, 1.0)
            yield from _ends(asked, fact, support, citation, 1.0)
        before = ""
        for sentence in sentences(passage.text):
            yield from _spans(asked, sentence, before, passage)
            before = sentence


def _spans(asked: Question, sentence: str, before: str, passage: Passage) -> Iterator[Candidate]:
    """Names, numbers and times of a sentence that has all that is asked about."""
    parts = phrases(sentence[:LONGEST])
    is_about_before = any(part.has("pronoun") for part in parts[:2])
    context = f"{sentence} {passage.title}" + (f" {before}" if is_about_before else "")
    covered = _coverage(asked, _words(context))
    if covered < SURE or not _has_names(asked, context):
        return
    if asked.kind == "thing":
        if covered >= 1.0 and not asked.text.lower().startswith(("why", "how")):
            yield Candidate(sentence, covered - 0.1, _cite(passage, sentence))
        return
    matched = [
        i for i, part in enumerate(parts) if {normal(w) for w in _words(part.text)} & asked.words
    ]
    best: tuple[float, Phrase] | None = None
    for at, part in enumerate(parts):
        if (
            part.kind != "noun"
            or not _fits(asked, part.text)
            or not _of_kind(asked, part, parts, at)
        ):
            continue
        distance = min((abs(at - i) for i in matched), default=len(parts))
        if best is None or distance < best[0]:
            best = (distance, part)
    if best is not None:
        is_measured = bool(asked.unit) and asked.unit in _words(sentence)
        score = covered - 0.05 + 0.02 * is_measured
        yield Candidate(best[1].text, score, _cite(passage, sentence))


def _of_kind(asked: Question, part: Phrase, parts: Sequence[Phrase], at: int) -> bool:
    if asked.kind == "number":
        if part.has("time") and not part.has("quantity"):
            return False
        unit = normal(asked.unit) if asked.unit else ""
        is_counted = not unit or unit in {normal(word) for word in _words(part.text)}
        return _NUMBER.match(part.text.lstrip("$€£")) is not None and (
            is_counted or asked.unit in _MEASURES
        )
    if asked.kind == "time":
        return part.has("time")
    if asked.kind == "place":
        return (
            part.has("proper") and at > 0 and parts[at - 1].kind == "prep" and not part.has("time")
        )
    return part.has("proper") and not part.has("time")


_MEASURES = lexicon.word_set("tall high long old far large big deep wide heavy area height depth")


def _cite(passage: Passage, sentence: str) -> Citation:
    return Citation(chunk=passage.chunk, title=passage.title, sentence=sentence, fact="")


def _nearest(asked: Question, passages: Sequence[Passage]) -> str:
    said = [s for passage in passages[:3] for s in sentences(passage.text)]
    return max(said, key=lambda s: _coverage(asked, _words(s)), default="")[:200]


def _unknown(reason: str) -> Answer:
    return Answer(known=False, answer="", confidence=0.0, citations=[], reason=reason)
