"""How much text calibration reads, and how long that will take here."""

import time

from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.quantize.solve.coupled import WIDEST
from llmkg_lab.quantize.solve.device import CPU, device_of
from llmkg_lab.scheme import SchemeError

EFFORTS = {"quick": 4096, "normal": 16384, "high": 262144}  # tokens, for COLUMNS or more of them
EFFORT = "normal"
COLUMNS = 1536  # narrower matrices need less text, in proportion
LEAST = 2048  # tokens, but for that
ALONE = 2  # of the model's own text, where it is alone: more makes up for what it lacks

# What was measured on SmolLM2-135M with two threads of Xeons with and without AMX. Passing and
# walking take the operations counted below at the speed of one large product, and these shares of
# them at that of one in float32, for what is none; the others so many times theirs.
PASSING, WALKING, SOLVING, WRITING = 1.5, 0.85, 150.0, 5.0
ON_GPU = 18.0  # passing and walking take on an H200, which waits for the disk and small kernels
PROBE = 1024  # rows and columns of that product
PROBING = 0.2  # seconds


def check_effort(effort: str) -> None:
    """Raise SchemeError for an effort that is not known."""
    if effort not in EFFORTS:
        raise SchemeError(f"there is no effort {effort!r}", f"choose one of {', '.join(EFFORTS)}")


def tokens_of(effort: str, columns: int, *, alone: bool = False) -> int:
    """How much an effort reads for a model whose widest matrix has so many columns, in tokens.

    alone: whether the model writes all of it. Raises SchemeError for an effort that is not known.
    """
    check_effort(effort)
    most = min((ALONE if alone else 1) * EFFORTS[effort], EFFORTS["high"])
    return max(LEAST, int(most * min(1.0, columns / COLUMNS)))


def widest(checkpoint: Checkpoint) -> int:
    """The columns of the widest matrix."""
    shapes = (info.shape for info in checkpoint.tensors.values())
    return max(shape[1] for shape in shapes if len(shape) == 2)


def seconds_of(
    checkpoint: Checkpoint, tokens: int, *, written: int = 0, again: bool = False
) -> float:
    """About how long a decoder's calibration takes on this machine, as busy as it is now.

    written: how many tokens the model writes itself; again: how much outputs count is known
    already. A fifth of a second is measured.
    """
    walked = solved = passed = 0
    for unit in checkpoint.form.units():
        if unit.layer >= 0:
            shapes = [checkpoint.tensors[name].shape for name in unit.parts]
            rows, columns = sum(shape[0] for shape in shapes), shapes[0][1]
            walked += 5 * rows * columns + 2 * columns**2  # products, and sums of their inputs
            passed += 6 * rows * columns + rows * min(rows, WIDEST)  # forward twice, and back
            solved += rows * columns**2
    device = device_of(checkpoint)
    slow, fast = _speed("highest", CPU), _speed("medium", device)
    passing, walking = 0 if again else tokens * passed, tokens * walked
    writing = WRITING * written * 2 * checkpoint.parameters
    others = SOLVING * solved + writing
    if device != CPU:
        return ON_GPU * (passing + walking) / fast + others / slow
    return (passing + walking) / fast + (PASSING * passing + WALKING * walking + others) / slow


def _speed(precision: str, device: str) -> float:
    """Operations a second in products of float32, with factors in bfloat16 for "medium"."""
    import torch

    from llmkg_lab.quantize.solve.sums import products

    x = torch.ones(PROBE, PROBE, device=device)
    with products(precision):
        float((x @ x)[0, 0])  # what is prepared once
        start, count = time.perf_counter(), 0
        while (took := time.perf_counter() - start) < PROBING / 2:
            float((x @ x)[0, 0])  # a GPU is waited for
            count += 1
    return 2 * PROBE**3 * count / took
