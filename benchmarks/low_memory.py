"""OpenELM-3B in int4 within 500 MB resident, beside the same artifact without a limit.

Its weights are synthetic: sizes and times are those of the real model. The limit is set on the
process that generates (RLIMIT_DATA). A prompt of 32 tokens, then 32 more; both write the same.
Weights are in the system's file cache, as far as that holds them; a disk alone is as slow as it
reads 2.2 GB a token. The first time takes some minutes and 15 GB of disk: the weights, the
artifact, and its weights packed for this processor in two ways.
"""

import json
import os
import subprocess
import sys
from argparse import Namespace

from tqdm import tqdm

from benchmarks.common import HERE, WORK, Runner, arguments, start
from benchmarks.contestants import code_hash
from benchmarks.measure import Benchmark
from llmkg_lab.artifact import Artifact
from llmkg_lab.base.bar import Bar
from llmkg_lab.conversion.to_onnx import convert_all
from llmkg_lab.roster.catalog import find_variant
from llmkg_lab.runtime.ort.packed import packed, prepare
from llmkg_lab.sources import Fetched, fetch

VARIANT, SCHEME, LIMIT = "openelm_3b", "int4-b64", 500  # MB
DISK = 15e9  # bytes, where nothing is there yet
METRICS = {
    "decode_ms": "a token, ms",
    "prefill_s": "prompt of 32, s",
    "load_s": "load, s",
    "peak_mb": "peak memory, MB",
    "stays_mb": "weights that stay, MB",
}
BENCHMARK = Benchmark("low_memory", f"OpenELM-3B at {SCHEME} within {LIMIT} MB", METRICS)


def main(options: Namespace) -> None:
    artifact, conditions = openelm_3b(), {"threads": options.threads, "limit_mb": LIMIT}
    contestants = {
        "no limit": generating(artifact, 0, options.threads),
        f"within {LIMIT} MB": generating(artifact, LIMIT * 10**6, options.threads),
    }
    samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    free, bound = samples.values()
    if any(run["tokens"] != free[0]["tokens"] for run in (*free, *bound)):
        sys.exit("with and without a limit, the texts differ")
    if any(run["peak_mb"] > LIMIT for run in bound):
        sys.exit(f"more than {LIMIT} MB were resident")
    tokens = len(free[0]["tokens"])
    note = f"{options.threads} threads; {tokens} tokens a round, the same in all."
    BENCHMARK.publish(samples, conditions, note, ("decode_ms", "peak_mb"))


def generating(artifact: Artifact, limit: int, threads: int) -> Runner:
    """generate.py in a process of its own, which a limit of so many bytes binds; 0 is none."""
    command = [sys.executable, str(HERE / "generate.py"), str(artifact.folder)]
    command += [str(limit), str(threads)]
    # a thread of NumPy's OpenBLAS takes 40 MB that the limit counts
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}

    def generate() -> dict:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: {done.stderr[-1000:]}")
        return json.loads(done.stdout)

    return generate


def synthetic() -> Fetched:
    """OpenELM-3B's shape with weights drawn at random, made once: 6 GB."""
    with Bar() as bar:
        return fetch(find_variant(VARIANT), "synthetic:full", progress=bar)


def openelm_3b() -> Artifact:
    """Made once, and its weights packed, both as a whole and in segments."""
    fetched = synthetic()
    checkpoint = fetched.open()
    folder, source = WORK / VARIANT / code_hash()[:12], {"kind": fetched.kind, "synthetic": True}
    with Bar() as bar:
        made = convert_all(checkpoint, [SCHEME], folder, source=source, progress=bar)
    artifact = made[SCHEME]
    with tqdm(desc="packing for this processor", total=2, unit="way") as bar:
        for pack in (prepare, packed):
            pack(artifact)
            bar.update()
    return artifact


if __name__ == "__main__":
    start(lambda: main(arguments(__doc__).parse_args()))
