"""What this machine is: cores, instruction sets, memory, accelerators; and what suits it."""

import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

BANDWIDTH_BYTES = 1 << 28  # 256 MB: more than any cache holds


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def read_bandwidth(threads: int) -> float:
    """GB/s at which ``threads`` threads together read an array that no cache holds."""
    parts = np.array_split(np.ones(BANDWIDTH_BYTES // 4, np.float32), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            seconds.append(time.perf_counter() - start)
    return BANDWIDTH_BYTES / min(seconds) / 1e9  # the best: interruptions only slow it down
