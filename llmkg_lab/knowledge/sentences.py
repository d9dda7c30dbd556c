"""Texts into chunks and sentences, sentences into tokens and phrases."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from llmkg_lab.knowledge import lexicon

CHUNK = 480  # characters of a chunk at most, about what an embedder reads at once
_ABBREVIATIONS = lexicon.word_set(
    "dr mr mrs ms prof st sr jr inc ltd co corp vs etc no vol fig gen col sgt rev hon mt ft "
    "e.g i.e u.s u.k approx dept est jan feb mar apr jun jul aug sep sept oct nov dec"
)
_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s+[\"'“‘(\[]?[A-Z0-9ÀÖØÞŁŚŽČ]|\s*$)|\n\s*\n")
_TOKEN = re.compile(
    r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?[a-z]{0,2}\b|"
    r"[^\W\d_](?:\.[^\W\d_])+\.?|"  # U.S.
    r"[^\W_]+(?:[-&][^\W_]+)*|'s\b|’s\b|['’]|[%$€£]|[^\w\s]"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A word or mark, and where it begins in its sentence."""

    text: str
    lower: str
    start: int
    end: int


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text; an empty line ends one, too."""
    start = 0
    for match in _END.finditer(text):
        before = text[start : match.start()].rsplit(None, 1)[-1:] or [""]
        word = before[0].lower().lstrip("(\"'“")
        is_initial = len(word) == 1 and word.isalpha() and before[0].isupper()
        if match[0] == "." and (word in _ABBREVIATIONS or is_initial) and match.end() < len(text):
            continue
        if sentence := " ".join(text[start : match.end()].split()):
            yield sentence
        start = match.end()
    if rest := " ".join(text[start:].split()):
        yield rest


def chunks(text: str, size: int = CHUNK) -> list[str]:
    """Cut a text into chunks of whole sentences; a sentence that is too long is cut at words."""
    found: list[str] = []
    for sentence in sentences(text):
        for piece in _pieces(sentence, size):
            if found and len(found[-1]) + 1 + len(piece) <= size:
                found[-1] += " " + piece
            else:
                found.append(piece)
    return found


def _pieces(sentence: str, size: int) -> Iterator[str]:
    while len(sentence) > size:
        cut = sentence.rfind(" ", size // 2, size)
        cut = cut if cut > 0 else size
        yield sentence[:cut].rstrip()
        sentence = sentence[cut:].lstrip()
    if sentence:
        yield sentence


def tokens(sentence: str) -> list[Token]:
    """The words and marks of a sentence; a possessive 's is one."""
    found = []
    for match in _TOKEN.finditer(sentence):
        text = match[0]
        found.append(Token(text, text.lower().replace("’", "'"), match.start(), match.end()))
    return found


@dataclass(frozen=True, slots=True)
class Phrase:
    """A part of a sentence.

    Args:
        kind: noun, verb, prep, and, comma, rel, possessive, mark.
        text: of a noun phrase without its article; of a verb its normal form.
        head: of a noun phrase its last word; of a verb group its first auxiliary.
        traits: of noun phrases proper, number, time, pronoun, definite, indefinite; of verbs
            passive, copula, have, negative, doubtful, participle, infinitive, finite.
    """

    kind: str
    text: str
    head: str = ""
    traits: frozenset[str] = frozenset()

    def has(self, trait: str) -> bool:
        """Whether it has a trait."""
        return trait in self.traits


def phrases(sentence: str) -> list[Phrase]:
    """Cut a sentence into noun phrases, verb groups and what stands between them."""
    words = tokens(sentence)
    found = _cut(words, lenient=False)
    if any(phrase.kind == "verb" for phrase in found):
        return found
    return _cut(words, lenient=True)  # where no word must be a verb, one that may be is


