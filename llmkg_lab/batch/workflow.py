"""Starts Snakemake on ``workflow/Snakefile``, waits for it, and ends it with all its children.

Its command line in a process of its own is the way in that it documents for every version, and
keeps its signal handlers and threads apart from ours.
"""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

from llmkg_lab.base import machine, paths
from llmkg_lab.base.errors import LabError
from llmkg_lab.batch.notebook import BATCH, DONE, WORK

LOG = "batch.log"  # what Snakemake and the notebooks printed, in the outputs folder
POLL_SECONDS = 0.5
GRACE_SECONDS = 15  # for kernels to clean up after Ctrl-C


class WorkflowError(LabError):
    """A workflow that cannot be started."""


@contextlib.contextmanager
def locked(outputs: Path) -> Iterator[IO]:
    """The outputs folder for one batch alone. The system drops the lock of a killed process.

    Raises WorkflowError where another batch has it or nothing can be written to it.
    """
    try:
        outputs.mkdir(parents=True, exist_ok=True)
        lock = (outputs / ".lock").open("w")
    except OSError as error:
        raise WorkflowError(f"cannot write to {outputs}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WorkflowError(
                f"another batch is writing to {outputs}", "wait for it, or choose another --out"
            ) from None
        yield lock


def run(
    reports: Mapping[str, Path],
    outputs: Path,
    *,
    forced: Sequence[str],
    parallel: int,
    lock: IO,
    follow: Callable[[], object],
) -> bool:
    """Make ``reports`` (FAMILY/VARIANT) and the registry in ``outputs``, those ``forced`` anew.

    follow: called twice a second.
    Returns whether all went well. The outputs tell what came of it, batch.log what was done.
    """
    with (outputs / LOG).open("w") as log:
        process = subprocess.Popen(
            _command(reports, outputs, forced, parallel),
            env=os.environ
            | {
                "LLMKG_LAB_OUTPUTS": str(outputs.resolve()),  # whatever their folder
                BATCH: f"{os.getpid()}:{psutil.Process().create_time()}",
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes to us alone, and we end the children
            pass_fds=[lock.fileno()],  # should we be killed, it holds the lock until it is done
        )
        try:
            while process.poll() is None:
                follow()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
            follow()
            return process.returncode == 0
        finally:
            if process.poll() is None:
                _stop(process)


def _command(
    reports: Mapping[str, Path], outputs: Path, forced: Sequence[str], parallel: int
) -> list[str]:
    # As many threads as cores between all notebooks: threads that wait for one another in turns are
    # slower than one, PyTorch's several times. Snakemake tells each notebook's libraries.
    threads = max(1, machine.physical_cores() // parallel)
    templates = {name: str(template) for name, template in reports.items()}
    options: dict[str, list[object]] = {
        "--snakefile": [paths.workflow() / "Snakefile"],
        "--profile": [paths.workflow() / "profiles" / "local"],
        "--directory": [outputs],
        "--cores": [parallel * threads],
        "--config": [f"reports={json.dumps(templates)}", f"threads={threads}"],
    }
    if forced:
        options["--forcerun"] = [f"{WORK}/{report}/{DONE}" for report in forced]
    arguments = [str(part) for option, values in options.items() for part in (option, *values)]
    return [sys.executable, "-m", "snakemake", *arguments]


def _stop(process: subprocess.Popen) -> None:
    """End the workflow with its notebooks and kernels: they are asked first, then killed."""
    family = psutil.Process(process.pid).children(recursive=True)  # kernels have own sessions
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
