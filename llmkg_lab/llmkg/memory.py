"""How much memory a model takes: as measured where it was, else estimated from its bytes."""

from dataclasses import dataclass

from llmkg_lab.artifact import Artifact
from llmkg_lab.results.registry import Entry

# Peaks of processes that ran nothing else, SmolLM2-135M at fp32, int8-rtn and int4-rtn (64 tokens)
# and all-MiniLM-L6-v2 at fp32 and int8-rtn (64 texts), were 0.5 to 1.0 of all three together.
OVERHEAD = 1.25  # of the weights' bytes: kernels read some of them in another order
OWN = 60e6  # bytes of one model: tokenizer, activations, a short cache
PROCESS = 120e6  # bytes that all models of a process share: interpreter and runtime
PEAK = "peak_memory_mb"


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes resident that running a model takes; ``measured``: somebody ran it and looked."""

    nbytes: int
    measured: bool
    reason: str


def of_entry(entry: Entry) -> MemoryEstimate:
    """Of an artifact in the registry: the peak of a process that ran nothing else."""
    peak = entry.speed.get(PEAK)
    if peak is None:
        return of_bytes(entry.bytes)
    cpu = entry.conditions.get("cpu", "an unnamed processor")
    reason = f"the peak of a process that ran {entry.variant} at {entry.scheme} on {cpu}"
    return MemoryEstimate(int(peak.value * 1e6), True, reason)


def of_artifact(artifact: Artifact, entry: Entry | None) -> MemoryEstimate:
    """Of an artifact that is here; an estimate is without what all models of a process share."""
    return of_entry(entry) if entry else of_bytes(artifact.nbytes, shared=0)


def of_bytes(nbytes: int, shared: float = PROCESS) -> MemoryEstimate:
    """Of so many bytes of weights, which nobody measured, with what a process needs besides."""
    more = OWN + shared
    weights = f"{nbytes / 1e6:,.0f} MB of weights"
    reason = f"estimated: {OVERHEAD} times {weights}, and {more / 1e6:.0f} MB"
    return MemoryEstimate(int(nbytes * OVERHEAD + more), False, reason)
