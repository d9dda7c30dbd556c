"""Where calibration text passes through a model: a GPU that has room for it, else the processor.

Matrices are solved on the processor in both cases. The sums that they are solved from are the same
but for their last digits.
"""

from collections.abc import Sequence
from functools import cache

from llmkg_lab.base import machine
from llmkg_lab.checkpoint.base import Checkpoint

CPU, GPU = "cpu", "cuda"  # as torch calls them, AMD's GPUs too
SPARE_BYTES = 4 << 30  # of a GPU's memory: what passes through, and sums over it


def device_of(checkpoint: Checkpoint) -> str:
    """CPU or GPU. ``CUDA_VISIBLE_DEVICES=`` hides all GPUs, as everywhere."""
    return GPU if _fits(4 * checkpoint.parameters + SPARE_BYTES) else CPU


@cache  # one model passes in one place, whatever else takes the GPU's memory meanwhile
def _fits(nbytes: int) -> bool:
    if not machine.may_have_gpu():
        return False
    import torch

    return torch.cuda.is_available() and torch.cuda.mem_get_info()[0] >= nbytes


def gpu_name(device: str) -> str | None:
    """Of the GPU that ``device`` is; None of the processor."""
    if device == CPU:
        return None
    import torch

    return str(torch.cuda.get_device_name(device))


def arithmetic(device: str) -> Sequence[str]:
    """What says how products are rounded there, for keys of the cache."""
    name = gpu_name(device)
    return [name] if name else machine.instruction_sets()  # with AMX, factors are in bfloat16
