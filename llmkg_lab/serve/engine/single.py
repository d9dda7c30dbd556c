"""A decoder of one sequence with the interface of one of several: for Candle."""

from collections.abc import Mapping, Sequence

import numpy as np

from llmkg_lab.runtime.sequence import SequenceDecoder, check_tokens

CHUNK = 128  # tokens of a prompt after which others get their turn


class SingleDecoder:
    """``BatchDecoder`` with one slot, over any decoder."""

    slots = 1
    nbytes = 0  # the decoder's own cache is within what its runtime says it takes

    def __init__(self, decoder: SequenceDecoder, max_length: int) -> None:
        self._decoder = decoder
        self.vocab = decoder.vocab
        self.max_length = min(max_length, decoder.max_length)
        self._prompt: list[int] = []
        self._sequence: int | None = None
        self._next = 0

    @property
    def active(self) -> tuple[int, ...]:
        """The sequence that has joined and not left."""
        return () if self._sequence is None else (self._sequence,)

    def length(self, sequence: int) -> int:
        """Tokens in the cache."""
        return self._decoder.length

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Take a prompt to be run by ``advance``. Raises InferenceError where it cannot run."""
        check_tokens(np.asarray(prompt_ids), self.vocab, len(prompt_ids), self.max_length)
        self._prompt = list(prompt_ids)
        self._decoder.reset()

    def advance(self) -> np.ndarray | None:
        """Run the prompt's next chunk; the logits after its last token, None before."""
        start = self._decoder.length
        logits = self._decoder.prefill(self._prompt[start : start + CHUNK])
        return logits.copy() if self._decoder.length == len(self._prompt) else None

    def seat(self) -> int:
        """The number of the sequence that the prompt began."""
        self._sequence, self._next = self._next, self._next + 1
        return self._sequence

    def step(self, tokens: Mapping[int, int], even: bool = False) -> dict[int, np.ndarray]:
        """Append the sequence's token; its logits."""
        return {sequence: self._decoder.step(token).copy() for sequence, token in tokens.items()}

    def leave(self, sequence: int) -> None:
        """Let the sequence go."""
        self._sequence = None
