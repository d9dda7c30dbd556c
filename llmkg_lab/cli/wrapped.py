"""A text that grows on a terminal, whose lines break between words."""

from rich.cells import cell_len


class Wrapped:
    """Takes pieces, and gives what of them may be shown; a word is shown when it is whole.

    width: columns of the terminal.
    """

    def __init__(self, width: int) -> None:
        self._width, self._column, self._word = width, 0, ""

    def push(self, piece: str) -> str:
        """Add a piece; return what may be shown now."""
        return "".join(map(self._shown, piece))

    def flush(self) -> str:
        """Return the word that was not shown yet."""
        word, self._word = self._word, ""
        columns = cell_len(word)
        begins = bool(self._column) and self._column + columns > self._width
        self._column = columns if begins else self._column + columns
        return "\n" * begins + word

    def _shown(self, character: str) -> str:
        if not character.isspace():
            self._word += character
            # scripts without spaces break anywhere, and so do words that are wider than a line
            is_wide = cell_len(character) > 1
            return self.flush() if is_wide or cell_len(self._word) >= self._width else ""
        word = self.flush()
        if character == "\n":
            self._column = 0
            return word + character
        if self._column >= self._width:  # the next word begins a line anyway
            return word
        self._column += 1
        return f"{word} "
