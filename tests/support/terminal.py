"""A program on a terminal of its own: what it draws there, and what goes to its stdout."""

import os
import pty
import re
import subprocess
import termios
from collections.abc import Mapping, Sequence


def on_a_terminal(
    command: Sequence[str], columns: int, environment: Mapping[str, str] | None = None
) -> tuple[str, str]:
    """Run ``command`` with stderr on a terminal; return all that came there, and stdout."""
    mine, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm", **(environment or {})},
    )
    os.close(theirs)
    drawn = b""
    while part := _read(mine):
        drawn += part
    os.close(mine)
    stdout, _ = process.communicate(timeout=60)
    return drawn.decode(), stdout


def without_escapes(drawn: str) -> str:
    """The characters alone, without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", drawn)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the program has ended
        return b""
