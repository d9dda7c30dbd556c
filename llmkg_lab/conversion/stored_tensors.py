"""The tensors of a graph by name, and the matrices among them: what the engine reads."""

from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto, helper

PRODUCT, TABLE = "MatMulNBits", "GatherBlockQuantized"


class Stored(str):
    """The name of a stored tensor."""

    __slots__ = ()


@dataclass(frozen=True)
class Matrix:
    """A matrix of integer codes; the tensors by name, None where there is none."""

    rows: int
    columns: int
    bits: int
    block_size: int
    half_scales: bool
    codes: Stored
    scales: Stored
    zeros: Stored | None
    bias: Stored | None


class NotOursError(Exception):
    """A graph that the engine does not compute; the message says why."""


class StoredTensors:
    """The stored tensors of a graph, and what is made of them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def maker(self, value: str, *kinds: str) -> NodeProto:
        """The node that computes ``value``. Raises NotOursError where it is of another kind."""
        node = self._makers.get(value)
        if node is None or node.op_type not in kinds:
            found = node.op_type if node else "nothing"
            raise NotOursError(f"{found} stands where {kinds[0]} is expected")
        return node

    def is_made_by(self, value: str, *kinds: str) -> bool:
        """Whether a node of one of these kinds computes ``value``."""
        node = self._makers.get(value)
        return node is not None and node.op_type in kinds

    def floats(self, name: str, *shape: int) -> Stored:
        """A float32 tensor of this shape; -1 stands for any number."""
        tensor = self._tensors.get(name)
        sizes = zip(tensor.dims, shape, strict=True) if tensor else ()
        if (
            tensor is None
            or tensor.data_type != TensorProto.FLOAT
            or any(wanted not in (size, -1) for size, wanted in sizes)
        ):
            raise NotOursError(f"{name} is not a float32 tensor of the shape {shape}")
        return Stored(name)

    def rows(self, name: str) -> int:
        return int(self._tensors[name].dims[0])

    def matrix(self, node: NodeProto) -> Matrix:
        """The matrix of a product."""
        names = [*node.input, *[""] * (6 - len(node.input))]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if names[4]:
            raise NotOursError("a matrix has its channels in another order")
        sizes = (attributes["N"], attributes["K"], attributes["bits"], attributes["block_size"])
        return self._made(sizes, names[1], names[2], names[3], names[5])

    def table(self, node: NodeProto, columns: int) -> Matrix:
        """The matrix whose rows are gathered."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        zeros = node.input[3] if len(node.input) > 3 else ""
        rows = self.rows(self.name(node.input[0]))
        sizes = (rows, columns, attributes["bits"], attributes["block_size"])
        return self._made(sizes, node.input[0], node.input[2], zeros, "")

    def _made(
        self, sizes: tuple[int, int, int, int], codes: str, scales: str, zeros: str, bias: str
    ) -> Matrix:
        stored_scales = self.name(scales)
        return Matrix(
            *sizes,
            half_scales=self._tensors[stored_scales].data_type == TensorProto.FLOAT16,
            codes=self.name(codes),
            scales=stored_scales,
            zeros=self.name(zeros) if zeros else None,
            bias=self.name(bias) if bias else None,
        )

    def name(self, name: str) -> Stored:
        """The tensor behind a value; half-precision scales are cast before they are used."""
        while name not in self._tensors:
            maker = self._makers.get(name)
            if maker is None or maker.op_type != "Cast":
                raise NotOursError(f"{name} is computed, not stored")
            name = maker.input[0]
        return Stored(name)
