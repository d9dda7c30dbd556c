"""Prompt in, text out, piece by piece."""

import json
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.sampling import Sampler
from llmkg_lab.runtime.text.stopping import StopStrings
from llmkg_lab.runtime.text.tokenizer import DetokenizeStream, Message, Tokenizer

ENDS = ("</s>", "<|endoftext|>")  # LLMKG's default stop texts
ANSWER = "An answer 4711."  # as no template would write it


@dataclass(frozen=True)
class GenerationConfig:
    """How to continue a prompt; names and defaults are LLMKG's. See ``Sampler``.

    stop_tokens: texts that end the generation, special tokens among them; none is shown. The
        model's own ends always end it (``end_tokens``), and so do LLMKG's default stop texts where
        they are special tokens of the model. As plain text they do not: HTML may hold them.
    """

    temperature: float | None = 0.7  # 0 or None: greedy
    top_k: int | None = 50
    top_p: float | None = 0.95
    repetition_penalty: float = 1.1
    max_tokens: int = 1024
    seed: int | None = None
    stop_tokens: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InferenceError(f"max_tokens is {self.max_tokens}", "it has to be 1 or more")

    def sampler(self) -> Sampler:
        """A sampler at the start of its seed's sequence."""
        return Sampler(self.temperature, self.top_k, self.top_p, self.repetition_penalty, self.seed)


class TokenGenerator(Protocol):
    """What continues token ids: a decoder of any runtime."""

    @property
    def artifact(self) -> Artifact:
        """The artifact that it runs."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_tokens: int,
        sampler: Sampler | None = None,
        stop_ids: Collection[int] = (),
    ) -> Iterator[int]:
        """Continue a prompt as ``SequenceDecoder.generate`` does."""


def generate_text(
    decoder: TokenGenerator,
    tokenizer: Tokenizer,
    prompt: str | Sequence[Message],
    config: GenerationConfig | None = None,
) -> "TextStream":
    """Continue a text, or answer a conversation, and yield the text as it grows.

    Raises InferenceError on a bad option or prompt, before anything is yielded. Ctrl-C ends it
    between two tokens; the decoder is then ready for the next prompt.
    """
    config = config or GenerationConfig()
    ends = end_tokens(decoder.artifact, tokenizer)
    if isinstance(prompt, str):
        ids = tokenizer.encode(prompt)
    else:  # the template writes the special tokens itself
        ids = tokenizer.encode(tokenizer.chat(prompt), special=False)
        ends |= turn_ends(tokenizer)
    # Special tokens never come out as text, so they are watched for as tokens.
    stops = (tokenizer.token_id(stop) for stop in config.stop_tokens)
    ends |= {stop for stop in stops if stop is not None}
    stop = StopStrings(config.stop_tokens)
    tokens = decoder.generate(ids, config.max_tokens, config.sampler(), ends)
    return TextStream(tokens, DetokenizeStream(tokenizer, ids), stop, len(ids))


def end_tokens(artifact: Artifact, tokenizer: Tokenizer | None = None) -> set[int]:
    """The ids that end a text: by generation_config.json or else by config.json.

    With a ``tokenizer`` also its end of text, and special tokens that have the name of one.
    """
    path = artifact.folder / "generation_config.json"
    try:
        generation = json.loads(path.read_bytes()) if path.exists() else {}
        ends = generation.get("eos_token_id", artifact.config.get("eos_token_id"))
        found = {*(ends if isinstance(ends, list) else [ends])} - {None}
        if wrong := [end for end in found if type(end) is not int]:
            raise ValueError(f"eos_token_id is {wrong[0]!r}")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InferenceError(
            f"{path} does not say what ends a text: {error}", "convert the checkpoint again"
        ) from error
    if tokenizer is not None:
        named = {*ENDS, tokenizer.special_tokens().get("eos_token", "")}
        found |= {end for name in named if (end := tokenizer.special_id(name)) is not None}
    return found


def turn_ends(tokenizer: Tokenizer) -> set[int]:
    """The special token that the chat template writes behind an answer; none where it is text."""
    asked, answer = ({"role": role, "content": ANSWER} for role in ("user", "assistant"))
    try:
        written = tokenizer.chat([asked, answer], add_generation_prompt=False)
    except InferenceError:  # a template for questions alone
        return set()
    behind = tokenizer.encode(written.rpartition(ANSWER)[2].lstrip(), special=False)
    return {token for token in behind[:1] if tokenizer.is_special(token)}


class TextStream(Iterator[str]):
    """A text as it grows, with what making it took so far.

    The clock runs from the first piece that is asked for.
    """

    def __init__(
        self,
        tokens: Iterator[int],
        text: DetokenizeStream,
        stop: StopStrings,
        prompt_tokens: int = 0,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.tokens = 0  # made by now, those that are not shown counted
        self._source = tokens
        self._started = self._first = self._last = 0.0
        self._pieces = self._made(text, stop)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Make no more."""
        self._pieces.close()

    @property
    def speed(self) -> "Speed":
        """How fast it was."""
        after = self._last - self._first
        rate = (self.tokens - 1) / after if self.tokens > 1 and after > 0 else None
        return Speed(self.tokens, self._first - self._started, rate)

    def _made(self, text: DetokenizeStream, stop: StopStrings) -> Generator[str, None, None]:
        self._started = self._first = self._last = time.perf_counter()
        for token in self._source:
            self._last = time.perf_counter()
            self._first = self._last if self.tokens == 0 else self._first
            self.tokens += 1
            if piece := stop.push(text.push(token)):
                yield piece
            if stop.stopped:
                return
        if rest := stop.push(text.flush()) + stop.flush():
            yield rest


@dataclass(frozen=True)
class Speed:
    """Tokens, the seconds until the first, and how many came a second from then on."""

    tokens: int
    first_seconds: float
    tokens_per_second: float | None  # None of fewer than two

    def __str__(self) -> str:
        if not self.tokens:
            return "no token"
        counted = "1 token" if self.tokens == 1 else f"{self.tokens} tokens"
        rate = self.tokens_per_second
        then = "" if rate is None else f", then {rate:.1f} tokens/s"
        return f"{counted}, the first after {self.first_seconds:.2f} s{then}"
