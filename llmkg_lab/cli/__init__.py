"""The command line: a module a kind of command; ``--help`` lists them in the order of import.

What a command needs is imported when it runs, so that --help is fast.
"""

import signal
import sys

from llmkg_lab.base import extras
from llmkg_lab.base.errors import LabError
from llmkg_lab.cli import console
from llmkg_lab.cli.application import app

from llmkg_lab.cli.commands import making, schemes, using, talking  # noqa: F401  # isort: skip
from llmkg_lab.cli.commands import serving, knowing, browser, exploring, machine, roster  # noqa: F401  # isort: skip


def main() -> None:
    """Run the command line; an error that the user can act on ends it with exit code 2.

    What belongs to an extra that is not installed is such an error, wherever a command asks for it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as on Ctrl-C
    try:
        with extras.explained():
            app(prog_name="llmkg-lab")
    except LabError as error:
        console.print_error(error)
        sys.exit(2)
