"""Prompt in, text out, piece by piece."""

import json
from collections.abc import Collection, Iterator, Sequence
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
) -> Iterator[str]:
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
    return _stream(tokens, DetokenizeStream(tokenizer, ids), stop)


def end_tokens(artifact: Artifact, tokenizer: Tokenizer | None = None) -> set[int]:
    """The ids that end a text: by generation_config.json or else by config.json.

    With a ``tokenizer`` also its end of text, and special tokens that have the name of one.
    """
    path = artifact.folder / "generation_config.json"
    try:
        generation = json.loads(path.read_bytes()) if path.exists() else {}
        ends = generation.get("eos_token_id", artifact.config.get("eos_token_id"))
        found = {
            int(end) for end in (ends if isinstance(ends, list) else [ends]) if end is not None
        }
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


def _stream(tokens: Iterator[int], text: DetokenizeStream, stop: StopStrings) -> Iterator[str]:
    for token in tokens:
        if piece := stop.push(text.push(token)):
            yield piece
        if stop.stopped:
            return
    if rest := stop.push(text.flush()) + stop.flush():
        yield rest
