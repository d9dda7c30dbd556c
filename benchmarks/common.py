"""What the benchmarks share: their command line, the model, processes measured from outside."""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.machine import default_threads
from llmkg_lab.checkpoint import Checkpoint
from llmkg_lab.measure.speed import cpu_name
from llmkg_lab.measure.values import Estimate
from llmkg_lab.roster.catalog import roster
from llmkg_lab.sources import fetch

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WORK = RESULTS / "work"  # models in the making, kept between runs
PEERS = HERE.parent / ".venv-peers"  # made by `make bench`
VARIANT = "smollm2_135m_instruct"
POLL = 0.01  # seconds between two looks at a process

Runner = Callable[[], dict]  # runs once; returns a round's figures by metric


def arguments(text: str) -> argparse.ArgumentParser:
    """What every benchmark of speed understands; ``text`` begins its help."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contestant")
    parser.add_argument("--threads", type=int, default=default_threads(), help="default: the cores")
    parser.add_argument("--again", action="store_true", help="measure what was measured already")
    return parser


def start(main: Callable[[], None]) -> None:
    """Run a script; what a user can act on ends it without a traceback."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; the same command goes on where it stopped")
    except LabError as error:
        sys.exit(f"error: {error.message}\n  → {error.hint}")


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, peak resident bytes, what it printed."""

    seconds: float
    peak_bytes: int
    output: str


def run(command: list[str]) -> Run:
    """Run a process to its end. Raises CalledProcessError if it fails, and shows its output.

    Its high-water mark is looked at while it runs: what the system reports at its end
    (ru_maxrss) begins with the memory of this process, which started it.
    """
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                peak = max(peak, high_water(process.pid))
                time.sleep(POLL)
        seconds = time.perf_counter() - start
        said.seek(0)
        output = said.read()
    if process.returncode:
        sys.stderr.write(output)
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return Run(seconds, peak, output)


def high_water(pid: int) -> int:
    """Bytes that a process had resident at most so far; 0 where it is gone, or elsewhere."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def workload_of(runtime: str, model: Path, work: dict) -> Runner:
    """A contestant: workloads.py in a process of its own.

    A peer that fails (its build may not suit a machine) leaves ``failed`` for its figures.
    """
    is_ours = runtime.startswith("llmkg-lab")
    python = sys.executable if is_ours else peer_python()
    command = [python, str(HERE / "workloads.py"), runtime, str(model), json.dumps(work)]

    def measure() -> dict:
        try:
            return json.loads(run(command).output.splitlines()[-1])
        except subprocess.CalledProcessError as error:
            if is_ours:
                raise
            said = error.output.split("\n")[-2:-1] or ["nothing"]
            return {"failed": f"exit code {error.returncode}, {said[0].strip()}"}

    return measure


def machine() -> dict:
    """What figures hold for."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}


@cache
def versions() -> dict[str, str]:
    """Of the runtimes, by name."""
    peers = {}
    if (PEERS / "installed").exists():  # a benchmark of ours alone needs none
        peers = json.loads(run([peer_python(), str(HERE / "peers.py"), "versions"]).output)
    return {"llmkg-lab": f"onnxruntime {version('onnxruntime')}", **peers}


def interval(estimate: Estimate) -> dict:
    """An estimate as records hold it."""
    return {key: getattr(estimate, key) for key in ("value", "low", "high", "n")}


def peer_python() -> str:
    """The interpreter of the environment with the peers in it."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is missing: `make bench` makes it")
    return str(python)


def packaged_checkpoint() -> Checkpoint:
    """SmolLM2-135M-Instruct as its package holds it, in Q4_1."""
    return fetch(roster()[VARIANT], "package").open()


def float32_model() -> Path:
    """SmolLM2-135M-Instruct as 538 MB of float32 safetensors, as on the Hub."""
    return float32_folder(packaged_checkpoint(), WORK / "float32")


def float32_folder(checkpoint: Checkpoint, folder: Path) -> Path:
    """Any checkpoint as float32 safetensors in ``folder``, written where it is not there yet."""
    from safetensors.numpy import save_file

    if not (folder / "config.json").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        for name, content in checkpoint.sidecars().items():
            (folder / name).write_bytes(content)
        (folder / "config.json").write_text(json.dumps(checkpoint.config))
    return folder
