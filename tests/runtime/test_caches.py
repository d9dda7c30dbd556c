"""The cache against a list that does the same slowly, and from several threads at once."""

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmkg_lab.runtime.caches import LruCache

KEYS = st.integers(0, 6)
OPERATIONS = st.one_of(
    st.tuples(st.just("get"), KEYS),
    st.tuples(st.just("put"), KEYS, st.integers(0, 12)),  # the value is its own size
)


class Model:
    """The oldest use first: a list of (key, size), moved and cut by hand."""

    def __init__(self, capacity):
        self.capacity, self.entries = capacity, []
        self.hits = self.misses = self.evictions = 0

    def get(self, key):
        found = [entry for entry in self.entries if entry[0] == key]
        self.hits += bool(found)
        self.misses += not found
        self.entries = [entry for entry in self.entries if entry[0] != key] + found
        return found[0][1] if found else None

    def put(self, key, size):
        self.entries = [entry for entry in self.entries if entry[0] != key]
        if size <= self.capacity:
            self.entries.append((key, size))
        while sum(size for _, size in self.entries) > self.capacity:
            del self.entries[0]
            self.evictions += 1


@given(st.integers(0, 20), st.lists(OPERATIONS, max_size=60))
def test_it_does_what_the_model_does(capacity, operations):
    cache, model = LruCache(capacity, lambda key, value: value), Model(capacity)
    for name, *arguments in operations:
        assert getattr(cache, name)(*arguments) == getattr(model, name)(*arguments)
        stats = cache.stats()
        assert stats.nbytes == sum(size for _, size in model.entries) <= capacity
        assert (stats.hits, stats.misses) == (model.hits, model.misses)
        assert (stats.entries, stats.evictions) == (len(model.entries), model.evictions)
    for key in range(7):
        assert cache.get(key) == model.get(key)


def test_threads_neither_break_the_bound_nor_get_another_s_value():
    cache = LruCache(30_000, lambda key, value: value.nbytes)
    wrong, over = [], []

    def work(seed):
        for key in np.random.default_rng(seed).integers(0, 40, 2000).tolist():
            value = cache.get_or(key, lambda key=key: np.full(100 + key, key, np.int64))
            wrong.extend(value[value != key].tolist())
            over.append(cache.stats().nbytes > 30_000)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert not wrong
    assert not any(over)
    assert stats.hits + stats.misses == 4 * 2000
    assert stats.evictions > 0
    assert 0.5 < stats.hit_rate < 1


def test_what_is_not_used_goes_first():
    cache = LruCache(2, lambda key, value: 1)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]
    cache.clear()
    assert cache.get("a") is None
    assert cache.stats().nbytes == 0
