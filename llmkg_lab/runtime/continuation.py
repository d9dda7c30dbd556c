"""The loop of a generation: logits, a token, the token back into the decoder."""

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import numpy as np

from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.sampling import Sampler


class StepDecoder(Protocol):
    """What a continuation needs of a decoder."""

    max_length: int  # tokens that fit its cache
    sequence: object  # whose tokens are in the cache: set here

    def reset(self) -> None: ...

    def prefill(self, ids: Sequence[int]) -> np.ndarray: ...


def continue_prompt(
    decoder: StepDecoder,
    prompt_ids: Sequence[int],
    max_tokens: int,
    sampler: Sampler | None,
    stop_ids: Collection[int],
) -> Iterator[int]:
    """Tokens after a prompt: greedily without a sampler, until a token of ``stop_ids``.

    Ends where the cache is full, too. Raises InferenceError at once on a prompt that is empty or
    too long; and later, where another generation took the decoder meanwhile.
    """
    if not 1 <= len(prompt_ids) <= decoder.max_length:
        raise InferenceError(
            f"a prompt of {len(prompt_ids)} tokens, but {decoder.max_length} positions"
            if len(prompt_ids)
            else "there are no tokens to run",
            "give a prompt of one token or more that fits the model's context",
        )
    decoder.reset()
    own = decoder.sequence = object()
    return _continue(decoder, own, list(prompt_ids), max_tokens, sampler or Sampler(), stop_ids)


def _continue(
    decoder: StepDecoder,
    own: object,
    prompt: list[int],
    max_tokens: int,
    sampler: Sampler,
    stop_ids: Collection[int],
) -> Iterator[int]:
    history = np.array([*prompt, *[0] * max_tokens], np.int64)
    pending = prompt
    for count in range(len(prompt), min(len(history), decoder.max_length + 1)):
        if decoder.sequence is not own:
            raise InferenceError(
                "another sequence took this decoder's cache",
                "finish one generation before the next, or open a second decoder",
            )
        token = int(sampler(decoder.prefill(pending), history[:count]))
        if token in stop_ids:
            return
        history[count] = token
        yield token
        pending = [token]
