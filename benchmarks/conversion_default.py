"""What `convert` without options takes: time, peak memory, and the size that is bought with it.

SmolLM2-135M, 538 MB of float32 safetensors that are in the system's file cache: from an empty
cache, once more from the cache that this left, and to int4-rtn. Beside them an importance matrix
and llama.cpp's Q4_K_M of it, from a GGUF file in float32. One process each, in turn.
"""

import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import (
    WORK,
    Run,
    Runner,
    arguments,
    float32_model,
    packaged_checkpoint,
    run,
    start,
)
from benchmarks.contestants import float32_gguf, run_quantizer, tensor_bytes
from benchmarks.importance import CALIBRATION, WINDOW
from benchmarks.measure import Benchmark
from llmkg_lab.artifact import Artifact

METRICS = {"seconds": "seconds", "peak_mb": "peak memory, MB", "mb": "weights and graph, MB"}
TITLE = "SmolLM2-135M, 538 MB of float32, by `convert` without options"
DEFAULT = Benchmark("conversion_default", TITLE, METRICS)
OUT = WORK / "converted-default"
ROUNDS = 3  # at most: the first contestant alone takes minutes


def main(options: Namespace) -> None:
    model = float32_model()
    with tempfile.TemporaryDirectory(prefix="llmkg-lab-") as cache:
        contestants = {
            "llmkg-lab": converting(model, Path(cache) / "default"),
            "from the cache": converting(model, Path(cache) / "default", emptied=False),
            "int4-rtn": converting(model, Path(cache) / "rtn", ("--scheme", "int4-rtn")),
            "Q4_K_M imatrix": quantizing(model, Path(cache) / "imatrix"),
        }
        rounds = min(ROUNDS, options.rounds)
        samples = DEFAULT.alternate(contestants, rounds, {}, options.again)
    shutil.rmtree(OUT, ignore_errors=True)
    note = (
        f"Files were in the system's cache. The importance matrix is of {CALIBRATION * WINDOW:,} "
        "tokens, computed by PyTorch."
    )
    DEFAULT.publish(samples, {}, note, ("seconds", "peak_mb"))


def converting(model: Path, cache: Path, more: Sequence[str] = (), emptied: bool = True) -> Runner:
    """Our command line with a cache of its own, ``emptied`` before it begins."""
    command = [sys.executable, "-m", "llmkg_lab.cli", "convert", str(model), *more]
    command += ["--out", str(OUT), "--force"]

    def convert() -> dict:
        if emptied:
            shutil.rmtree(cache, ignore_errors=True)
            shutil.rmtree(OUT, ignore_errors=True)
        done = run(with_cache(cache, command))
        (made,) = OUT.iterdir()
        return figures(Artifact.open(made).nbytes, done)

    return convert


def quantizing(model: Path, cache: Path) -> Runner:
    """The importance matrix by PyTorch, then llama.cpp's quantizer, each a process."""
    source = float32_gguf(packaged_checkpoint(), WORK / "gguf")
    matrix, out = OUT.with_suffix(".npz"), OUT.with_suffix(".gguf")
    command = [sys.executable, "-m", "benchmarks.importance", str(model), str(matrix)]

    def quantize() -> dict:
        shutil.rmtree(cache, ignore_errors=True)
        found = run(with_cache(cache, command))
        done = run_quantizer(source, "Q4_K_M", out, matrix)
        return figures(tensor_bytes(out), found, done)

    return quantize


def with_cache(cache: Path, command: Sequence[str]) -> list[str]:
    """A command whose cache is ``cache``."""
    return ["env", f"LLMKG_LAB_CACHE={cache}", *command]


def figures(nbytes: int, *runs: Run) -> dict:
    """Of processes one after the other, and how many bytes they made."""
    seconds, peak = sum(r.seconds for r in runs), max(r.peak_bytes for r in runs)
    return {"seconds": seconds, "peak_mb": peak / 1e6, "mb": nbytes / 1e6}


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    start(lambda: main(options))
