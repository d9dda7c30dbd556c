"""Converting to int4: time, MB of weights a second, and peak memory.

SmolLM2-135M, 538 MB of float32 safetensors that are in the system's file cache, beside
onnxruntime-genai's model builder, each as a user starts it; and beside a copy: reading the same
files and writing as many bytes as the result has. With --large instead OpenELM-3B, 6 GB of
bfloat16 that are read from the disk. One process each, in turn.
"""

import os
import shutil
import sys
from argparse import Namespace
from pathlib import Path

from benchmarks.common import WORK, Runner, arguments, float32_model, peer_python, run, start
from benchmarks.low_memory import synthetic
from benchmarks.measure import Benchmark

METRICS = {"seconds": "seconds", "rate": "weights, MB/s", "peak_mb": "peak memory, MB"}
SMALL = Benchmark("conversion", "SmolLM2-135M, 538 MB of float32, to int4", METRICS)
LARGE = Benchmark("conversion_large", "OpenELM-3B, 6.1 GB of bfloat16, to int4", METRICS)
OUT = WORK / "converted"
COPY = """
import sys
*files, target, size = sys.argv[1:]
buffer = bytearray(1 << 20)
for file in files:
    with open(file, "rb", 0) as source:
        while source.readinto(buffer):
            pass
with open(target, "wb", 0) as out:
    for _ in range(int(size) >> 20):
        out.write(buffer)
"""


def main(options: Namespace) -> None:
    model = float32_model()
    builder = [peer_python(), "-m", "onnxruntime_genai.models.builder", "-p", "int4", "-e", "cpu"]
    builder += ["-i", str(model), "-o", str(OUT / "genai"), "-c", str(WORK / "genai-cache")]
    contestants = {
        "llmkg-lab": converting(model),
        "onnxruntime-genai": lambda: measured(model, builder),
        "copy": copying(model),
    }
    samples = SMALL.alternate(contestants, options.rounds, {}, options.again)
    SMALL.publish(samples, {}, "Files were in the system's cache.", ("rate", "peak_mb"))


def large(options: Namespace) -> None:
    """OpenELM-3B, whose files are taken out of the system's cache before each run."""
    model = synthetic().path
    contestants = {"llmkg-lab": converting(model, cold=True), "copy": copying(model, cold=True)}
    samples = LARGE.alternate(contestants, min(3, options.rounds), {}, options.again)
    shutil.rmtree(OUT, ignore_errors=True)
    note = "Weights are synthetic; files were not in the system's cache."
    LARGE.publish(samples, {}, note, ("rate", "peak_mb"))


def converting(model: Path, cold: bool = False) -> Runner:
    """Our command line."""
    command = [sys.executable, "-m", "llmkg_lab.cli", "convert", str(model), "--scheme", "int4-rtn"]
    return lambda: measured(model, [*command, "--out", str(OUT), "--force"], cold)


def copying(model: Path, cold: bool = False) -> Runner:
    """Read all of it and write as many bytes as our conversion just did."""

    def copy() -> dict:
        size = sum(path.stat().st_size for path in (OUT / "int4-rtn").rglob("*") if path.is_file())
        command = [sys.executable, "-c", COPY, *map(str, weights(model)), str(OUT / "copy")]
        return measured(model, [*command, str(size)], cold)

    return copy


def measured(model: Path, command: list[str], cold: bool = False) -> dict:
    """One process. cold: the weights are out of the system's cache when it begins."""
    OUT.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(OUT / "genai", ignore_errors=True)
    nbytes = sum(path.stat().st_size for path in weights(model))
    for path in weights(model) if cold else ():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    done = run(command)
    rate = nbytes / 1e6 / done.seconds
    return {"seconds": done.seconds, "rate": rate, "peak_mb": done.peak_bytes / 1e6}


def weights(model: Path) -> list[Path]:
    return sorted(model.glob("*.safetensors"))


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    start(lambda: (large if options.large else main)(options))