def _cut(words: list[Token], *, lenient: bool) -> list[Phrase]:
    found: list[Phrase] = []
    at = 0
    while at < len(words):
        word = words[at].lower
        verb = _verb_group(words, at, found, lenient)
        if verb:
            phrase, at = verb
            found.append(phrase)
        elif word in lexicon.RELATIVES and _opens_clause(words, at, found):
            found.append(Phrase("rel", word))
            at += 1
        elif word in lexicon.PREPOSITIONS:
            found.append(Phrase("prep", word))
            at += 1
        elif word in ("and", "or", "&", "but", "while", "whereas"):
            found.append(Phrase("and", word))
            at += 1
        elif word in lexicon.ADVERBS or (
            word.endswith("ly") and len(word) > 4 and words[at].text[0].islower()
        ):
            at += 1
        elif word == "'s" or word == "'":
            found.append(Phrase("possessive", "'s"))
            at += 1
        elif word in (",", ";", ":", "(", ")", "-", "–", "—"):
            found.append(Phrase("comma", word))
            at += 1
        elif re.match(r"\w|[$€£]", word):
            phrase, at = _noun_phrase(words, at, is_first=not found, lenient=lenient)
            found.append(phrase)
        else:
            found.append(Phrase("mark", word))
            at += 1
    return found


def _opens_clause(words: list[Token], at: int, found: list[Phrase]) -> bool:
    if words[at].lower == "that":  # else it is an article or a conjunction
        return bool(found) and found[-1].kind in ("noun", "comma", "verb")
    return True


def _verb_group(
    words: list[Token], at: int, found: list[Phrase], lenient: bool
) -> tuple[Phrase, int] | None:
    """A verb group that begins at a word, and where it ends; None where none does."""
    begin, traits, first = at, set(), ""
    verb: str | None = None
    after_noun = _last_kind(found) in ("noun", "rel", "and", "comma", "possessive")
    while at < len(words):
        word = words[at].lower
        is_name = words[at].text[0].isupper() and (at > 0 or len(words) < 2)
        if word in lexicon.AUXILIARIES and not is_name:
            first = first or word
            traits |= {"finite"} if word in lexicon.FINITE else set()
            traits |= {"doubtful"} if word in lexicon.DOUBTFUL else set()
            verb = word
        elif (word in ("not", "never", "n't", "no longer") and verb) or (
            word in ("never", "not")
            and at + 1 < len(words)
            and words[at + 1].lower in lexicon.VERBS
        ):
            traits.add("negative")
        elif verb and (word in lexicon.ADVERBS or (word.endswith("ly") and len(word) > 4)):
            pass
        elif word == "to" and verb and _is_verb(words, at + 1, base=True):
            traits.add("infinitive")
            if verb in lexicon.LEMMAS and lexicon.LEMMAS[verb] in lexicon.INTENTIONS:
                traits.add("doubtful")
        elif not is_name and _is_verb(
            words, at, after_aux=bool(first), after_noun=after_noun, lenient=lenient
        ):
            if verb and not (first or "infinitive" in traits):
                break
            if first in lexicon.BE and _is_participle(word):
                traits.add("passive")
            if not first and (word.endswith("ing") or _is_participle(word)):
                traits.add("participle")
            verb = word
            if (
                at + 1 < len(words)
                and words[at + 1].lower == "to"
                and _is_verb(words, at + 2, base=True)
            ):
                at += 1
                continue
            at += 1
            break
        else:
            break
        at += 1
    if verb is None or at == begin:
        return None
    lemma = lexicon.LEMMAS.get(verb) or lexicon.guess_lemma(verb)
    if lemma == "be":
        traits.add("copula")
    if lemma == "have" and verb in ("has", "have", "had"):
        traits.add("have")
    return Phrase("verb", lemma, first or words[begin].lower, frozenset(traits)), at


def _last_kind(found: list[Phrase]) -> str:
    return found[-1].kind if found else ""


def _is_verb(
    words: list[Token],
    at: int,
    *,
    base: bool = False,
    after_aux: bool = False,
    after_noun: bool = False,
    lenient: bool = False,
) -> bool:
    """Whether a word is a verb where it stands. lenient: it is, if it may be one."""
    if at >= len(words):
        return False
    word = words[at].lower
    if words[at].text[0].isupper() and at > 0:
        return False
    lemma = lexicon.LEMMAS.get(word)
    if base:
        return lemma == word or word in lexicon.BASES
    if lemma:
        if after_aux or word not in lexicon.NOUNS_TOO:
            return after_aux or after_noun or _is_participle(word)
        following = words[at + 1].lower if at + 1 < len(words) else "."
        return after_noun and (lenient or _opens_object(words, at + 1, following))
    if lenient and after_noun and word.endswith("s") and at + 2 < len(words):
        return _opens_object(words, at + 1, words[at + 1].lower)
    guessed = (word.endswith("ed") and len(word) > 4) and word not in lexicon.ADJECTIVES
    return guessed and (after_aux or (after_noun and at + 1 < len(words)))


