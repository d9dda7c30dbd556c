"""One continuation of a prompt: from logits to tokens, from tokens to text, and when it ends."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llmkg_lab.runtime.text.sampling import Sampler
from llmkg_lab.runtime.text.stopping import StopStrings
from llmkg_lab.runtime.text.tokenizer import DetokenizeStream, Tokenizer

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Plan:
    """How to continue a prompt, as ``GenerationConfig`` and OpenAI's parameters have it."""

    max_tokens: int
    temperature: float | None = 0.7
    top_k: int | None = 50
    top_p: float | None = 0.95
    repetition_penalty: float = 1.1
    presence_penalty: float = 0.0  # taken off the logits of tokens that were generated
    frequency_penalty: float = 0.0  # the same, for each time
    bias: tuple[tuple[int, float], ...] = ()  # added to the logits of tokens
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ends: frozenset[int] = frozenset()  # tokens that end it, and are not shown
    scores: int | None = None  # of how many likely tokens the log-probabilities are wanted

    @property
    def repeatable(self) -> bool:
        """Whether the same request is to give the same text."""
        return self.seed is not None or not self.temperature


@dataclass(frozen=True)
class Score:
    """A token, its log-probability, and the likeliest tokens with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """What a continuation has more since the last piece; ``finish`` in the last one."""

    choice: int
    text: str = ""
    tokens: int = 0
    scores: tuple[Score, ...] = ()
    finish: Finish | None = None


@dataclass
class Continuation:
    """One of the answers to a prompt, in the making."""

    choice: int
    plan: Plan
    prompt: Sequence[int]
    tokenizer: Tokenizer
    room: int  # tokens that the cache holds
    tokens: int = 0
    finish: Finish | None = None
    _scores: list[Score] = field(default_factory=list)
    _unsaid: int = 0  # tokens since the last piece

    def __post_init__(self) -> None:
        plan = self.plan
        self._sampler = Sampler(
            plan.temperature, plan.top_k, plan.top_p, plan.repetition_penalty, plan.seed
        )
        self._history = np.empty(len(self.prompt) + plan.max_tokens, np.int64)
        self._history[: len(self.prompt)] = self.prompt
        self._text = DetokenizeStream(self.tokenizer, self.prompt)
        self._stop = StopStrings(plan.stop)

    def take(self, logits: np.ndarray) -> int:
        """Choose the next token after ``logits``, (vocab,) float32."""
        length = len(self.prompt) + self.tokens
        token = self._sampler(self._adjusted(logits), self._history[:length])
        if token in self.plan.ends:
            self.finish = "stop"
            return token
        self._history[length] = token
        self.tokens, self._unsaid = self.tokens + 1, self._unsaid + 1
        if self.plan.scores is not None:
            self._scores.append(_score(logits, token, self.plan.scores))
        if self.tokens == self.plan.max_tokens or length == self.room:
            self.finish = "length"
        return token

    def piece(self, token: int) -> Piece | None:
        """The text that ``token`` completes, None where that is nothing yet."""
        ended = self.finish == "stop"
        text = "" if ended else self._stop.push(self._text.push(token))
        if self.finish and not self._stop.stopped:
            text += self._stop.push(self._text.flush()) + self._stop.flush()
        if self._stop.stopped:
            self.finish = "stop"
        if not text and not self.finish:
            return None
        piece = Piece(self.choice, text, self._unsaid, tuple(self._scores), self.finish)
        self._unsaid, self._scores = 0, []
        return piece

    def _adjusted(self, logits: np.ndarray) -> np.ndarray:
        plan = self.plan
        if not (plan.bias or plan.presence_penalty or plan.frequency_penalty):
            return logits
        adjusted = logits.copy()
        for token, bias in plan.bias:
            adjusted[token] += bias
        start = len(self.prompt)
        generated = self._history[start : start + self.tokens]
        tokens, counts = np.unique(generated, return_counts=True)
        adjusted[tokens] -= plan.presence_penalty + plan.frequency_penalty * counts
        return adjusted


def _score(logits: np.ndarray, token: int, count: int) -> Score:
    """Log-probabilities by the model's own logits, before any penalty or temperature."""
    highest = logits.max()
    total = highest + np.log(np.exp(logits - highest, dtype=np.float64).sum())
    likely = np.argpartition(-logits, count)[:count] if count else np.empty(0, np.int64)
    likely = likely[np.argsort(-logits[likely], kind="stable")]
    top = tuple((int(i), float(logits[i] - total)) for i in likely)
    return Score(token, float(logits[token] - total), top)
