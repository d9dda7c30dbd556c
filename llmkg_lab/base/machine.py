"""What this machine is: cores, instruction sets, memory, accelerators, as they are for us.

A container may have fewer of them than the machine: affinity and control groups are looked at.
The command line starts through this module, so that it imports what takes time where it is used.
"""

import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BANDWIDTH_BYTES = 1 << 28  # 256 MB: more than any cache holds
CGROUP = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # bytes; version 1 of control groups writes a huge number instead of "max"

# Linux's names of what kernels for products of few bits use -> the usual ones
INSTRUCTION_SETS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX int8",
    "avx512_bf16": "AVX-512 BF16",
    "amx_bf16": "AMX BF16",
    "asimd": "NEON",
    "asimddp": "NEON dotprod",
    "i8mm": "NEON i8mm",
    "sve": "SVE",
}


@dataclass(frozen=True)
class Profile:
    """A machine. Memory is in bytes, bandwidth in GB/s read by ``usable_cores`` threads."""

    cpu: str
    physical_cores: int
    logical_cores: int
    usable_cores: int  # physical ones that affinity and the control group leave
    instruction_sets: tuple[str, ...]
    memory_total: int  # of the machine or, if that is less, of the control group
    memory_available: int
    accelerators: tuple[str, ...]
    read_bandwidth_gb_s: float


def profile() -> Profile:
    """Look at this machine; the bandwidth is measured, which takes less than a second."""
    import psutil

    memory, limit = psutil.virtual_memory(), memory_limit()
    share, cores = cpu_share(), physical_cores()
    usable = max(1, min(cores, int(share))) if share else cores
    used = memory_used() if limit else 0
    return Profile(
        cpu=cpu_name(),
        physical_cores=psutil.cpu_count(logical=False) or 1,
        logical_cores=psutil.cpu_count() or 1,
        usable_cores=usable,
        instruction_sets=instruction_sets(),
        memory_total=min(memory.total, limit or memory.total),
        memory_available=min(memory.available, max(0, limit - used) if limit else memory.available),
        accelerators=accelerators(),
        read_bandwidth_gb_s=round(read_bandwidth(usable), 1),
    )


def physical_cores() -> int:
    """The physical cores that this process may use; hyper-threads slow matrix products down."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or 1, allowed or 1)


def default_threads() -> int:
    """The threads that pay: the physical cores, or fewer where OMP_NUM_THREADS says so."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    cores = physical_cores()
    return min(cores, int(said)) if said.isdecimal() and int(said) else cores


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def instruction_sets(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those that quantized products profit from; none where the system does not tell."""
    if not cpuinfo.exists():
        return ()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    flags = set(match[1].split()) if match else set()
    return tuple(name for flag, name in INSTRUCTION_SETS.items() if flag in flags)


def memory_limit(root: Path = CGROUP) -> int | None:
    """Bytes that the control group allows, None without a limit; version 2, then 1."""
    return _number(root / "memory.max") or _number(root / "memory/memory.limit_in_bytes")


def memory_used(root: Path = CGROUP) -> int:
    """Bytes that the control group has in use."""
    names = ("memory.current", "memory/memory.usage_in_bytes")
    return next((n for name in names if (n := _number(root / name))), 0)


def cpu_share(root: Path = CGROUP) -> float | None:
    """Cores' worth of time that the control group allows, None without a limit."""
    if (root / "cpu.max").exists():
        allowed, of = (root / "cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(of)
    quota, period = (_number(root / f"cpu/cpu.cfs_{part}_us") for part in ("quota", "period"))
    return quota / period if quota and period else None


def accelerators() -> tuple[str, ...]:
    """ONNX Runtime's providers beside the CPU, and CUDA devices where torch is loaded already."""
    import onnxruntime

    providers = [
        provider
        for provider in onnxruntime.get_available_providers()
        if provider not in ("CPUExecutionProvider", "AzureExecutionProvider")  # a remote service
    ]
    torch = sys.modules.get("torch")  # importing it would take seconds
    if torch is not None and torch.cuda.is_available():
        providers += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    elif os.path.exists("/dev/nvidia0"):
        providers.append("NVIDIA device")
    return tuple(providers)


def may_have_gpu() -> bool:
    """Whether to ask torch for one, which takes seconds to import."""
    return any(os.path.exists(f"/dev/{name}") for name in ("nvidia0", "dxg", "kfd"))


def read_bandwidth(threads: int) -> float:
    """GB/s at which ``threads`` threads together read an array that no cache holds."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    parts = np.array_split(np.ones(BANDWIDTH_BYTES // 4, np.float32), threads)
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.max, parts))
            seconds.append(time.perf_counter() - start)
    return BANDWIDTH_BYTES / min(seconds) / 1e9  # the best: interruptions only slow it down


def _number(path: Path) -> int | None:
    """The positive number in a file, None where there is none or it stands for no limit."""
    try:
        value = int(path.read_text())
    except (OSError, ValueError):
        return None
    return value if 0 < value < NO_LIMIT else None
