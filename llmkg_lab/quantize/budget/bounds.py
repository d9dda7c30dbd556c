"""What the shapes of a model alone say of a byte budget, before anything is measured."""

import math

from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.models.base import Unit
from llmkg_lab.quantize.budget.options import CANDIDATES, TABLES, fixed_bytes, stored_bytes
from llmkg_lab.scheme import Layout, Scheme, SchemeError

SOUND_BITS = 4  # of the matrices; with fewer a small model is rarely acceptable


def check(checkpoint: Checkpoint, scheme: Scheme) -> None:
    """Raise SchemeError where not even the smallest layouts fit a scheme's budget."""
    if not scheme.budget:
        return
    wanted = scheme.budget.nbytes(checkpoint.parameters)
    least = least_bytes(checkpoint)
    if wanted < least:
        sound = math.ceil(least_bytes(checkpoint, SOUND_BITS) / 1e5) / 10
        raise SchemeError(
            f"a budget of {wanted / 1e6:.1f} MB: the smallest mix takes {least / 1e6:.1f} MB",
            f"budget:{sound:g}MB leaves every matrix {SOUND_BITS} bits; `small` is the smallest "
            "scheme known to be sound",
        )


def least_bytes(checkpoint: Checkpoint, least_bits: int = 0) -> int:
    """Return the bytes of the smallest artifact whose layouts have at least so many bits."""
    units = checkpoint.form.units()
    return fixed_bytes(checkpoint) + sum(_least(checkpoint, unit, least_bits) for unit in units)


def _least(checkpoint: Checkpoint, unit: Unit, least_bits: int) -> int:
    layouts: tuple[Layout, ...] = TABLES if unit.kind in ("table", "head") else CANDIDATES
    rows = sum(checkpoint.tensors[name].shape[0] for name in unit.parts)
    columns = checkpoint.tensors[unit.parts[0]].shape[1]
    allowed = (layout for layout in layouts if layout.bits >= least_bits)
    return min(stored_bytes(layout, rows, columns) for layout in allowed)
