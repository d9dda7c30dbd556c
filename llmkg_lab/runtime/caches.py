"""Results kept while there is room for their bytes: token ids of prompts, vectors of texts."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import tokenizers

from llmkg_lab.runtime.text.tokenizer import Tokenizer

PROMPTS_BYTES = 4 << 20  # some hundred long prompts
VECTORS_BYTES = 32 << 20  # 20,000 texts of 384 dimensions

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True)
class CacheStats:
    """What a cache did since it was made, and what is in it."""

    hits: int
    misses: int
    evictions: int
    entries: int
    nbytes: int  # of all entries, at most ``capacity``
    capacity: int

    @property
    def hit_rate(self) -> float:
        """Hits among all lookups; 0 before the first."""
        lookups = self.hits + self.misses
        return self.hits / lookups if lookups else 0.0


class LruCache(Generic[K, V]):
    """A mapping bounded by bytes; what was not used for longest goes first. Safe for threads.

    capacity: bytes; 0 keeps nothing.
    size: (key, value) -> the bytes that the entry counts.
    """

    def __init__(self, capacity: int, size: Callable[[K, V], int]) -> None:
        self.capacity = capacity
        self._size = size
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()  # the oldest use first
        self._nbytes = self._hits = self._misses = self._evictions = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """The value of ``key``, None where there is none; counts as a use and as a lookup."""
        with self._lock:
            if key not in self._entries:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: K, value: V) -> None:
        """Store a value, in the place of an older one; one larger than the cache is not kept."""
        nbytes = self._size(key, value)
        with self._lock:
            _, before = self._entries.pop(key, (None, 0))
            self._nbytes -= before
            if nbytes > self.capacity:
                return
            self._entries[key] = value, nbytes
            self._nbytes += nbytes
            while self._nbytes > self.capacity:
                _, (_, freed) = self._entries.popitem(last=False)
                self._nbytes -= freed
                self._evictions += 1

    def get_or(self, key: K, compute: Callable[[], V]) -> V:
        """The stored value, or what ``compute`` returns, stored from now on.

        Two threads that miss at once both compute: a lock held meanwhile would stop all others.
        """
        value = self.get(key)
        if value is None:
            value = compute()
            self.put(key, value)
        return value

    def clear(self) -> None:
        """Forget all entries; the counts of lookups stay."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0

    def stats(self) -> CacheStats:
        with self._lock:
            return CacheStats(
                self._hits,
                self._misses,
                self._evictions,
                len(self._entries),
                self._nbytes,
                self.capacity,
            )


class CachingTokenizer(Tokenizer):
    """A tokenizer that remembers what it encoded; ``cache`` tells how often that helped."""

    def __init__(self, core: tokenizers.Tokenizer, config: dict) -> None:
        super().__init__(core, config)
        self.cache: LruCache[tuple[str, bool], np.ndarray] = LruCache(
            PROMPTS_BYTES, lambda key, ids: sys.getsizeof(key[0]) + ids.nbytes
        )

    def encode(self, text: str, special: bool = True) -> list[int]:
        encode = super().encode
        ids = self.cache.get_or((text, special), lambda: np.array(encode(text, special), np.int32))
        return ids.tolist()


def vector_cache() -> LruCache[str, np.ndarray]:
    """A cache of embeddings by text."""
    return LruCache(VECTORS_BYTES, lambda text, vector: sys.getsizeof(text) + vector.nbytes)
