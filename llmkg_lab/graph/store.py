"""Where a graph's weights come from: planned first, then streamed.

An architecture asks its store for every tensor it needs, by checkpoint name and with the
shape that the config implies. A ``Plan`` only writes the requests down, so that a checkpoint
is checked before any work is done. A ``Stream`` reads, quantizes and writes a few rows at a
time, on all cores and in order.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, TypeVar

import numpy as np
from onnx import TensorProto

from llmkg_lab.base.progress import Counter
from llmkg_lab.checkpoint import Checkpoint, CheckpointError
from llmkg_lab.graph.writer import Graph
from llmkg_lab.models import UnsupportedError
from llmkg_lab.quantize.blocks.rounding import Quantized, round_to_nearest
from llmkg_lab.scheme import Layout

CHUNK = 1 << 20  # elements a step: 4 MB of float32; smaller ones cost more handing over than work

Parts = Sequence[tuple[str, int]]  # checkpoint tensors stacked along their rows: (name, rows)
T = TypeVar("T")


@dataclass(frozen=True)
class Matrix:
    """A stored matrix (rows, columns), to be used by one operator or several."""

    rows: int
    columns: int
    layout: Layout | None  # None: floating point
    values: str  # tensor name: the codes (rows, blocks, bytes) or the floats (rows, columns)
    table: str  # the same bytes in two dimensions, as a gather wants them
    scales: str = ""
    zero_points: str = ""


@dataclass
class Use:
    """What one stored tensor takes, and what storing it cost."""

    name: str
    group: str
    parameters: int
    nbytes: int = 0
    squared_error: float = 0.0  # sum of (weight - stored)²
    energy: float = 0.0  # sum of weight²


class Store(Protocol):
    """What an architecture sees of the weights. ``group`` names the row of the size table."""

    def matrix(self, parts: Parts, columns: int, layout: Layout | None, group: str) -> Matrix:
        """The matrices ``parts``, each (rows, columns), stacked to one."""

    def vector(self, parts: Parts, group: str) -> str:
        """The vectors ``parts``, one after the other, as one float32 tensor."""


@dataclass
class Plan:
    """A store that only notes which tensors will be read, and of which shape."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def matrix(self, parts: Parts, columns: int, layout: Layout | None, group: str) -> Matrix:
        self.shapes.update({name: (rows, columns) for name, rows in parts})
        name, rows = parts[0][0], sum(rows for _, rows in parts)
        return Matrix(rows, columns, layout, f"{name}.values", f"{name}.table")

    def vector(self, parts: Parts, group: str) -> str:
        self.shapes.update({name: (size,) for name, size in parts})
        return parts[0][0]


