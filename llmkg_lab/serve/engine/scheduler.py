"""Continuous batching: sequences of many requests decoded side by side, in one thread per model.

A prompt is run a chunk at a time, one chunk between two tokens of the others. A sequence that has
ended or was given up leaves at once, and the next prompt takes its slot.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from llmkg_lab.base.errors import LabError
from llmkg_lab.runtime.text.tokenizer import Tokenizer
from llmkg_lab.serve.engine.continuation import Continuation, Piece, Plan
from llmkg_lab.serve.engine.queue import FairQueue

log = logging.getLogger(__name__)


class SlotDecoder(Protocol):
    """What a scheduler drives; ``BatchDecoder`` says what each part does."""

    slots: int
    vocab: int
    max_length: int

    @property
    def active(self) -> tuple[int, ...]: ...
    def begin(self, prompt_ids: Sequence[int]) -> None: ...
    def advance(self) -> np.ndarray | None: ...
    def seat(self) -> int: ...
    def step(self, tokens: Mapping[int, int], even: bool = False) -> dict[int, np.ndarray]: ...
    def leave(self, sequence: int) -> None: ...


class StoppedError(LabError):
    """The server ends, or the model is unloaded, before the answer is whole."""


class FullError(LabError):
    """As many sequences wait as may; ``retry`` is in how many seconds there may be room."""

    def __init__(self, waiting: int, retry: int) -> None:
        super().__init__(f"{waiting} sequences are waiting for this model already")
        self.retry = retry


@dataclass(frozen=True)
class Times:
    """When a prompt came, began to run, and had run; seconds of ``time.perf_counter``."""

    asked: float
    begun: float
    run: float


class Observer(Protocol):
    """Who is told what the scheduler does."""

    def state(self, waiting: int, running: int, share: float) -> None:
        """Sequences in each state, and the share of the caches in use."""

    def prompt(self, tokens: int, times: Times) -> None:
        """A prompt has run."""

    def tokens(self, count: int, seconds: float) -> None:
        """A step made so many tokens."""


@dataclass(eq=False)
class Job:
    """A prompt, and one plan for each answer to it.

    deliver: called in the scheduler's thread with what is new; with an exception at last, where
        the job fails. A job is over when every answer has finished.
    """

    client: str
    prompt: Sequence[int]
    plans: Sequence[Plan]
    first: int  # the number of the first answer, which ``Piece.choice`` counts from
    deliver: Callable[[list[Piece] | Exception], None]
    asked: float = field(default_factory=time.perf_counter)
    begun: float = 0.0
    cancelled: bool = False
    seated: int = 0  # answers that have, or had, a slot
    unseated: deque[Continuation] = field(default_factory=deque)


class Scheduler:
    """A model's thread. Jobs come in by ``submit``, from any thread."""

    def __init__(
        self, decoder: SlotDecoder, tokenizer: Tokenizer, queue: int, observer: Observer, name: str
    ) -> None:
        self.decoder, self.tokenizer = decoder, tokenizer
        self._bound, self._observer = queue, observer
        self._waiting: FairQueue[Job] = FairQueue()
        self._waiting_sequences = 0
        self._running: dict[int, tuple[Job, Continuation]] = {}  # by sequence
        self._logits: dict[int, np.ndarray] = {}  # by sequence, from which no token was taken yet
        self._prompt: Job | None = None  # whose prompt the decoder holds
        self._prompt_logits: np.ndarray | None = None  # once it has run
        self._changed = threading.Condition()
        self._stopping = False
        self._pace = 1.0  # seconds of a job in a slot, a moving average
        self._thread = threading.Thread(target=self._work, name=f"decode {name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Take a job in. Raises FullError, and StoppedError at the end."""
        with self._changed:
            if self._stopping:
                raise StoppedError("this model is being unloaded", "ask again")
            self.check_room(len(job.plans))
            self._waiting.put(job.client, job)
            self._waiting_sequences += len(job.plans)
            self._changed.notify()

    def check_room(self, count: int) -> None:
        """Raise FullError where so many sequences more may not wait."""
        waiting, running = self.load()
        if waiting + running + count > self._bound + self.decoder.slots:
            retry = int(self._pace * waiting / self.decoder.slots) + 1
            raise FullError(waiting, min(retry, 60))

    def cancel(self, job: Job) -> None:
        """Give a job up: its slots are free after the token, or chunk, at hand."""
        with self._changed:
            job.cancelled = True
            if self._waiting.remove(job.client, job):
                self._waiting_sequences -= len(job.plans)
            self._changed.notify()

    def load(self) -> tuple[int, int]:
        """How many sequences wait and run."""
        prompt = self._prompt
        at_hand = len(prompt.plans) - prompt.seated if prompt else 0
        return self._waiting_sequences + at_hand, len(self._running)

    def stop(self) -> None:
        """End the thread; what has not finished fails with StoppedError."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait():
            try:
                self._drop_cancelled()
                self._run_prompt()
                self._seat()
                self._step()
            except Exception as error:  # of the runtime: none of the sequences is to be trusted
                log.exception("the decoder failed")
                self._fail_all(error)
            self._tell_state()
        self._fail_all(StoppedError("the server ended before this answer was whole", "ask again"))

    def _wait(self) -> bool:
        """Wait for something to do; False at the end."""
        with self._changed:
            while not (self._stopping or self._running or self._prompt or len(self._waiting)):
                self._changed.wait()
            return not self._stopping

    def _drop_cancelled(self) -> None:
        for sequence, (job, _) in list(self._running.items()):
            if job.cancelled:
                self._leave(sequence)
        if self._prompt and self._prompt.cancelled:
            self._prompt = self._prompt_logits = None

    def _run_prompt(self) -> None:
        """Run a chunk of the prompt at hand; take the next one where there is a slot for it."""
        if self._prompt is None:
            if len(self._running) == self.decoder.slots:
                return
            with self._changed:
                if not len(self._waiting):
                    return
                self._prompt = self._waiting.pop()
                self._waiting_sequences -= len(self._prompt.plans)
            self._begin(self._prompt)
        if self._prompt is not None and self._prompt_logits is None:
            self._prompt_logits = self.decoder.advance()
            if self._prompt_logits is not None:
                job = self._prompt
                times = Times(job.asked, job.begun, time.perf_counter())
                self._observer.prompt(len(job.prompt), times)

    def _begin(self, job: Job) -> None:
        job.begun = time.perf_counter()
        try:
            room = self.decoder.max_length
            job.unseated.extend(
                Continuation(i, plan, job.prompt, self.tokenizer, room)
                for i, plan in enumerate(job.plans, job.first)
            )
            self.decoder.begin(job.prompt)
        except LabError as error:
            self._prompt = None
            job.deliver(error)

    def _seat(self) -> None:
        """Give the answers to the prompt that has run the slots that are free."""
        job, logits = self._prompt, self._prompt_logits
        if job is None or logits is None:
            return
        while job.unseated and len(self._running) < self.decoder.slots:
            sequence = self.decoder.seat()
            self._running[sequence] = job, job.unseated.popleft()
            self._logits[sequence] = logits
            job.seated += 1
        if not job.unseated:
            self._prompt = self._prompt_logits = None

    def _step(self) -> None:
        """A token for each sequence, and the logits after it for those that go on."""
        if not self._running:
            return
        started, made = time.perf_counter(), len(self._running)
        tokens: dict[int, int] = {}
        pieces: dict[Job, list[Piece]] = {}
        for sequence, (job, continuation) in list(self._running.items()):
            try:
                token = continuation.take(self._logits[sequence])
                piece = continuation.piece(token)
            except LabError as error:  # logits that are not numbers, bytes that decode to nothing
                self._fail(job, error)
                continue
            if piece is not None:
                pieces.setdefault(job, []).append(piece)
            if continuation.finish:
                self._leave(sequence)
                self._pace += 0.1 * (time.perf_counter() - job.begun - self._pace)
            else:
                tokens[sequence] = token
        tokens = {sequence: t for sequence, t in tokens.items() if sequence in self._running}
        for job, new in pieces.items():  # before the next step, which takes longer
            if not job.cancelled:
                job.deliver(new)
        if tokens:
            even = any(self._running[sequence][1].plan.repeatable for sequence in tokens)
            self._logits = self.decoder.step(tokens, even)
        self._observer.tokens(made, time.perf_counter() - started)

    def _leave(self, sequence: int) -> None:
        self.decoder.leave(sequence)
        del self._running[sequence]
        self._logits.pop(sequence, None)

    def _fail(self, job: Job, error: Exception) -> None:
        """End a job with all of its answers."""
        for sequence, (owner, _) in list(self._running.items()):
            if owner is job:
                self._leave(sequence)
        if self._prompt is job:
            self._prompt = self._prompt_logits = None
        job.cancelled = True
        job.deliver(error)

    def _fail_all(self, error: Exception) -> None:
        jobs = {id(job): job for job, _ in self._running.values()}
        if self._prompt:
            jobs[id(self._prompt)] = self._prompt
        if self._stopping:
            with self._changed:
                while len(self._waiting):
                    job = self._waiting.pop()
                    jobs[id(job)] = job
                self._waiting_sequences = 0
        for job in jobs.values():
            self._fail(job, error)

    def _tell_state(self) -> None:
        room = self.decoder.slots * self.decoder.max_length
        held = sum(len(job.prompt) + c.tokens for job, c in self._running.values())
        self._observer.state(*self.load(), held / room)
