"""Memory over many calls: generations, batches and embeddings, 10,000 in all.

leak.py DECODER EMBEDDER [--calls N]       two artifact folders; exits with 1 on a leak
"""

import argparse
import sys

import numpy as np
import psutil

from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.batch_decoder import BatchDecoder
from llmkg_lab.runtime.ort import Decoder, Embedder

GROWTH = 0.01  # of the resident bytes after the first tenth of the calls


def growth(decoder: Artifact, embedder: Artifact, calls: int) -> float:
    """Resident bytes at the end over those after a tenth of the calls, less 1."""
    one, batch = Decoder(decoder, max_length=64), BatchDecoder(decoder, 4, max_length=64)
    embed, rng = Embedder(embedder), np.random.default_rng(0)

    def call(i: int) -> None:
        prompt = rng.integers(0, one.vocab, rng.integers(1, 20)).tolist()
        if i % 3 == 0:
            list(one.generate(prompt, 2))
        elif i % 3 == 1:
            list(batch.generate([prompt, prompt[:1]], 2))
        else:
            embed.embed(["word " * int(n) for n in rng.integers(1, 24, 3)])

    process, start = psutil.Process(), 0
    for i in range(calls):
        call(i)
        if i == calls // 10:
            start = process.memory_info().rss
    return process.memory_info().rss / start - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoder")
    parser.add_argument("embedder")
    parser.add_argument("--calls", type=int, default=10_000)
    options = parser.parse_args()
    grown = growth(Artifact.open(options.decoder), Artifact.open(options.embedder), options.calls)
    print(f"{options.calls:,} calls: resident memory grew by {100 * grown:.2f} %")
    sys.exit(grown >= GROWTH)


if __name__ == "__main__":
    main()
