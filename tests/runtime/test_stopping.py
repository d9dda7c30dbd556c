"""Stop strings: whatever the pieces of the stream, the text is cut at the same place."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmkg_lab.runtime import InferenceError
from llmkg_lab.runtime.text.stopping import StopStrings

# Two letters make stop strings overlap one another and themselves all the time.
texts = st.text("ab", max_size=30)
stops = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)


def cut_offline(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: read on until a stop string has just ended, then drop the longest such."""
    for end in range(1, len(text) + 1):
        ended = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if ended:
            return text[: end - max(ended)], True
    return text, False


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(borders)]


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(texts, stops, st.lists(st.integers(0, 30), max_size=10))
@example("aab", ["ab"], [1, 2])
@example("bab", ["ab", "babb"], [1, 2])
def test_streaming_equals_cutting_the_whole_text(text, stops, cuts):
    stream = StopStrings(stops)
    shown = ""
    for piece in pieces_of(text, cuts):
        shown += stream.push(piece)
        expected, _ = cut_offline(text, stops)
        assert expected.startswith(shown), "something of a stop string was shown"
    assert (shown + stream.flush(), stream.stopped) == cut_offline(text, stops)


def test_text_that_begins_no_stop_string_is_shown_at_once():
    stream = StopStrings(["</s>"])
    assert stream.push("a < b") == "a < b"
    assert stream.push(" <") == " "
    assert stream.push("/t>") == "</t>"


def test_nothing_is_shown_after_the_stop_string():
    stream = StopStrings(["END"])
    assert stream.push("one EN") == "one "
    assert stream.push("D two") == ""
    assert stream.push("three") == ""
    assert stream.flush() == ""


def test_an_empty_stop_string_is_refused():
    with pytest.raises(InferenceError, match="empty"):
        StopStrings(["x", ""])
