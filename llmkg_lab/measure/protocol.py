"""The evaluation protocol: what a model reads when it is measured, whoever measures.

A decoder reads windows of a running text. Each window is a text of its own, so it begins with
what the model's tokenizer puts before a text: BOS for Llama 2's, nothing for SmolLM's. The
tokenizer decides, as when transformers tokenizes a text; config.json names a BOS for models that
were never trained with one. An encoder reads scored pairs of sentences.

The original's own tokenizer cuts the same texts, and must come to the same tokens.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile, zip_longest
from operator import itemgetter
from typing import Any

import numpy as np
import tokenizers

from llmkg_lab.base.errors import LabError
from llmkg_lab.data import texts
from llmkg_lab.data.texts import Pairs, Text, TextError
from llmkg_lab.measure.speed import Workload
from llmkg_lab.quantize.solve.text import PROSE
from llmkg_lab.reference.tokens import OriginalTokenizer, Tokens
from llmkg_lab.roster.catalog import Evaluation
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.tokenizer import Tokenizer

Span = tuple[int, int]  # of characters: first, and behind the last


class TokensDifferError(LabError):
    """An artifact that cuts a text into other tokens than the original's own tokenizer does."""


@dataclass(frozen=True)
class Reading:
    """What a decoder reads: windows of ``text``, and prompts to continue."""

    text: Text
    windows: np.ndarray  # (windows, tokens) int64
    prompts: list[list[int]]  # token ids; of a model that chats, each asked by its template
    opening: tuple[str, ...] = ()  # the tokens that begin each window and prompt
    judge: str = ""  # the original's tokenizer, where it has come to the same tokens

    def __str__(self) -> str:
        count, size = self.windows.shape
        read = f"{count * size:,} tokens in {count} windows of {size}"
        begins = "its own text, for the tokenizer puts nothing before one"
        if self.opening:
            begins = f"{' '.join(self.opening)}, which the tokenizer puts before a text"
        return f"{self.text.origin}, second half: {read}; each begins with {begins}"


@dataclass(frozen=True)
class Protocol:
    """How the models of one evaluation are measured, the same for all who ask.

    quick: a smoke run. It is enough to see that everything works, and far too little to judge by.
    """

    evaluation: Evaluation
    quick: bool = False

    @cached_property
    def plan(self) -> Evaluation:
        """The evaluation as it is carried out: the same, or what a smoke run does of it."""
        if not self.quick:
            return self.evaluation
        return replace(
            self.evaluation,
            tokens=256,
            window=128,
            prompts=self.evaluation.prompts[:2],
            continuation=16,
            sentences=40,
        )

    @cached_property
    def text(self) -> Text:
        """The running text, of which decoders read the second half. Raises TextError."""
        return texts.load(self.plan.corpora)

    @cached_property
    def elsewhere(self) -> Text | None:
        """A running text of another kind than ``text``; None where there is not a second one.

        What is calibrated reads ``text``'s first half, and fits that kind better than others.
        """
        others = [name for name in self.plan.corpora if name != self.text.name]
        try:
            return texts.load(others) if others else None
        except TextError:
            return None

    @cached_property
    def prose(self) -> list[str]:
        """Sentences of the kind that encoders are calibrated on, from the other half of the text.

        None where no text is here: nothing is calibrated then either.
        """
        from llmkg_lab.quantize.solve.encoder import sentences_of  # torch

        try:
            found = sentences_of(texts.load(PROSE).evaluation)
        except TextError:
            return []
        return found[: self.plan.sentences]

    @cached_property
    def pairs(self) -> Pairs:
        """The scored sentence pairs that encoders read. Raises TextError."""
        return texts.load_pairs(self.plan.corpora).spread(self.plan.sentences)

    def reading(self, tokenizer: Tokenizer) -> Reading:
        """Return what a decoder with this tokenizer reads.

        Raises TextError where there is no text, or one that is too short.
        """
        plan, opening = self.plan, opening_of(tokenizer)
        ids = tokenizer.encode(self.text.evaluation, special=False)
        return Reading(
            text=self.text,
            windows=texts.windows(ids, plan.window, plan.tokens, opening),
            prompts=[_prompt(tokenizer, prompt) for prompt in plan.prompts],
            opening=tuple(str(tokenizer.core.id_to_token(token)) for token in opening),
        )

    def reading_elsewhere(
        self, tokenizer: Tokenizer, original: OriginalTokenizer
    ) -> Reading | None:
        """Return as many windows of ``elsewhere``, after both tokenizers agreed; no prompts."""
        if self.elsewhere is None:
            return None
        plan, opening = self.plan, opening_of(tokenizer)
        text = self.elsewhere
        agree(f"the text {text.name}", text.evaluation, tokenizer, original)
        ids = tokenizer.encode(text.evaluation, special=False)
        windows = texts.windows(ids, plan.window, plan.tokens, opening)
        tokens = tuple(str(tokenizer.core.id_to_token(token)) for token in opening)
        return Reading(text, windows, [], tokens, original.judge)

    def agreed_reading(self, tokenizer: Tokenizer, original: OriginalTokenizer) -> Reading:
        """Return the same, after the original's tokenizer has come to the same tokens.

        Raises TokensDifferError where it has not, and CheckpointError where it cannot be opened.
        """
        reading = self.reading(tokenizer)
        agree("the letter a with what stands around it", "a", tokenizer, original, special=True)
        agree(f"the text {self.text.name}", self.text.evaluation, tokenizer, original)
        for prompt in self.plan.prompts:
            agree(f"the prompt {prompt!r}", prompt, tokenizer, original)
            agree_to_ask(prompt, tokenizer, original)
        return replace(reading, judge=original.judge)

    @property
    def effort(self) -> dict[str, Any]:
        """Arguments of ``speed.measure``: a full measurement, or a few samples of one process."""
        if not self.quick:
            return {}
        few = Workload(prompt_tokens=32, prefills=1, decode_steps=10, embeddings=10, batches=2)
        return {"workload": few, "processes": 1}


