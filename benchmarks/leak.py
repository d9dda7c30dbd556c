"""Memory over 10,000 calls: generations, batches and embeddings of the real models in int4.

Prompts and texts are short and of all lengths up to eight tokens: calls count, not tokens.

Exits with 1 where resident memory grew by 1 % or more after the first tenth of the calls.
"""

import argparse
import sys

import numpy as np
import psutil
from tqdm import tqdm

from benchmarks.common import start
from llmkg_lab.artifact import Artifact
from llmkg_lab.runtime.ort.batch_decoder import BatchDecoder
from llmkg_lab.runtime.ort.decoder import Decoder, Embedder

GROWTH = 0.01  # of the resident bytes after the first tenth of the calls


def growth(decoder: Artifact, embedder: Artifact, calls: int) -> float:
    """Resident bytes at the end over those after a tenth of the calls, less 1."""
    one, batch = Decoder(decoder, max_length=64), BatchDecoder(decoder, 4, max_length=64)
    embed, rng = Embedder(embedder), np.random.default_rng(0)

    def call(i: int) -> None:
        prompt = rng.integers(0, one.vocab, rng.integers(1, 9)).tolist()
        if i % 3 == 0:
            list(one.generate(prompt, 2))
        elif i % 3 == 1:
            list(batch.generate([prompt, prompt[:1]], 2))
        else:
            embed.embed(["word " * int(n) for n in rng.integers(1, 9, 3)])

    process, first = psutil.Process(), 0
    for i in tqdm(range(calls), unit="call", mininterval=1):
        call(i)
        if i == calls // 10:
            first = process.memory_info().rss
    return process.memory_info().rss / first - 1


def main() -> None:
    from benchmarks.decoders import our_models
    from benchmarks.embedders import our_embedders

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    calls = parser.parse_args().calls
    grown = growth(our_models()["int4-rtn"], our_embedders()["int4-rtn"], calls)
    print(f"{calls:,} calls: resident memory grew by {100 * grown:+.2f} %")
    sys.exit(grown >= GROWTH)


if __name__ == "__main__":
    start(main)
