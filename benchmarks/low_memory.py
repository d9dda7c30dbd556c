"""OpenELM-3B in int4 within 500 MB resident, beside the same artifact held in memory whole.

Its weights are synthetic: sizes and times are those of the real model. The limit is set on the
process that generates (RLIMIT_DATA); another one reads what it printed. Weights are in the
system's file cache, as far as that holds them; a disk alone is as slow as it reads 2.2 GB a token.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import WORK, alternate, compare, publish

from llmkg_lab.artifact import Artifact, ArtifactError
from llmkg_lab.catalog import find_variant
from llmkg_lab.checkpoint import open_checkpoint
from llmkg_lab.convert import convert
from llmkg_lab.cores import default_threads
from llmkg_lab.quantize import Scheme
from llmkg_lab.sources import fetch

VARIANT, SCHEME = "openelm_3b", "int4-b64"
PROMPT, STEPS, POSITIONS = 32, 20, 256

GENERATE = """
import json, sys, time
from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.ort import Decoder
from llmkg_lab.runtime.paged import PagedDecoder
from llmkg_lab.runtime.residency import limit_data
from llmkg_lab.speed import peak_memory
folder = sys.argv[1]
memory, threads, prompt, steps, positions = map(int, sys.argv[2:])
artifact = Artifact.open(folder)
start = time.perf_counter()
if memory:
    limit_data(memory)
    decoder = PagedDecoder(artifact, threads, positions, memory=memory)
else:
    decoder = Decoder(artifact, threads, positions)
load = time.perf_counter() - start
start = time.perf_counter()
token = int(decoder.prefill(range(100, 100 + prompt)).argmax())
first = time.perf_counter() - start
times, tokens = [], []
for _ in range(steps):
    start = time.perf_counter()
    tokens.append(token)
    token = int(decoder.step(token).argmax())
    times.append(time.perf_counter() - start)
print(json.dumps({
    "load_s": load, "first_s": first, "ms": 1000 * sorted(times)[steps // 2],
    "peak_mb": peak_memory() / 1e6, "tokens": tokens,
    "stays_mb": decoder.bytes_staying[0] / 1e6 if memory else None,
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=500, help="MB")
    parser.add_argument("--artifact", type=Path, help="a decoder's folder instead of OpenELM-3B")
    options = parser.parse_args()
    artifact = Artifact.open(options.artifact) if options.artifact else openelm_3b()

    def contestant(memory: int):
        def run() -> dict:
            numbers = (memory * 10**6, default_threads(), PROMPT, STEPS, POSITIONS)
            command = [sys.executable, "-c", GENERATE, str(artifact.folder), *map(str, numbers)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"within {memory} MB: {done.stderr[-1000:]}")
            return json.loads(done.stdout)

        return run

    contestant(options.memory)()  # packs the weights, once
    names = {"whole in memory": 0, f"within {options.memory} MB": options.memory}
    contestants = {name: contestant(memory) for name, memory in names.items()}
    samples = alternate(contestants, options.rounds)
    whole, paged = samples.values()
    assert all(run["tokens"] == whole[0]["tokens"] for run in (*whole, *paged)), "not the same text"
    assert all(run["peak_mb"] <= options.memory for run in paged), "more memory than allowed"
    metrics = {
        "ms": "ms a token",
        "first_s": f"first of {PROMPT} tokens, s",
        "load_s": "load, s",
        "peak_mb": "peak memory, MB",
    }
    publish("low_memory", samples, compare(samples, metrics))


def openelm_3b() -> Artifact:
    """Made once: some minutes, 6 GB for the weights and 2 GB for the artifact."""
    folder = WORK / VARIANT / SCHEME
    try:
        return Artifact.open(folder)
    except ArtifactError:
        fetched = fetch(find_variant(VARIANT), "synthetic:full")
        source = {"kind": fetched.kind, "detail": fetched.detail, "synthetic": True}
        checkpoint = open_checkpoint(fetched.path, fetched.tokenizer)
        return convert(checkpoint, Scheme.parse(SCHEME), folder, source=source, force=True)


if __name__ == "__main__":
    main()
