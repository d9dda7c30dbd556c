"""Stop strings in streamed text."""

from collections.abc import Sequence

from llmkg_lab.runtime import InferenceError


class StopStrings:
    """Passes streamed text on up to a stop string, of which nothing is shown.

    The stop string whose last character comes first ends the text (the longest, where several
    end together). Text that may be the beginning of one is held back until that is decided,
    so the result does not depend on how the stream was cut into pieces.
    """

    def __init__(self, strings: Sequence[str] = ()) -> None:
        if "" in strings:
            raise InferenceError("a stop string is empty", "give at least one character")
        self._strings = tuple(strings)
        self._held = ""
        self.stopped = False

    def push(self, piece: str) -> str:
        """Take the next piece of the stream; return what may be shown by now."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [
            (text.find(stop) + len(stop), -len(stop)) for stop in self._strings if stop in text
        ]
        if found:
            self.stopped, self._held = True, ""
            end, negative_length = min(found)
            return text[: end + negative_length]
        keep = self._beginning_of_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The stream ended: what was held back after all."""
        held, self._held = self._held, ""
        return held

    def _beginning_of_stop(self, text: str) -> int:
        """Length of the longest end of ``text`` that a stop string begins with."""
        lengths = (
            n for stop in self._strings for n in range(1, len(stop)) if text.endswith(stop[:n])
        )
        return max(lengths, default=0)
