"""A connection for each thread, as databases want them."""

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from llmkg_lab.knowledge.facts import KnowledgeError


class Closable(Protocol):
    """A connection to a database."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class PerThread(Generic[C]):
    """Connections, made by ``connect`` when a thread first asks; each is its thread's alone.

    ``close`` ends those of all threads, each when its thread is not within ``with``; those of
    threads that have ended go with the next new one.
    """

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._all: dict[threading.Thread, _Guarded[C]] = {}
        self._closed = False

    def use(self) -> "_Guarded[C]":
        """Return this thread's connection, open within ``with``.

        Raises KnowledgeError, here or on entering, once all are closed.
        """
        thread = threading.current_thread()
        return self._all.get(thread) or self._add(thread)

    def _add(self, thread: threading.Thread) -> "_Guarded[C]":
        guarded = _Guarded(self._connect())
        with self._lock:
            if self._closed:
                guarded.close()
            for ended in [known for known in self._all if not known.is_alive()]:
                self._all.pop(ended).close()
            self._all[thread] = guarded
        return guarded

    def close(self) -> None:
        """Close all, and those that are made later at once."""
        with self._lock:
            self._closed = True
            for guarded in self._all.values():
                guarded.close()


class _Guarded(Generic[C]):
    """A connection that is not closed while it is used: in C that ends the process."""

    def __init__(self, connection: C) -> None:
        self._connection: C | None = connection
        self._lock = threading.RLock()  # a thread that writes may read besides

    def __enter__(self) -> C:
        self._lock.acquire()
        if self._connection is None:
            self._lock.release()
            raise KnowledgeError("the knowledge store is closed", "open it again")
        return self._connection

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
