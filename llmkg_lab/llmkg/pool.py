"""Opened models under a memory budget: the least recently used leaves first, none that is in use.

Each model is opened once, however many threads ask for it, and one after another, so that what
the process grew by while a model opened was that model.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from llmkg_lab.base.errors import LabError
from llmkg_lab.llmkg.config import (
    Failed,
    Loaded,
    Loading,
    LoadingError,
    LoadingState,
    NotLoaded,
)


class MemoryBudgetError(LoadingError):
    """A model that does not fit the memory budget beside those that are in use."""


class Openable(Protocol):
    """What a pool holds."""

    def memory_usage(self) -> int:
        """Bytes that it takes."""

    def close(self) -> None:
        """Free them."""


T = TypeVar("T", bound=Openable)


class Use:
    """A model's uses: it is not closed within ``with use:``, and none begins once it has to go."""

    def __init__(self, pool: "Pool[Any]", key: str) -> None:
        self.key = key
        self.count = 0
        self.is_over = False
        self._pool = pool

    def __enter__(self) -> Self:
        self._pool.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.leave(self)


@dataclass(frozen=True)
class Slot(Generic[T]):
    """An opened model, its uses, and the bytes that it counts."""

    model: T
    use: Use
    nbytes: int


class Pool(Generic[T]):
    """Opened models by key.

    budget: bytes that all together may take; None for no limit.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self._lock = threading.RLock()
        self._opening = threading.Lock()  # one model at a time
        self._slots: OrderedDict[str, Slot[T]] = OrderedDict()  # the oldest use first
        self._attempts: dict[str, Future[Slot[T]]] = {}
        self._states: dict[str, LoadingState] = {}
        self._leaving: list[Slot[T]] = []  # until their last use has ended
        self._reserved = 0  # bytes of the model that is being opened

    def get(
        self,
        key: str,
        prepare: Callable[[Callable[[LoadingState], None]], int],
        open_it: Callable[[Use], T],
    ) -> tuple[T, Use]:
        """The model, opened if it is not yet, and its uses.

        Args:
            prepare: Brings and checks the files, tells states, and returns the bytes that the
                model is expected to take.
            open_it: Opens the model.

        Raises:
            MemoryBudgetError: It does not fit, and nothing was closed for it.
            Exception: What ``prepare`` and ``open_it`` raise, for all that wait for the model.
        """
        with self._lock:
            if key in self._slots:
                self._slots.move_to_end(key)
                slot = self._slots[key]
                return slot.model, slot.use
            attempt = self._attempts.get(key)
            is_mine = attempt is None
            if attempt is None:
                attempt = self._attempts[key] = Future()
                self._states[key] = Loading()
        if is_mine:
            self._attempt(key, attempt, prepare, open_it)
        elif (error := attempt.exception()) and _is_stop(error):
            raise LoadingError(f"{key}: its loading was stopped", "load it again") from error
        slot = attempt.result()
        return slot.model, slot.use

    def state(self, key: str) -> LoadingState:
        """How far the loading of a model is."""
        with self._lock:
            return self._states.get(key, NotLoaded())

    def opened(self) -> list[str]:
        """The models that are open, the least recently used first."""
        with self._lock:
            return list(self._slots)

    def nbytes(self) -> int:
        """Bytes that all open models count."""
        with self._lock:
            return self._taken()

    def close(self, key: str) -> bool:
        """Let a model go, which is closed when its last use has ended. False: it is not open.

        No new use of it begins, and a later ``get`` opens it anew.
        """
        with self._lock:
            slot = self._slots.pop(key, None)
            if key not in self._attempts:
                self._states.pop(key, None)
            if slot is None:
                return False
            slot.use.is_over = True
            if slot.use.count:
                self._leaving.append(slot)
                return True
        slot.model.close()
        return True

    def enter(self, use: Use) -> None:
        """Begin a use. Raises LoadingError of a model that has to go."""
        with self._lock:
            if use.is_over:
                raise LoadingError(f"{use.key} was unloaded", "load it again")
            use.count += 1
            if use.key in self._slots:  # not yet, while it is opened
                self._slots.move_to_end(use.key)

    def leave(self, use: Use) -> None:
        """End a use, and close the model if it was the last of one that has to go."""
        with self._lock:
            use.count -= 1
            ends = use.is_over and use.count == 0
            gone = [slot for slot in self._leaving if ends and slot.use is use]
            self._leaving = [slot for slot in self._leaving if not (ends and slot.use is use)]
        for slot in gone:
            slot.model.close()

    def _attempt(
        self,
        key: str,
        attempt: "Future[Slot[T]]",
        prepare: Callable[[Callable[[LoadingState], None]], int],
        open_it: Callable[[Use], T],
    ) -> None:
        try:
            expected = prepare(lambda state: self._tell(key, state))
            self._tell(key, Loading())
            slot = self._open(key, expected, open_it)
        except BaseException as error:
            with self._lock:
                reason = error.message if isinstance(error, LabError) else str(error)
                self._states[key] = Failed(reason or type(error).__name__)
                self._attempts.pop(key, None)
            attempt.set_exception(error)
        else:
            attempt.set_result(slot)

    def _open(self, key: str, expected: int, open_it: Callable[[Use], T]) -> Slot[T]:
        with self._opening:
            for doomed in self._make_room(key, expected, reserve=True):
                doomed.model.close()
            try:
                use = Use(self, key)
                model = open_it(use)
            finally:
                with self._lock:
                    self._reserved = 0
            try:  # it may take more than was expected
                slot = Slot(model, use, max(expected, model.memory_usage()))
                more = self._make_room(key, slot.nbytes)
            except BaseException:
                model.close()
                raise
            with self._lock:
                self._slots[key] = slot
                self._states[key] = Loaded()
                del self._attempts[key]
            for doomed in more:
                doomed.model.close()
            return slot

    def _make_room(self, key: str, wanted: int, *, reserve: bool = False) -> list[Slot[T]]:
        """Take away what has to be closed so that ``wanted`` bytes fit; all of it, or none."""
        with self._lock:
            room = self.budget - self._taken() if self.budget is not None else wanted
            doomed: list[str] = []
            for name, slot in self._slots.items():
                if room >= wanted:
                    break
                if slot.use.count == 0:
                    doomed.append(name)
                    room += slot.nbytes
            if room < wanted:
                raise self._too_large(key, wanted)
            self._reserved = wanted if reserve else 0
            slots = [self._slots.pop(name) for name in doomed]
            for name, slot in zip(doomed, slots, strict=True):
                slot.use.is_over = True
                self._states.pop(name, None)
            return slots

    def _too_large(self, key: str, wanted: int) -> MemoryBudgetError:
        held = (*self._slots.values(), *self._leaving)
        used = [slot.use.key for slot in held if slot.use.count]
        beside = f" beside {', '.join(used)}, in use" if used else ""
        return MemoryBudgetError(
            f"{key} takes {wanted / 1e6:,.0f} MB, and the budget is "
            f"{(self.budget or 0) / 1e6:,.0f} MB{beside}",
            "wait until they are free, take a smaller artifact, or allow more memory",
        )

    def _taken(self) -> int:
        held = (*self._slots.values(), *self._leaving)
        return self._reserved + sum(slot.nbytes for slot in held)

    def _tell(self, key: str, state: LoadingState) -> None:
        with self._lock:
            if key in self._attempts:
                self._states[key] = state


def _is_stop(error: BaseException) -> bool:
    """Whether it is one thread's Ctrl-C, or the like, and nothing for those that wait for it."""
    return not isinstance(error, Exception)
