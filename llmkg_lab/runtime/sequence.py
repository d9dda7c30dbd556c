"""What decoders share: a token at a time, and the loop of a generation."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.sampling import Sampler

TokenIds = Sequence[int] | np.ndarray  # of one sequence, (tokens,)


class SequenceDecoder(ABC):
    """A causal language model over the cache of one sequence.

    A subclass sets ``vocab`` and ``max_length`` (tokens that fit the cache), and appends tokens.
    """

    vocab: int
    max_length: int
    _generation: object = None  # the one whose tokens are in the cache

    @property
    @abstractmethod
    def length(self) -> int:
        """Tokens in the cache."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the sequence."""

    @abstractmethod
    def prefill(self, ids: TokenIds) -> np.ndarray:
        """Append several tokens; return the logits after the last, (vocab,) float32.

        Raises InferenceError on no tokens, a token outside the vocabulary, or more tokens than
        the cache has room for.
        """

    def step(self, token: int) -> np.ndarray:
        """Append one token; as ``prefill([token])``."""
        return self.prefill((token,))

    def generate(
        self,
        prompt_ids: TokenIds,
        max_tokens: int,
        sampler: Sampler | None = None,
        stop_ids: Collection[int] = (),
    ) -> Iterator[int]:
        """Continue a prompt, token by token, greedily unless there is a sampler.

        Ends after ``max_tokens``, before a token of ``stop_ids``, or where the cache is full.
        A prompt that is empty or too long raises InferenceError at once, a generation that
        another call overtook when it goes on.
        """
        prompt = np.asarray(prompt_ids, np.int64)
        check_tokens(prompt, self.vocab, len(prompt), self.max_length)
        return self._continue(prompt, max_tokens, sampler or Sampler(), stop_ids)

    def start(self, prompt: np.ndarray) -> np.ndarray:
        """Begin a sequence; return what of its ``prompt`` is to be run."""
        self.reset()
        return prompt

    def _continue(
        self, prompt: np.ndarray, max_tokens: int, sampler: Sampler, stop_ids: Collection[int]
    ) -> Iterator[int]:
        history = np.concatenate([prompt, np.empty(max_tokens, np.int64)])
        own = self._generation = object()
        pending: TokenIds = self.start(prompt)
        for count in range(len(prompt), min(len(history), self.max_length + 1)):
            if self._generation is not own or self.length + len(pending) != count:
                raise InferenceError(
                    "another sequence took this decoder's cache",
                    "finish one generation before the next, or open a second decoder",
                )
            token = int(sampler(self.prefill(pending), history[:count]))
            if token in stop_ids:
                return
            history[count] = token
            yield token
            pending = (token,)


def check_tokens(ids: np.ndarray, vocab: int, total: int, room: int) -> None:
    """Raises InferenceError on ids (any shape) that cannot run, or more than there is room."""
    if ids.size == 0:
        raise InferenceError("there are no tokens to run", "give a prompt of one token or more")
    if ids.min() < 0 or ids.max() >= vocab:
        raise InferenceError(
            f"a token id is outside the vocabulary of {vocab}: {ids.min()} to {ids.max()}",
            "encode the text with the artifact's own tokenizer",
        )
    if total > room:
        raise InferenceError(
            f"{total} tokens do not fit the {room} positions",
            "shorten the prompt; the room is the model's context, max_length, or what fits memory",
        )
