"""How long the command line takes to answer: a process from its start to its end.

Python alone is the floor. Files are in the system's cache after the first round, which is not
counted. Exits with 1 where a median is beyond its limit.
"""

import sys
from argparse import Namespace
from statistics import median

from benchmarks.common import Runner, arguments, run, start
from benchmarks.measure import Benchmark, counted

CLI = ("-m", "llmkg_lab.cli")
COMMANDS = {
    "python": ("-c", "pass"),
    "import llmkg_lab": ("-c", "import llmkg_lab"),
    "llmkg-lab --help": (*CLI, "--help"),
    "llmkg-lab list": (*CLI, "list"),
}
LIMITS = {"llmkg-lab --help": 0.35, "llmkg-lab list": 1.0}  # seconds
METRICS = {"seconds": "seconds", "peak_mb": "peak memory, MB"}
BENCHMARK = Benchmark("startup", "The command line, until it has answered", METRICS)


def main(options: Namespace) -> None:
    contestants = {name: answering(command) for name, command in COMMANDS.items()}
    for warm_up in contestants.values():
        warm_up()
    samples = BENCHMARK.alternate(contestants, options.rounds, {}, options.again)
    limits = ", ".join(f"{name} {seconds} s" for name, seconds in LIMITS.items())
    BENCHMARK.publish(samples, {}, f"Limits: {limits}.")
    quiet = counted({"samples": samples})["samples"]
    medians = {name: median(row["seconds"] for row in quiet[name]) for name in LIMITS}
    if slow := [name for name, limit in LIMITS.items() if medians[name] > limit]:
        sys.exit(f"beyond the limit: {', '.join(slow)}")


def answering(command: tuple[str, ...]) -> Runner:
    def measure() -> dict:
        done = run([sys.executable, *command])
        return {"seconds": done.seconds, "peak_mb": done.peak_bytes / 1e6}

    return measure


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
