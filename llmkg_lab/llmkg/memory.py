"""How much memory a model takes: as measured where it was, else estimated from its bytes."""

from dataclasses import dataclass

from llmkg_lab.artifact import Artifact
from llmkg_lab.results.registry import Entry

# Peaks of processes that ran nothing else, SmolLM2-135M at fp32, int8-rtn and int4-rtn (64 tokens)
# and all-MiniLM-L6-v2 at fp32 and int8-rtn (64 texts), were 0.5 to 1.0 of what follows from these.
OVERHEAD = 1.25  # of the weights' bytes: kernels read some of them in another order
FIXED = 180e6  # bytes: interpreter, runtime and tokenizer, activations, a short cache
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
    """Of an artifact that is here."""
    return of_entry(entry) if entry else of_bytes(artifact.nbytes)


def of_bytes(nbytes: int) -> MemoryEstimate:
    """Of so many bytes of weights, which nobody measured."""
    reason = f"estimated: {OVERHEAD} times {nbytes / 1e6:,.0f} MB of weights, and a runtime"
    return MemoryEstimate(int(nbytes * OVERHEAD + FIXED), False, reason)
