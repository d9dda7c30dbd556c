"""Several sequences decoded side by side: each may join and leave at any step."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.ort.decoder import PREFILL_CHUNK
from llmkg_lab.runtime.ort.packed import open_artifact
from llmkg_lab.runtime.ort.session import CachedSession
from llmkg_lab.runtime.sequence import check_tokens
from llmkg_lab.runtime.text.sampling import Sampler

Choose = Callable[[np.ndarray, np.ndarray], int]  # logits and history to the next token


class BatchDecoder:
    """A causal language model over the KV caches of up to ``slots`` sequences.

    A step reads the weights once for all sequences, whatever their lengths. The active ones
    lie in the first rows: when one leaves, the last takes its row. A prompt is run by itself,
    chunk by chunk, in a row behind them all: in between, the others may go on.

    max_length: tokens that fit one sequence's cache, by default the model's context length.
    """

    def __init__(
        self,
        artifact: Artifact,
        slots: int = 8,
        threads: int | None = None,
        max_length: int | None = None,
    ) -> None:
        if slots < 1:
            raise InferenceError(f"slots is {slots}", "give room for one sequence or more")
        self.artifact = artifact
        self.slots = slots
        session = open_artifact(artifact, threads)
        # behind the slots: the row that makes their number even, and the prompt's
        self._cached = CachedSession(session, artifact, slots + 2, PREFILL_CHUNK, max_length)
        self.max_length, self.vocab = self._cached.max_length, self._cached.vocab
        self._rows: list[int] = []  # the sequence in each active row
        self._lengths = np.zeros(slots + 2, np.int64)  # tokens in each row's cache
        self._next = 0
        self._prompt = np.empty(0, np.int64)  # of which the last row holds the beginning

    @property
    def active(self) -> tuple[int, ...]:
        """The sequences that have joined and not left."""
        return tuple(self._rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows' caches when they are full; memory is taken as they fill."""
        return self._cached.nbytes

    def length(self, sequence: int) -> int:
        """Tokens in a sequence's cache."""
        return int(self._lengths[self._row(sequence)])

    def join(self, prompt_ids: Sequence[int]) -> tuple[int, np.ndarray]:
        """Take in a sequence and run its prompt.

        Returns the number that it is known by, and the logits after its last token, (vocab,)
        float32. Raises InferenceError where all slots are taken, or on a prompt that cannot run.
        """
        self._check_room()
        self.begin(prompt_ids)
        while (logits := self.advance()) is None:
            pass
        return self.seat(), logits

    def begin(self, prompt_ids: Sequence[int]) -> None:
        """Take a prompt to be run by ``advance``; one that was begun before it is forgotten.

        Raises InferenceError on a prompt that cannot run.
        """
        ids = np.asarray(prompt_ids, np.int64)
        check_tokens(ids, self.vocab, len(ids), self.max_length)
        self._prompt, self._lengths[-1] = ids, 0

    def advance(self) -> np.ndarray | None:
        """Run the prompt's next chunk.

        Returns the logits after its last token, (vocab,) float32, or None while there is more.
        """
        last = len(self._lengths) - 1
        start = int(self._lengths[last])
        part = self._prompt[start : start + self._cached.chunk]
        logits = self._cached.run(last, part[None], self._lengths[last:])
        self._lengths[last] += len(part)  # only now: an interrupted run leaves it as it was
        return logits[0].copy() if self._lengths[last] == len(self._prompt) else None

    def seat(self) -> int:
        """Give the prompt that was run a slot; return the number of its sequence.

        It may be seated again, for another continuation. Raises InferenceError where all slots
        are taken.
        """
        self._check_room()
        row, length = len(self._rows), len(self._prompt)
        self._cached.move(len(self._lengths) - 1, row, length)
        self._lengths[row] = length
        sequence, self._next = self._next, self._next + 1
        self._rows.append(sequence)
        return sequence

    def step(self, tokens: Mapping[int, int], even: bool = False) -> dict[int, np.ndarray]:
        """Append one token to each active sequence.

        tokens: the token of every active sequence.
        even: compute an even number of rows. Kernels of some schemes take rows two at a time and
            the last one by itself, in another order of sums: with an even number a sequence's
            logits do not depend, bit for bit, on how many others there are.
        Returns each one's logits, (vocab,) float32, which are the caller's. Raises
        InferenceError where a sequence is full, or tokens are missing or not of the vocabulary.
        """
        if tokens.keys() != set(self._rows):
            raise InferenceError(
                f"there are tokens for the sequences {sorted(tokens)}, active are {self.active}",
                "give each active sequence a token, or let it leave",
            )
        if not tokens:
            return {}
        count = len(self._rows)
        ids = np.array([[tokens[sequence]] for sequence in self._rows], np.int64)  # (active, 1)
        lengths = self._lengths[:count]
        check_tokens(ids, self.vocab, int(lengths.max()) + 1, self.max_length)
        if even and count % 2:
            self._lengths[count] = 0
            ids = np.concatenate([ids, np.zeros((1, 1), np.int64)])
        logits = self._cached.run(0, ids, self._lengths[: len(ids)])
        lengths += 1
        kept = logits[:count].copy()  # another run would overwrite them
        return dict(zip(self._rows, kept, strict=True))

    def leave(self, sequence: int) -> None:
        """Let a sequence go; its slot is free for another."""
        row, last = self._row(sequence), len(self._rows) - 1
        if row != last:
            self._cached.move(last, row, int(self._lengths[last]))
            self._rows[row], self._lengths[row] = self._rows[last], self._lengths[last]
        self._rows.pop()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        samplers: Sequence[Choose] | None = None,
        stop_ids: Collection[int] = (),
    ) -> Iterator[tuple[int, int]]:
        """Continue many prompts, as many at a time as there are slots.

        samplers: one a prompt, such as ``Sampler``; by default all are greedy.
        Yields (prompt's index, token) as the tokens come. A continuation ends as that of
        ``Decoder.generate``, and the next prompt takes its place.
        """
        samplers = samplers or [Sampler() for _ in prompts]
        waiting = iter(range(len(prompts)))
        owner: dict[int, int] = {}  # sequence -> prompt
        history: dict[int, list[int]] = {}  # sequence -> prompt and continuation
        logits: dict[int, np.ndarray] = {}
        try:
            while True:
                while len(self._rows) < self.slots and (i := next(waiting, None)) is not None:
                    sequence, logits[sequence] = self.join(prompts[i])
                    owner[sequence], history[sequence] = i, list(prompts[i])
                if not owner:
                    return
                tokens = {}
                for sequence, i in list(owner.items()):
                    token = samplers[i](logits[sequence], np.asarray(history[sequence]))
                    count = len(history[sequence]) - len(prompts[i]) + 1
                    full = self.length(sequence) == self.max_length
                    if token not in stop_ids and count <= max_tokens:
                        history[sequence].append(token)
                        yield i, token
                    if token in stop_ids or count >= max_tokens or full:
                        self.leave(sequence)
                        del owner[sequence], history[sequence]
                    else:
                        tokens[sequence] = token
                logits = self.step(tokens)
        finally:
            for sequence in owner:
                self.leave(sequence)

    def _check_room(self) -> None:
        if len(self._rows) == self.slots:
            raise InferenceError(
                f"all {self.slots} slots are taken", "let a sequence leave, or open more slots"
            )

    def _row(self, sequence: int) -> int:
        if sequence not in self._rows:
            raise InferenceError(
                f"there is no sequence {sequence}", f"active are {self.active or 'none'}"
            )
        return self._rows.index(sequence)
