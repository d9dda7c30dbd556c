"""The one error type that users see: what was wrong, where, and what to do next."""

from collections.abc import Iterator
from contextlib import contextmanager


class LabError(Exception):
    """A problem that the user can act on.

    The message says what was wrong and where; ``hint`` says what to do next. The command
    line prints both without a traceback, a notebook shows them as the last line of the cell.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  → {hint}" if hint else message)
        self.message = message
        self.hint = hint


@contextmanager
def panics_raised() -> Iterator[None]:
    """Raise RuntimeError where a library of Rust's panics: its own type is not an Exception."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise RuntimeError(f"it fails within: {error}") from error