def _opens_object(words: list[Token], at: int, following: str) -> bool:
    """Whether what follows an ambiguous word can be a verb's object."""
    if at >= len(words):
        return False
    return (
        following in lexicon.DETERMINERS
        or following in lexicon.PREPOSITIONS
        or words[at].text[0].isupper()
        or following[0].isdigit()
    )


def _is_participle(word: str) -> bool:
    return word in lexicon.PARTICIPLES or (word.endswith("ed") and word not in lexicon.ADJECTIVES)


def _noun_phrase(
    words: list[Token], at: int, *, is_first: bool, lenient: bool
) -> tuple[Phrase, int]:
    """A noun phrase that begins at a word, and where it ends."""
    begin, traits = at, set()
    first = words[at].lower
    if first in lexicon.PRONOUNS:
        return Phrase("noun", first, first, frozenset({"pronoun"})), at + 1
    if first in lexicon.DETERMINERS:
        at += 1
        traits.add("indefinite" if first in ("a", "an") else "definite")
        if first in lexicon.POSSESSIVES:
            traits.add("owned")
        begin = at
    while at < len(words) and _goes_on(words, at, begin, lenient):
        at += 1
    at = max(at, begin + 1) if begin < len(words) else begin
    taken = words[begin:at]
    if not taken:
        return Phrase("noun", first, first, frozenset({"pronoun"})), at
    names = [w for w in taken if w.text[0].isupper()]
    start_only = is_first and begin == 0 and taken[0].lower in lexicon.COMMON
    if names and not (len(names) == 1 and names[0] is taken[0] and start_only):
        if taken[-1].text[0].isupper() or taken[-1].text[0].isdigit():
            traits.add("proper")
        else:
            traits.add("named")
    if all(w.text[0].isdigit() or w.text in "$€£%" for w in taken):
        traits.add("number")
    elif taken[0].text[0].isdigit() or taken[0].text in "$€£":
        traits.add("quantity")
    text = " ".join(w.text for w in taken)
    text = re.sub(r"([$€£]) ", r"\1", text).replace(" %", "%")
    if re.fullmatch(
        rf"(?:\d{{1,2}} )?(?:{lexicon.MONTHS})(?: \d{{1,2}})?(?: \d{{4}})?|[12]\d{{3}}|[12]\d\d0s",
        text,
    ):
        traits.add("time")
    if start_only and "proper" not in traits:
        text = text[0].lower() + text[1:]
    return Phrase("noun", text, taken[-1].lower, frozenset(traits)), at


def _goes_on(words: list[Token], at: int, begin: int, lenient: bool) -> bool:
    """Whether a word belongs to the noun phrase that began before it."""
    word, lower = words[at], words[at].lower
    if at == begin + 1 and re.fullmatch(r"[12]\d{3}", words[begin].text):
        return False  # a year stands alone: In 1968 Kalle Holm founded …
    if at == begin:
        return re.match(r"\w|[$€£]", lower) is not None
    if lower == "%":
        return True
    if lower == "of" and begin < at < len(words) - 1:  # University of Oslo
        return (
            words[at - 1].text[0].isupper()
            and words[at + 1].text[0].isupper()
            and words[at - 1].lower in lexicon.NAME_HEADS
        )
    if lower in ("de", "von", "van", "da", "del", "la", "der") and at < len(words) - 1:
        return words[at - 1].text[0].isupper() and words[at + 1].text[0].isupper()
    if not re.match(r"\w", lower) or lower in lexicon.STOPPERS:
        return False
    if word.text[0].isupper():
        return True
    if lower in lexicon.ADVERBS or lower in lexicon.PRONOUNS or lower in lexicon.DETERMINERS:
        return False
    return not _is_verb(words, at, after_noun=True, lenient=lenient)
