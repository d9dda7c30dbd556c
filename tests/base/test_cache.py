"""Cached arrays: computed once, and again where the file is damaged."""

import numpy as np
import pytest

from llmkg_lab.base import cache


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path))
    return tmp_path / "numbers"


class Counted:
    """A computation that counts its calls."""

    calls = 0

    def __call__(self):
        self.calls += 1
        return {"a": np.arange(1000.0), "b": np.array([[self.calls]])}


def test_computed_once_a_key(folder):
    compute = Counted()
    first = cache.arrays("numbers", {"seed": 1}, compute)
    again = cache.arrays("numbers", {"seed": 1}, compute)
    assert compute.calls == 1
    assert all(np.array_equal(first[name], again[name]) for name in ("a", "b"))
    cache.arrays("numbers", {"seed": 2}, compute)
    assert compute.calls == 2
    assert len(list(folder.iterdir())) == 2  # and no temporary file


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:2000] + bytes([content[2000] ^ 1]) + content[2001:],
        lambda content: b"not a zip at all",
    ],
    ids=["empty", "truncated", "one bit flipped", "something else"],
)
def test_a_damaged_file_is_computed_again(folder, damage):
    compute = Counted()
    cache.arrays("numbers", {}, compute)
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    recovered = cache.arrays("numbers", {}, compute)
    assert compute.calls == 2
    assert np.array_equal(recovered["a"], np.arange(1000.0))
    cache.arrays("numbers", {}, compute)
    assert compute.calls == 2  # the file is whole again


def test_a_failed_computation_leaves_nothing(folder):
    with pytest.raises(KeyboardInterrupt):
        cache.arrays("numbers", {}, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert not folder.exists()


def test_without_a_place_to_write_the_result_still_comes(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLMKG_LAB_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="takes no cache file"):
        assert cache.arrays("numbers", {}, Counted())["b"] == 1


def test_what_is_kept_is_shown_and_cleared(folder):
    assert cache.kept() == []
    assert cache.clear(["numbers"]) == 0
    cache.arrays("numbers", {"seed": 1}, Counted())
    cache.arrays("reference", {"seed": 1}, lambda: {"a": np.zeros(5000)})
    reference, numbers = cache.kept()
    assert (reference.kind, numbers.kind) == ("reference", "numbers")  # the largest first
    assert numbers.entries == 1
    assert numbers.nbytes == sum(p.stat().st_size for p in folder.iterdir())
    assert cache.clear(["numbers"]) == numbers.nbytes
    assert cache.kept() == [reference]
    assert cache.stored("numbers", {"seed": 1}) is None
    compute = Counted()
    cache.arrays("numbers", {"seed": 1}, compute)  # and is computed anew
    assert compute.calls == 1
