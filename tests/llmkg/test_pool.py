"""The pool against many threads: models are opened once, and never closed while in use."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmkg_lab.llmkg import Failed, Loaded, LoadingError, MemoryBudgetError, NotLoaded
from llmkg_lab.llmkg.pool import Pool


class Ledger:
    """Counts what is open; a model of ``nbytes`` that notes whether it was closed while in use."""

    def __init__(self):
        self.lock, self.open, self.peak, self.opened, self.torn = threading.Lock(), 0, 0, 0, 0

    def model(self, nbytes, use):
        with self.lock:
            self.open += nbytes
            self.opened += 1
            self.peak = max(self.peak, self.open)
        return Model(self, nbytes, use)


class Model:
    def __init__(self, ledger, nbytes, use):
        self.ledger, self.nbytes, self.use, self.closed = ledger, nbytes, use, 0

    def memory_usage(self):
        return self.nbytes

    def close(self):
        with self.ledger.lock:
            self.ledger.open -= self.nbytes
            self.ledger.torn += self.use.count > 0
            self.closed += 1


def get(pool, ledger, key, nbytes, pause=0.0, expected=None):
    def open_it(use):
        time.sleep(pause)
        return ledger.model(nbytes, use)

    return pool.get(key, lambda tell: nbytes if expected is None else expected, open_it)


def test_threads_share_one_opening_and_the_budget_holds_under_load():
    """Six models of 10 to 60 bytes in a budget of 100, eight threads: as a server would use it."""
    pool, ledger, refused, gone = Pool(100), Ledger(), [], []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(150):
            n = rng.randrange(1, 7)
            try:
                model, use = get(pool, ledger, f"m{n}", 10 * n, pause=0.0002)
                with use:
                    time.sleep(rng.random() * 0.0005)
                    assert not model.closed
                    assert f"m{n}" not in pool.opened() or pool.nbytes() <= 100
            except MemoryBudgetError as error:
                refused.append(error)
            except LoadingError:  # it was evicted between get and use
                gone.append(n)
            if rng.random() < 0.05:
                pool.close(f"m{n}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert ledger.peak <= 100
    assert ledger.torn == 0
    assert ledger.opened < 8 * 150
    for key in pool.opened():
        pool.close(key)
    assert (ledger.open, pool.nbytes()) == (0, 0)


def test_all_who_wait_get_the_one_that_was_opened():
    pool, ledger = Pool(), Ledger()
    with ThreadPoolExecutor(6) as threads:
        models = set(threads.map(lambda _: get(pool, ledger, "m", 5, pause=0.05)[0], range(6)))
    assert (len(models), ledger.opened) == (1, 1)
    assert pool.state("m") == Loaded()


def test_the_least_recently_used_leaves_first_and_what_is_in_use_stays():
    pool, ledger = Pool(100), Ledger()
    _, use_a = get(pool, ledger, "a", 40)
    b, use_b = get(pool, ledger, "b", 40)
    with use_a:  # a is now used later than b
        pass
    get(pool, ledger, "c", 30)
    assert (pool.opened(), b.closed, pool.state("b")) == (["a", "c"], 1, NotLoaded())
    with pytest.raises(LoadingError, match="b was unloaded"), use_b:
        pass
    with use_a:
        with pytest.raises(MemoryBudgetError, match="a, in use"):
            get(pool, ledger, "d", 70)
        assert pool.opened() == ["c", "a"]  # nothing was closed for what does not fit
        assert isinstance(pool.state("d"), Failed)
        get(pool, ledger, "d", 60)
        assert pool.opened() == ["a", "d"]
    with pytest.raises(MemoryBudgetError, match="budget is"):
        get(pool, ledger, "huge", 101)


def test_a_model_that_takes_more_than_was_expected_is_counted_as_it_is():
    pool, ledger = Pool(100), Ledger()
    a, _ = get(pool, ledger, "a", 50)
    get(pool, ledger, "b", 80, expected=20)
    assert (pool.opened(), pool.nbytes(), a.closed) == (["b"], 80, 1)
    with pytest.raises(MemoryBudgetError):
        get(pool, ledger, "c", 120, expected=10)
    assert ledger.open == pool.nbytes()


def test_unloading_waits_for_the_last_use_and_counts_until_then():
    pool, ledger = Pool(100), Ledger()
    model, use = get(pool, ledger, "m", 60)
    with use, use:
        assert pool.close("m")
        assert not pool.close("m")
        assert (model.closed, pool.nbytes(), pool.opened()) == (0, 60, [])
        with pytest.raises(LoadingError, match="unloaded"):
            use.__enter__()
        with pytest.raises(MemoryBudgetError, match="m, in use"):
            get(pool, ledger, "m", 60)
    assert (model.closed, pool.nbytes()) == (1, 0)
    assert get(pool, ledger, "m", 60)[0] is not model


def test_a_failure_is_told_to_all_who_wait_and_the_next_may_try_again():
    pool, ledger, begun = Pool(), Ledger(), threading.Event()

    def fail(use):
        begun.set()
        time.sleep(0.1)
        raise LoadingError("the file is broken")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(pool.get, "m", lambda tell: 1, fail)
        begun.wait()
        second = threads.submit(pool.get, "m", lambda tell: 1, fail)
        assert {type(f.exception()) for f in (first, second)} == {LoadingError}
    assert pool.state("m") == Failed("the file is broken")
    get(pool, ledger, "m", 1)
    assert pool.state("m") == Loaded()


@pytest.mark.slow
def test_who_waits_for_a_loading_that_was_stopped_is_told_so():
    """Ctrl-C in the thread that loads is no Ctrl-C of those that wait for it."""
    pool, begun = Pool(), threading.Event()

    def stop(tell):
        begun.set()
        time.sleep(0.5)  # until the other one waits
        raise KeyboardInterrupt

    def load():
        with pytest.raises(KeyboardInterrupt):
            pool.get("m", stop, lambda use: None)

    thread = threading.Thread(target=load)
    thread.start()
    begun.wait()
    with pytest.raises(LoadingError, match="stopped"):
        pool.get("m", lambda tell: pytest.fail("it did not wait"), lambda use: None)
    thread.join()
