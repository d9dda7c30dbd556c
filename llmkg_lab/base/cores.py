"""How many threads pay on this machine."""

import os

import psutil


def physical() -> int:
    """The physical cores that this process may use; hyper-threads slow matrix products down."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or 1, allowed or 1)


def default_threads() -> int:
    """The physical cores, or fewer where OMP_NUM_THREADS says so."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return min(physical(), int(said)) if said.isdecimal() and int(said) else physical()
