"""Facts from sentences, by rules over their structure.

What is said in a main clause, of a name, by a verb that is known: ``Ada Lovelace wrote the first
program`` gives (Ada Lovelace, write, first program). What is denied, doubted, asked or wished is
left out; precision comes before recall.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from llmkg_lab.knowledge import lexicon
from llmkg_lab.knowledge.facts import (
    NAME_LIMIT,
    PREDICATE_LIMIT,
    KnowledgeError,
    moment,
)
from llmkg_lab.knowledge.sentences import Phrase, phrases, sentences

LONGEST = 1_000  # characters of what is taken for a sentence
CONFIDENCE = 0.8  # of what a rule read in a text
SPANS = lexicon.word_set("since from until till to during before after")
PLACES = lexicon.word_set("in at on near")


Said = tuple[Phrase, str, Phrase]  # subject, predicate, object


@dataclass(frozen=True)
class Found:
    """A fact that a sentence says: texts, and the time for which it says so."""

    subject: str
    predicate: str
    object: str
    valid_from: str | None = None
    valid_to: str | None = None
    sentence: str = ""
    is_name: tuple[bool, bool] = (True, True)  # whether subject and object are names


def extract(text: str) -> list[Found]:
    """Return what a text says, each thing once, in the order in which it says it."""
    found: dict[tuple[str, str, str], Found] = {}
    topic: Phrase | None = None
    kinds: dict[str, Phrase] = {}
    for sentence in sentences(text):
        if len(sentence) > LONGEST:
            continue
        reader = Reader(sentence, topic, kinds)
        for fact in reader.read():
            found.setdefault((fact.subject, fact.predicate, fact.object), fact)
        topic = reader.topic
    return list(found.values())


def names(text: str) -> list[str]:
    """Return the names in a text, each once."""
    found: dict[str, None] = {}
    for sentence in sentences(text):
        for phrase in phrases(sentence[:LONGEST]):
            if phrase.has("proper") and not phrase.has("time"):
                found[phrase.text] = None
    return [name for name in found if len(name) <= NAME_LIMIT]


@dataclass
class Reader:
    """One sentence, read from left to right.

    topic: what ``he`` and ``it`` mean at its beginning; at its end, in the next sentence.
    kinds: what ``the town`` means, once something was said to be a town; it grows.
    """

    sentence: str
    topic: Phrase | None = None
    kinds: dict[str, Phrase] = field(default_factory=dict)
    parts: list[Phrase] = field(default_factory=list)
    at: int = 0
    found: list[Found] = field(default_factory=list)

    def read(self) -> list[Found]:
        """Return what the sentence says."""
        self.parts = phrases(self.sentence)
        if self.sentence.endswith("?") or not self.parts or self.parts[0].text in ("if", "unless"):
            return []
        self._lead()
        subjects = self._subjects()
        while subjects and self.at < len(self.parts):
            before = self.at
            self._clause(subjects)
            if self.at == before:
                break
            subjects = self._next_subjects(subjects)
        return self.found

    # what stands where

    def _part(self, ahead: int = 0) -> Phrase | None:
        at = self.at + ahead
        return self.parts[at] if at < len(self.parts) else None

    def _is(self, kind: str, text: str | None = None, ahead: int = 0) -> bool:
        part = self._part(ahead)
        return part is not None and part.kind == kind and (text is None or part.text == text)

    def _lead(self) -> None:
        """Skip what stands before the subject, such as a time."""
        if self._is("prep") or self._is("rel"):
            for at, part in enumerate(self.parts):
                if part.kind == "comma" and part.text == ",":
                    self.lead = tuple(self.parts[:at])
                    self.at = at + 1
                    return
                if part.kind == "verb" and self.parts[0].kind == "prep":
                    if len(self.parts) > 2 and self.parts[1].has("time"):  # In 1968 Holm …
                        self.lead, self.at = tuple(self.parts[:2]), 2
                    return

    lead: Sequence[Phrase] = ()

    def _nouns(self, *, kinds: bool = False) -> list[Phrase]:
        """Noun phrases that are joined: A, B and C. kinds: they may have articles."""
        found: list[Phrase] = []
        while self._is("noun"):
            noun = self._noun()
            found.append(noun)
            step = 0
            if self._is("comma", ",") and self._is("noun", ahead=1):
                joined = self._list_ends(kinds)
                step = 1 if joined else 0
            elif self._is("and", "and") and self._is("noun", ahead=1):
                step = 0 if self._is("verb", ahead=2) and self._begins_clause() else 1
            elif self._is("comma", ",") and self._is("and", "and", 1) and self._is("noun", ahead=2):
                step = 2 if len(found) > 1 else 0
            if not step:
                break
            self.at += step
        return found

    def _begins_clause(self) -> bool:
        """Whether ``and B verb`` is a clause of its own, not the end of a list before a verb."""
        return any(part.kind == "verb" for part in self.parts[: self.at])

    def _list_ends(self, kinds: bool) -> bool:
        """Whether the commas ahead are those of a list: an ``and`` comes before the next verb."""
        depth = 0
        for part in self.parts[self.at :]:
            if part.kind in ("verb", "rel", "prep", "mark", "possessive"):
                return False
            if part.has("indefinite") and depth == 0 and not kinds:
                return False
            if part.kind == "noun":
                depth += 1
            if part.kind == "and":
                return True
        return False

    def _noun(self) -> Phrase:
        """One noun phrase with the names that belong to it: Norway's capital, the N of S."""
        noun = self.parts[self.at]
        self.at += 1
        return self._meant(noun)

    def _meant(self, noun: Phrase) -> Phrase:
        """What a pronoun stands for."""
        if noun.has("pronoun") and noun.text in ("he", "she", "it", "they") and self.topic:
            return self.topic
        if noun.has("definite") and noun.text == noun.head:
            return self.kinds.get(noun.head, noun)
        return noun

    def _subjects(self) -> list[Phrase]:
        """The subjects of the next clause, with what their apposition says."""
        while self._part() and not self._is("noun"):
            if self._is("verb"):
                return []
            self.at += 1
        if not self._part():
            return []
        if relation := self._relation():
            return [relation]
        subjects = self._nouns()
        if not subjects or all(noun.has("pronoun") for noun in subjects):
            return []
        subjects = [noun for noun in subjects if not noun.has("pronoun")]
        if self._is("prep", "of") and self._is("noun", ahead=1):  # the lighthouse of Cape Var
            subjects[-1] = self._with_owner(subjects[-1])
        if len(subjects) == 1 and (subjects[0].has("proper") or not self.topic):
            self.topic = subjects[0]
        for _ in range(3):  # appositions, participles, relative clauses
            before = self.at
            self._beside(subjects)
            if self.at == before:
                break
        return subjects

    def _with_owner(self, noun: Phrase) -> Phrase:
        """A noun with the name that says which one: the lighthouse of Cape Var."""
        self.at += 1
        owner = self._noun()
        proper = noun.traits | ({"proper"} if owner.has("proper") else set())
        return replace(noun, text=f"{noun.text} of {owner.text}", traits=frozenset(proper))

    def _relation(self) -> Phrase | None:
        """The N of S, or S's N, where a copula follows; the copula's reading is done here."""
        begin = self.at
        noun = self._noun()
        if self._is("possessive") and self._is("noun", ahead=1):
            self.at += 1
            relation, of = self._noun(), [noun]
        elif self._is("prep", "of") and self._is("noun", ahead=1) and not noun.has("proper"):
            self.at += 1
            relation, of = noun, self._nouns()
        else:
            self.at = begin
            return None
        verb = self._part()
        if not (verb and verb.kind == "verb" and verb.has("copula") and self._is("noun", ahead=1)):
            self.at = begin
            if self.parts[begin + 1].kind == "possessive":
                self.at = begin + 2  # Norway's king said …: the king
            return None
        self.at += 1
        values = self._nouns()
        if not (verb.has("negative") or verb.has("doubtful")):
            for owner in of:
                for value in values:
                    self._related(owner, relation, value)
        self.topic = of[0]
        return of[0]

    def _related(self, owner: Phrase, relation: Phrase, value: Phrase) -> None:
        name = relation.text
        if value.has("proper") and not value.has("time"):
            self._say(value, f"{name} of", owner)
        else:
            self._say(owner, name, value)

    # what follows a subject

    def _beside(self, subjects: list[Phrase]) -> None:
        """An apposition, a participle or a relative clause behind the subject."""
        comma = 1 if self._is("comma") else 0
        if (
            self._is("rel", "who", comma)
            or self._is("rel", "which", comma)
            or (self._is("rel", "that", comma))
        ):
            if self._is("verb", ahead=comma + 1):
                self.at += comma + 1
                self._predicate(subjects)
                self._close_aside(comma)
            return
        part = self._part(comma)
        if (
            part
            and part.kind == "verb"
            and part.has("participle")
            and (comma or self._has_verb_after(comma + 1))
        ):
            if not part.has("finite") and self._participle_follows(comma):
                self.at += comma
                self._predicate(subjects, aside=True)
                self._close_aside(comma)
            return
        if comma and self._is("noun", ahead=1) and self._is_apposition(subjects):
            self.at += 1
            self._complement(subjects)
            self._close_aside(comma)

    def _participle_follows(self, comma: int) -> bool:
        """Whether a participle describes the noun before it, and a finite verb is yet to come."""
        part = self._part(comma)
        return (
            part is not None
            and self._has_verb_after(comma + 1)
            and (comma == 1 or self._is("prep", ahead=comma + 1))
        )

    def _has_verb_after(self, ahead: int) -> bool:
        return any(
            part.kind == "verb" and (part.has("finite") or not part.has("participle") or True)
            for part in self.parts[self.at + ahead :]
        )

    def _is_apposition(self, subjects: list[Phrase]) -> bool:
        noun = self._part(1)
        if noun is None or noun.has("pronoun") or noun.has("proper"):
            return False
        for ahead in range(2, len(self.parts) - self.at):
            part = self._part(ahead)
            if part and part.kind == "comma":
                return True
            if part and part.kind == "verb":
                return False
        return True

    def _close_aside(self, comma: int) -> None:
        if comma and self._is("comma"):
            self.at += 1

    def _clause(self, subjects: list[Phrase]) -> None:
        """One verb group of these subjects, with its objects."""
        if self._is("verb"):
            self._predicate(subjects)

    def _next_subjects(self, subjects: list[Phrase]) -> list[Phrase]:
        """Whose the next verb is: the same after ``and``, new ones after a comma or ``and``."""
        while self._part():
            if self._is("rel"):
                return self._in_relative(subjects)
            joins = self._is("and") or self._is("comma")
            ahead = 1 if joins else 0
            if joins and self._is("and", ahead=1):
                ahead = 2
            if self._is("verb", ahead=ahead) and joins:
                self.at += ahead
                return subjects
            if joins and self._is("noun", ahead=ahead) and self._verb_soon(ahead + 1):
                self.at += ahead
                return self._subjects()
            self.at += 1
        return []

    def _in_relative(self, subjects: list[Phrase]) -> list[Phrase]:
        """A relative clause behind an object: its subject is the object."""
        word = self.parts[self.at].text
        self.at += 1
        if word in ("who", "which", "that") and self._is("verb") and self.last:
            return [self.last]
        if word in ("where", "when", "because", "although", "though", "that") and self._is("noun"):
            return self._subjects()
        return []

    last: Phrase | None = None  # the object that was read last

    def _verb_soon(self, ahead: int) -> bool:
        for part in self.parts[self.at + ahead :]:
            if part.kind == "verb":
                return not part.has("participle") or part.has("finite") or True
            if part.kind in ("comma", "rel", "mark"):
                return False
        return False

    # predicates

    def _predicate(self, subjects: list[Phrase], *, aside: bool = False) -> None:
        """A verb group and what belongs to it. aside: it describes the noun before it."""
        verb = self.parts[self.at]
        self.at += 1
        kept = len(self.found)
        if verb.text in lexicon.SAYING and self._is("rel", "that"):
            self.at = len(self.parts)  # what somebody says is not what is so
        elif verb.has("copula"):
            self._complement(subjects)
        elif verb.has("passive") or self._is_bare_passive(verb, aside):
            self._passive(subjects, verb)
        else:
            self._active(subjects, verb)
        if verb.has("negative") or verb.has("doubtful"):
            del self.found[kept:]

    def _is_bare_passive(self, verb: Phrase, aside: bool) -> bool:
        """Whether a verb without ``was`` is passive: ``founded by``, ``based in``."""
        if not verb.has("participle") or verb.has("finite") or verb.head.endswith("ing"):
            return False
        return self._is("prep", "by") or (aside and self._is("prep")) or verb.head in _STATIVE

    def _complement(self, subjects: list[Phrase]) -> None:
        """What stands behind ``is``: a kind, a relation, a place."""
        if self._is("prep"):
            preposition = self.parts[self.at].text
            if preposition in PLACES and self._is("noun", ahead=1):
                self.at += 1
                for place in self._nouns():
                    for subject in subjects:
                        self._say(subject, f"located {preposition}", place)
            return
        if not self._is("noun"):
            return
        kinds = self._nouns(kinds=True)
        relation = kinds[-1]
        if self._is("possessive"):
            self.at += 1
            if self._is("noun"):
                role = self._noun()
                for subject in subjects:
                    self._say(subject, f"{role.text} of", kinds[0])
            return
        if self._is("prep") and self.parts[self.at].text in (
            "of",
            "for",
            "in",
            "at",
            "by",
            "to",
            "from",
            "between",
        ):
            preposition = self.parts[self.at].text
            if preposition == "of" and self._is("noun", ahead=1):
                self.at += 1
                owners = self._nouns()
                for subject in subjects:
                    if relation.head == "one" or relation.text == "one":
                        continue
                    for owner in owners:
                        self._say(subject, f"{relation.text} of", owner)
                self._described(subjects)
                return
            if self._is("noun", ahead=1):
                for subject in subjects:
                    for kind in kinds:
                        self._is_a(subject, kind)
                self.at += 1
                places = self._nouns()
                for subject in subjects:
                    for place in places:
                        if place.has("time"):
                            continue
                        if preposition in PLACES:
                            self._say(subject, f"located {preposition}", place)
                        else:
                            self._say(subject, f"{relation.text} {preposition}", place)
                self.last = places[-1] if places else None
                return
        for subject in subjects:
            for kind in kinds:
                self._is_a(subject, kind)
        self.last = kinds[-1]
        self._described(subjects)

    def _is_a(self, subject: Phrase, kind: Phrase) -> None:
        if kind.has("quantity") or kind.has("number"):
            return
        if subject.has("proper") and kind.has("indefinite"):
            self.kinds[kind.head] = subject
        if kind.has("proper") and not subject.has("proper"):  # the mayor is Henrik Moen
            subject, kind = kind, subject
        self._say(subject, "is a", kind)

    def _described(self, subjects: list[Phrase]) -> None:
        """A participle behind a kind: a city located in Norway, a novel written by Undset."""
        part = self._part()
        if part and part.kind == "verb" and part.has("participle") and self._is("prep", ahead=1):
            self.at += 1
            self._passive(subjects, part)

    def _passive(self, subjects: list[Phrase], verb: Phrase) -> None:
        """Founded by A in B: A is who does it."""
        said: list[Said] = []
        times = self._lead_times()
        if verb.text in _NAMING and self._is("noun"):
            name = "called" if verb.text in ("name", "call") else verb.text
            said += [(s, name, value) for value in self._nouns() for s in subjects]
        for preposition, values in self._details():
            for value in values:
                self._note_time(times, preposition, value)
                if preposition == "by":
                    said += [(value, verb.text, subject) for subject in subjects]
                else:
                    name = f"{_participle(verb)} {preposition}"
                    said += [(subject, name, value) for subject in subjects]
        self._say_all(said, times)

    def _active(self, subjects: list[Phrase], verb: Phrase) -> None:
        """A verb with its object; without one, with what its prepositions bring."""
        name = verb.text
        objects = self._nouns() if self._is("noun") else []
        if objects and self._is("possessive") and self._is("noun", ahead=1):
            self.at += 1
            objects = [*objects[:-1], self._noun()]
        if objects and self._is("prep", "of") and self._is("noun", ahead=1):
            self.at += 1
            inner = self._noun()
            if verb.has("have"):  # has a population of 700,000
                name, objects = objects[-1].text, [inner]
            else:
                objects[-1] = replace(objects[-1], text=f"{objects[-1].text} of {inner.text}")
        said: list[Said] = [(s, name, value) for s in subjects for value in objects]
        times = self._lead_times()
        last = objects[-1] if objects else None
        for preposition, values in self._details():
            self._note_time(times, preposition, values[0])
            is_span = values[0].has("time") and preposition in SPANS
            if not objects and not (is_span and said):
                said += [(s, f"{name} {preposition}", v) for s in subjects for v in values]
            last = values[-1]
        self.last = last
        self._say_all(said, times)

    def _details(self) -> Iterator[tuple[str, list[Phrase]]]:
        """The prepositions behind a verb, each with its nouns."""
        while self._is("prep") and self._is("noun", ahead=1):
            preposition = self.parts[self.at].text
            self.at += 1
            values = self._nouns()
            if self._is("possessive") and self._is("noun", ahead=1):  # by Eiffel's company
                self.at += 1
                values = [replace(self._noun(), traits=frozenset({"owned"}))]
            self.last = values[-1]
            yield preposition, values

    def _lead_times(self) -> list[str | None]:
        """The time that stands before the subject."""
        times: list[str | None] = [None, None]
        for preposition, value in zip(self.lead, self.lead[1:], strict=False):
            if preposition.kind == "prep" and value.has("time"):
                self._note_time(times, preposition.text, value)
        return times

    def _note_time(self, times: list[str | None], preposition: str, value: Phrase) -> None:
        """Note when what is said began, or ended, to hold."""
        at = _iso(value.text) if value.has("time") else None
        if at and preposition in ("in", "on", "since", "from", "after", "during"):
            times[0] = times[0] or at
        elif at and preposition in ("until", "till", "to", "before"):
            times[1] = at

    def _say_all(self, said: list[Said], times: list[str | None]) -> None:
        """Say what was read; what is itself a time does not hold from a time on."""
        begin, end = times
        for subject, predicate, value in said:
            if value.has("time"):
                self._say(subject, predicate, value)
            else:
                self._say(subject, predicate, value, begin, end)

    def _say(
        self,
        subject: Phrase,
        predicate: str,
        value: Phrase,
        valid_from: str | None = None,
        valid_to: str | None = None,
    ) -> None:
        subject, value = self._meant(subject), self._meant(value)
        if subject.has("pronoun") or value.has("pronoun") or subject.text == value.text:
            return
        if subject.has("owned") or subject.has("time") or subject.has("number"):
            return
        words = predicate.lower().split()
        name = "_".join([_NAMES.get(words[0], words[0]), *words[1:]])
        sizes = len(subject.text), len(value.text), len(name)
        if sizes[0] > NAME_LIMIT or sizes[1] > NAME_LIMIT or sizes[2] > PREDICATE_LIMIT:
            return
        are_names = subject.has("proper"), value.has("proper")
        self.found.append(
            Found(subject.text, name, value.text, valid_from, valid_to, self.sentence, are_names)
        )


