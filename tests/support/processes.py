"""Processes that a test looks at while they come and go."""

import psutil


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty of one that is over, or that nobody has waited for yet."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie counts as one
        return []
