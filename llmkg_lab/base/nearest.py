"""A hint for a word that nothing knows: the nearest right one."""

import difflib
import re
from collections.abc import Collection


def nearest(word: str, valid: Collection[str], *, all_else: bool = True) -> str:
    """Return a hint: the valid word nearest to ``word``, else all of them (or nothing).

    Of equally near ones the one whose numbers are nearest: for int5 int4, not int8.
    """
    scored = [(difflib.SequenceMatcher(None, word, other).ratio(), other) for other in valid]
    near = [pair for pair in scored if pair[0] >= 0.6]
    if near:
        _, best = min(near, key=lambda pair: (-pair[0], _apart(word, pair[1])))
        return f"did you mean {best!r}?"
    return f"choose one of {', '.join(sorted(valid))}" if all_else else ""


def _apart(one: str, other: str) -> float:
    """How far the first numbers of two words lie apart; infinite where one has none."""
    numbers = [re.search(r"\d+", word) for word in (one, other)]
    first, second = (int(match[0]) if match else None for match in numbers)
    return float("inf") if first is None or second is None else abs(first - second)
