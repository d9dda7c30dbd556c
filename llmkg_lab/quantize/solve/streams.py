"""Activations of a long text, on the disk and not in memory.

A text of 64 k tokens has gigabytes of activations on its way through two models. Each tensor that
has to wait for a matrix to be solved lies in a temporary file without a name, which is gone with
the process, and passes through memory some windows at a time.
"""

import os
import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from llmkg_lab.quantize.solve.device import CPU


class Spilled:
    """A float32 tensor (windows, tokens, width) in a file, read and written by windows."""

    def __init__(self, tokens: int, width: int, device: str = CPU) -> None:
        """device: where it is read to."""
        self._device = device
        self._shape = (tokens, width)
        self._stride = tokens * width * 4  # bytes of a window
        self._file = tempfile.TemporaryFile(prefix="llmkg-lab-")  # noqa: SIM115  # closed by close

    def read(self, windows: slice) -> Tensor:
        """Some windows, (n, tokens, width); the caller's own."""
        count = windows.stop - windows.start
        held = torch.empty(count, *self._shape)
        view = memoryview(held.view(-1).numpy()).cast("B")
        if os.preadv(self._file.fileno(), [view], windows.start * self._stride) != len(view):
            raise EOFError(f"windows {windows.start} to {windows.stop} were never written")
        return held.to(self._device)

    def write(self, windows: slice, values: Tensor) -> None:
        """Put ``values`` (n, tokens, width) in the place of some windows."""
        view = memoryview(values.cpu().contiguous().view(-1).numpy()).cast("B")
        written, start = 0, windows.start * self._stride
        while written < len(view):  # a disk may take less at once
            written += os.pwrite(self._file.fileno(), view[written:], start + written)

    def close(self) -> None:
        """Give the disk back."""
        self._file.close()


def chunks(windows: int, tokens: int, at_once: int) -> Iterator[slice]:
    """All windows, some at a time: about ``at_once`` tokens, one window at least."""
    step = max(1, at_once // tokens)
    for start in range(0, windows, step):
        yield slice(start, min(start + step, windows))