def asked(tokenizer: Tokenizer, prompt: str) -> str | None:
    """A prompt as the chat template asks it, None where the model was not taught to chat."""
    try:
        return tokenizer.chat([{"role": "user", "content": prompt}])
    except InferenceError:
        return None


def _prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    if (question := asked(tokenizer, prompt)) is not None:
        return tokenizer.encode(question, special=False)
    return opened(tokenizer, prompt)[0]


def opening_of(tokenizer: Tokenizer) -> list[int]:
    """Return the ids that a tokenizer puts before a text, whatever the text."""
    encoding = tokenizer.core.encode("a")
    pieces = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
    return [token for token, _ in takewhile(itemgetter(1), pieces)]


def opened(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[Span]]:
    """Return the ids of a text behind its opening, and which characters each one stands for."""
    opening = opening_of(tokenizer)
    encoding = tokenizer.core.encode(text, add_special_tokens=False)
    return [*opening, *encoding.ids], [(0, 0)] * len(opening) + encoding.offsets


def agree(
    what: str, text: str, tokenizer: Tokenizer, original: OriginalTokenizer, special: bool = False
) -> None:
    """Raise TokensDifferError where an artifact and its original cut a text differently.

    what: the text's name, for the message.
    special: with what the two put around it.
    """
    ours, theirs = (Tokens(reader.encode(text, special)) for reader in (tokenizer, original))
    check_tokens(what, ours, theirs, tokenizer.core)


def agree_to_ask(prompt: str, tokenizer: Tokenizer, original: OriginalTokenizer) -> None:
    """Raise TokensDifferError where an artifact and its original ask a prompt differently."""
    if tokenizer.chats != original.chats:
        whose = "the artifact" if tokenizer.chats else "the original's own tokenizer"
        raise TokensDifferError(
            f"{whose} alone has a chat template",
            "the tokenizer's files were read wrongly: convert the checkpoint again",
        )
    if (question := asked(tokenizer, prompt)) is not None:  # else the template refuses it
        ours, theirs = tokenizer.encode(question, special=False), original.ask(prompt)
        what = f"the prompt {prompt!r}, asked by the chat template"
        check_tokens(what, Tokens(ours), Tokens(theirs), tokenizer.core)


def check_tokens(what: str, ours: Tokens, theirs: Tokens, core: tokenizers.Tokenizer) -> None:
    """Raise TokensDifferError where two readings of a text differ, and say where.

    core: knows what the tokens stand for.
    """

    def shown(token: tuple[int, int | None] | None) -> str:
        if token is None:
            return "missing"
        kind = "" if token[1] is None else f" of type {token[1]}"
        return f"{token[0]} ({core.id_to_token(token[0])!r}){kind}"

    if ours == theirs:
        return
    sides = (zip_longest(side.ids, side.types) for side in (ours, theirs))
    place, (mine, other) = next(
        (place, pair) for place, pair in enumerate(zip_longest(*sides)) if pair[0] != pair[1]
    )
    raise TokensDifferError(
        f"{what}: token {place:,} is {shown(mine)} for the artifact, and {shown(other)} for the "
        "original's own tokenizer",
        "the tokenizer was converted wrongly: the model would read other tokens than it knows",
    )