_NAMES = {"found": "founded", "have": "has"}  # what its base form would say otherwise
_STATIVE = lexicon.word_set("based located situated born named called known")
_NAMING = lexicon.word_set("name call award elect appoint")


def _participle(verb: Phrase) -> str:
    """The participle under which a passive is stored: born_in, located_in, named_after."""
    return verb.text if verb.text == "born" else _PARTICIPLE.get(verb.text, _regular(verb.text))


def _regular(lemma: str) -> str:
    if lemma.endswith("e"):
        return lemma + "d"
    if lemma.endswith("y") and lemma[-2:-1] not in "aeiou":
        return lemma[:-1] + "ied"
    return lemma + "ed"


_PARTICIPLE = {
    lexicon.LEMMAS[form]: form for form in sorted(lexicon.PARTICIPLES) if form in lexicon.LEMMAS
}


def _iso(text: str) -> str | None:
    """A time as ISO 8601, where it is a year, or a date with one."""
    words = text.split()
    months = lexicon.MONTHS.split("|")
    year = next((w for w in words if len(w) == 4 and w.isdigit()), None)
    if year is None:
        return None
    month = next((months.index(w) + 1 for w in words if w in months[:12]), None)
    day = next((int(w) for w in words if w.isdigit() and len(w) < 3), None)
    iso = year + (f"-{month:02}" if month else "") + (f"-{day:02}" if month and day else "")
    try:
        moment(iso)
    except KnowledgeError:
        return None
    return iso
