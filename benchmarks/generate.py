"""Greedy tokens in a process that may be held to some memory; run by low_memory.py.

generate.py ARTIFACT BYTES THREADS        samples and tokens as JSON; 0 bytes: no limit
"""

import json
import sys
import time

from llmkg_lab.artifact import Artifact
from llmkg_lab.measure.speed import peak_memory

PROMPT, STEPS, POSITIONS = 32, 32, 256


def main(folder: str, limit: int, threads: int) -> None:
    from llmkg_lab.runtime.ort.decoder import Decoder
    from llmkg_lab.runtime.ort.paged import PagedDecoder
    from llmkg_lab.runtime.ort.residency import limit_data

    start = time.perf_counter()
    if limit:
        limit_data(limit)
        decoder = PagedDecoder(Artifact.open(folder), threads, POSITIONS, memory=limit)
        stays = {"stays_mb": decoder.bytes_staying[0] / 1e6}
    else:
        decoder, stays = Decoder(Artifact.open(folder), threads, POSITIONS), {}
    load = time.perf_counter() - start
    start = time.perf_counter()
    token = int(decoder.prefill(range(100, 100 + PROMPT)).argmax())
    prefill = time.perf_counter() - start
    times, tokens = [], []
    for _ in range(STEPS):
        start = time.perf_counter()
        tokens.append(token)
        token = int(decoder.step(token).argmax())
        times.append(1000 * (time.perf_counter() - start))
    decode = sorted(times)[STEPS // 2]
    figures = {"load_s": load, "prefill_s": prefill, "decode_ms": decode, **stays}
    print(json.dumps({**figures, "peak_mb": peak_memory() / 1e6, "tokens": tokens}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
