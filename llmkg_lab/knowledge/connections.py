"""A connection for each thread, as databases want them."""

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """A connection to a database."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class PerThread(Generic[C]):
    """Connections, made by ``connect`` when a thread first asks; each is its thread's alone.

    ``close`` ends those of all threads; those of threads that have ended go with the next new one.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._all: dict[threading.Thread, C] = {}

    def get(self) -> C:
        """Return this thread's connection."""
        thread = threading.current_thread()
        connection = self._all.get(thread)
        if connection is None:
            connection = self._connect()
            with self._lock:
                for ended in [known for known in self._all if not known.is_alive()]:
                    self._all.pop(ended).close()
                self._all[thread] = connection
        return connection

    def close(self) -> None:
        """Close all; a thread that asks again connects anew."""
        with self._lock:
            while self._all:
                self._all.popitem()[1].close()
