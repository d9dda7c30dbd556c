"""The layers that architectures are written in: each takes and gives values of the graph.

A layer knows how its matrix is stored (quantized or floating point) and picks the fused
operator for it, so that an architecture reads like the model's own forward pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import TensorProto

from llmkg_lab.graph.store import Matrix, Parts, Store
from llmkg_lab.graph.writer import Graph
from llmkg_lab.scheme import Layout, Scheme

# MatMulNBits quantizes the activations to int8, block by block, and multiplies integers. The
# other levels are 4 to 30 times slower on a CPU; what it costs in quality is in every report.
ACCURACY_LEVEL = 4
TINY = np.array(1e-30, np.float32)  # in the place of a range of zero


@dataclass
class Layers:
    """Layers over one graph, one store and one scheme.

    layouts: of matrices that are stored otherwise than the scheme says, by the checkpoint's name
        of their first part.
    """

    graph: Graph
    store: Store
    scheme: Scheme
    layouts: Mapping[str, Layout] = field(default_factory=dict)

    def linear(self, x: str, parts: Parts, columns: int, group: str, *, bias: bool = False) -> str:
        """Multiply: x (…, columns) @ weight.T (+ bias) -> (…, rows).

        ``parts`` are modules of the checkpoint with their rows: several make one product, their
        results side by side.
        """
        weights = [(f"{name}.weight", rows) for name, rows in parts]
        layout = self.layouts.get(weights[0][0], self.scheme.linear())
        if layout and layout.dynamic:
            layout = replace(layout, block_size=columns)
        weight = self.store.matrix(weights, columns, layout, group)
        return self.product(x, weight, self.bias(parts, group) if bias else "")

    def bias(self, parts: Parts, group: str) -> str:
        """The biases of some modules, side by side."""
        return self.store.vector([(f"{name}.bias", rows) for name, rows in parts], group)

    def table(self, name: str, rows: int, columns: int, *, is_head: bool) -> Matrix:
        """An embedding table (rows, columns); ``is_head`` where logits are computed with it."""
        layout = self.layouts.get(name, self.scheme.table(is_head=is_head))
        return self.store.matrix([(name, rows)], columns, layout, "embedding")

    def head(self, name: str, rows: int, columns: int) -> Matrix:
        """An LM head (rows, columns) of its own."""
        layout = self.layouts.get(name, self.scheme.table(is_head=True))
        return self.store.matrix([(name, rows)], columns, layout, "head")

    def product(self, x: str, weight: Matrix, bias: str = "", output: str = "") -> str:
        """Multiply: x (…, columns) @ weight.T (+ bias) -> (…, rows)."""
        if weight.layout is None:
            values = self._float32(weight.values)
            if not bias:
                return self.graph.op("FusedMatMul", x, values, transB=1, output=output)
            product = self.graph.op("FusedMatMul", x, values, transB=1)
            return self.graph.op("Add", product, bias, output=output)
        if weight.layout.dynamic:
            return self._integer_product(x, weight, bias, output)
        inputs = [x, weight.values, weight.scales, weight.zero_points, "", bias]
        while not inputs[-1]:  # optional inputs at the end are left out
            inputs.pop()
        return self.graph.op(
            "MatMulNBits",
            *inputs,
            output=output,
            K=weight.columns,
            N=weight.rows,
            bits=weight.layout.bits,
            block_size=weight.layout.block_size,
            accuracy_level=ACCURACY_LEVEL,
        )

    def gather(self, ids: str, table: Matrix) -> str:
        """Rows of a table: ids (batch, sequence) -> (batch, sequence, columns)."""
        if table.layout is None:
            return self.graph.op("Gather", self._float32(table.table), ids)
        inputs = [table.table, ids, table.scales]
        if table.zero_points:
            inputs.append(table.zero_points)
        rows = self.graph.op(
            "GatherBlockQuantized",
            *inputs,
            bits=table.layout.bits,
            block_size=table.layout.block_size,
            gather_axis=0,
            quantize_axis=1,
        )
        if table.columns % table.layout.block_size == 0:
            return rows
        start, stop, axis = (
            self.constant(np.array([value]), f"{table.table}.{end}")
            for end, value in (("start", 0), ("stop", table.columns), ("axis", -1))
        )
        return self.graph.op("Slice", rows, start, stop, axis)  # the last block's padding

    def floats(self, name: str, rows: int, columns: int) -> str:
        """A matrix (rows, columns) that stays float32 in every scheme: too small to matter."""
        return self._float32(self.store.matrix([(name, rows)], columns, None, "other").values)

    def rms_norm(
        self, x: str, residual: str, name: str, size: int, epsilon: float
    ) -> tuple[str, str]:
        """RMS norm (Zhang and Sennrich, 2019, arXiv:1910.07467) of x + residual.

        Returns the norm's output and the sum, which is the next residual; ``""`` as residual
        stands for none.
        """
        gain = self.store.vector([(name, size)], "norms")
        if not residual:
            norm = self.graph.op(
                "SimplifiedLayerNormalization", x, gain, epsilon=epsilon, axis=-1, stash_type=1
            )
            return norm, x
        norm, _, _, total = self.graph.op_many(
            "SkipSimplifiedLayerNormalization",
            *(x, residual, gain),
            outputs=["", None, None, ""],
            epsilon=epsilon,
        )
        return norm, total

    def swiglu(self, both: str) -> str:
        """silu(gate) * up (Shazeer, 2020, arXiv:2002.05202): both (…, 2 width) -> (…, width).

        ``both`` holds the gate's values and, beside them, those of the up projection.
        """
        gate, up = self.graph.op_many("Split", both, outputs=["", ""], axis=-1, num_outputs=2)
        return self.graph.op("Mul", self.graph.op("QuickGelu", gate, alpha=1.0), up)

    def constant(self, array: np.ndarray, name: str) -> str:
        """A tensor that the config implies, not the checkpoint."""
        return self.graph.constant(array, name)

    def _integer_product(self, x: str, weight: Matrix, bias: str, output: str) -> str:
        """The same where x is rounded to 8 bits, each row of it between its own extremes.

        A row is taken apart into its least value, its range, and shares of the range from 0 to 1.
        These are what is multiplied as integers; as they fill the steps from 0 to 255 in each row,
        the operator's one scale for all rows is always the same, and texts of a batch do not touch
        each other. What the least value adds is the weights' sums times it.

        Weights are unsigned, though signed ones would be a fifth faster: the products of those
        with x, added in pairs, may overflow 16 bits on processors without VNNI.
        """
        graph, name = self.graph, weight.table
        last = self.constant(np.array([-1]), f"{name}.last")
        least = graph.op("ReduceMin", x, last, keepdims=1)
        width = graph.op("Sub", graph.op("ReduceMax", x, last, keepdims=1), least)
        width = graph.op("Max", width, self.constant(TINY, f"{name}.tiny"))  # of a constant row
        shares = graph.op("Div", graph.op("Sub", x, least), width)
        codes = graph.op("Transpose", weight.table, perm=[1, 0])  # folded when it is loaded
        scales = graph.op("Squeeze", weight.scales)  # (rows,)
        middle = self.constant(np.full(weight.rows, 128, np.uint8), f"{name}.middle")
        product = graph.op("DynamicQuantizeMatMul", shares, codes, scales, middle)
        offset = graph.op("Mul", least, self._sums(weight, scales, last))
        if bias:
            offset = graph.op("Add", offset, bias)
        return graph.op("Add", graph.op("Mul", product, width), offset, output=output)

    def _sums(self, weight: Matrix, scales: str, last: str) -> str:
        """The sum of each row's weights, (rows,); ONNX Runtime folds it when it loads."""
        graph, name = self.graph, weight.table
        codes = graph.op("Cast", weight.table, to=TensorProto.FLOAT)
        middles = self.constant(np.array(128 * weight.columns, np.float32), f"{name}.middles")
        return graph.op(
            "Mul", graph.op("Sub", graph.op("ReduceSum", codes, last, keepdims=0), middles), scales
        )

    def _float32(self, values: str) -> str:
        if self.scheme.base != "fp16":
            return values
        # ONNX Runtime folds the cast when it loads: half the file, float32 arithmetic
        return self.graph.op("Cast", values, to=TensorProto.FLOAT)
