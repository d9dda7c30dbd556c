"""The states of a run. What a finished one found is a verdict, which is something else."""

from enum import StrEnum


class RunState(StrEnum):
    """What became of a variant's run, or where it is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UP_TO_DATE = "up to date"  # nothing had to run
    FAILED = "failed"
    NOT_RUN = "not run"
    UNREADABLE = "unreadable"  # it ran, and its result.json cannot be read