class Stream:
    """A store that moves tensors from a checkpoint into a graph's data file.

    float_type: how matrices without a layout are stored, float32 or float16.
    moved: counts the bytes of checkpoint that were read.
    solved: matrices that a solver has quantized already, by checkpoint name.
    quantize: what all others go through.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        graph: Graph,
        float_type: type[np.floating],
        moved: Counter,
        solved: Mapping[str, Quantized] = MappingProxyType({}),
        quantize: Callable[[np.ndarray, Layout], Quantized] = round_to_nearest,
    ) -> None:
        self.uses: list[Use] = []
        self._checkpoint = checkpoint
        self._graph = graph
        self._float_type = float_type
        self._moved = moved
        self._solved = solved
        self._quantize = quantize

    def matrix(self, parts: Parts, columns: int, layout: Layout | None, group: str) -> Matrix:
        rows = sum(rows for _, rows in parts)
        use = Use(parts[0][0], group, rows * columns)
        start = self._graph.data.align()
        if layout is None:
            stored = self._store_floats(parts, rows, columns, use)
        else:
            stored = self._store_codes(parts, rows, columns, layout, use)
        use.nbytes = self._graph.data.size - start
        if not np.isfinite(use.energy):
            raise CheckpointError(f"{self._checkpoint.path}: {use.name} overflows when squared")
        self.uses.append(use)
        return stored

    def vector(self, parts: Parts, group: str) -> str:
        values = np.concatenate([self._checkpoint.read(name) for name, _ in parts])
        for name, size in parts:
            self._advance(name, size)
        self.uses.append(Use(parts[0][0], group, values.size, values.nbytes))
        return self._graph.constant(values, parts[0][0])

    def _store_floats(self, parts: Parts, rows: int, columns: int, use: Use) -> Matrix:
        def cast(weight: np.ndarray, name: str, _: slice) -> tuple[np.ndarray, float, float]:
            stored = _narrowed(weight, self._float_type, name)
            return stored, _energy(stored.astype(np.float32, copy=False) - weight), _energy(weight)

        start = self._graph.data.size
        for stored, squared_error, energy in self._map(cast, parts, columns):
            self._graph.data.append(stored)
            use.squared_error += squared_error
            use.energy += energy
        nbytes = self._graph.data.size - start
        tensor = self._graph.external(use.name, self._float_type, (rows, columns), start, nbytes)
        return Matrix(rows, columns, None, tensor, tensor)

    def _store_codes(
        self, parts: Parts, rows: int, columns: int, layout: Layout, use: Use
    ) -> Matrix:
        def quantize(weight: np.ndarray, name: str, rows: slice) -> tuple[Quantized, float]:
            if name in self._solved:
                return self._solved[name].rows(rows, weight), _energy(weight)
            return self._quantize(weight, layout), _energy(weight)

        graph, name = self._graph, use.name
        start = graph.data.size
        scales, zero_points = [], []
        for part, energy in self._map(quantize, parts, columns):
            graph.data.append(part.codes)
            scales.append(part.scales)
            if part.zero_points is not None:
                zero_points.append(part.zero_points)
            use.squared_error += part.squared_error
            use.energy += energy
        nbytes = graph.data.size - start
        shape = (rows, layout.blocks(columns), layout.block_size * layout.bits // 8)
        table = (rows, shape[1] * shape[2])
        return Matrix(
            rows,
            columns,
            layout,
            graph.external(f"{name}.codes", np.uint8, shape, start, nbytes),
            graph.external(f"{name}.table", np.uint8, table, start, nbytes),
            self._store_scales(np.concatenate(scales), layout, f"{name}.scales"),
            ""
            if layout.symmetric
            else graph.constant(np.concatenate(zero_points), f"{name}.zero_points"),
        )

    def _store_scales(self, scales: np.ndarray, layout: Layout, name: str) -> str:
        if not layout.half_scales:
            return self._graph.constant(scales, name)
        half = self._graph.constant(_narrowed(scales, np.float16, name), name)
        # ONNX Runtime folds the cast when it loads, before the operators pack their weights
        return self._graph.op("Cast", half, to=TensorProto.FLOAT)

    def _map(
        self, work: Callable[[np.ndarray, str, slice], T], parts: Parts, columns: int
    ) -> Iterator[T]:
        """``work`` on chunks of rows, in order; reading and working overlap across threads."""
        step = max(1, CHUNK // columns)
        chunks = [
            (name, slice(start, min(start + step, rows)))
            for name, rows in parts
            for start in range(0, rows, step)
        ]
        cores = os.cpu_count() or 1
        pending: deque[tuple[str, slice, Future[T]]] = deque()
        with ThreadPoolExecutor(cores) as pool:
            for name, rows in chunks:
                job = pool.submit(lambda n, r: work(self._checkpoint.read(n, r), n, r), name, rows)
                pending.append((name, rows, job))
                if len(pending) > 2 * cores:  # bounds what is in memory
                    yield self._finish(*pending.popleft(), columns)
            while pending:
                yield self._finish(*pending.popleft(), columns)

    def _finish(self, name: str, rows: slice, job: Future[T], columns: int) -> T:
        result = job.result()
        self._advance(name, (rows.stop - rows.start) * columns)
        return result

    def _advance(self, name: str, elements: int) -> None:
        info = self._checkpoint.tensors[name]
        self._moved.advance(info.nbytes * elements // int(np.prod(info.shape)))


def _narrowed(values: np.ndarray, dtype: type[np.floating], name: str) -> np.ndarray:
    """Values in a narrower type. Raises UnsupportedError where it has no number for one of them."""
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype, copy=False)
    if narrow is not values and not np.isfinite(narrow).all():
        raise UnsupportedError(
            f"{name} holds values beyond {np.dtype(dtype).name}'s range",
            "use fp32, or int8 or int4 with scales in float32",
        )
    return narrow


def _energy(values: np.ndarray) -> float:
    # einsum, not dot: BLAS would start threads of its own under the pool's
    return float(np.einsum("ij,ij->", values, values))
