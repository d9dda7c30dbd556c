"""A decoder's tensors, found in its graph: what our own engine reads in place of the operators.

The engine (engine/) computes what the graph says, from the same bytes. So the graph is
what is asked: its operators, in the order of the forward pass, must be those of a decoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto, TensorProto, helper

NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
PRODUCT, ATTENTION, TABLE = "MatMulNBits", "GroupQueryAttention", "GatherBlockQuantized"
# what stands between them and is told by nothing else
SILENT = frozenset(
    ("Cast", "Concat", "Cos", "Gather", "Mul", "Neg", "QuickGelu", "Range", "ReduceSum", "Reshape")
) | frozenset(("Shape", "Sin", "Slice", "Split", "Sub", "Unsqueeze"))
FREQUENCIES = "inverse_frequencies"


@dataclass(frozen=True)
class Matrix:
    """A matrix of integer codes; the tensors by name, None where there is none."""

    rows: int
    columns: int
    bits: int
    block_size: int
    half_scales: bool
    codes: str
    scales: str
    zeros: str | None
    bias: str | None


@dataclass(frozen=True)
class Layer:
    """The tensors of one layer, and its own sizes."""

    heads: int
    kv_heads: int
    width: int
    attention_norm: str
    query_norm: str | None
    key_norm: str | None
    width_norm: str
    qkv: Matrix
    output: Matrix
    gate_up: Matrix
    down: Matrix


@dataclass(frozen=True)
class Decoder:
    """A decoder as the engine's description has it."""

    vocab: int
    hidden: int
    head_dim: int
    epsilon: float
    frequencies: str
    last_norm: str
    table: Matrix
    head: Matrix
    layers: tuple[Layer, ...] = field(default=())


class NotOursError(Exception):
    """A graph that the engine does not compute; the message says why."""


def read_decoder(model: onnx.ModelProto) -> Decoder:
    """Find the tensors of a decoder's graph. Raises NotOursError on anything else."""
    return _Walk(model).decoder()


class _Walk:
    """The graph's telling operators, one after the other."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._inputs = {value.name: value for value in graph.input}
        self._nodes = list(self._telling(graph.node))
        self._next = 0

    def decoder(self) -> Decoder:
        if FREQUENCIES not in self._tensors or "past_key_values.0.key" not in self._inputs:
            raise NotOursError("it is not a decoder with rotary positions")
        table_node = self._take(TABLE)
        cache = self._inputs["past_key_values.0.key"].type.tensor_type.shape
        layers, epsilon = [], None
        while (node := self._take(*NORMS)) and self._after(1) is not None:
            epsilon = helper.get_node_attr_value(node, "epsilon")
            layers.append(self._layer(node))
        head = self._matrix(self._take(PRODUCT))
        if epsilon is None:
            raise NotOursError("it has no layers")
        return Decoder(
            vocab=head.rows,
            hidden=head.columns,
            head_dim=cache.dim[3].dim_value,
            epsilon=epsilon,
            frequencies=FREQUENCIES,
            last_norm=self._gain(node),
            table=self._table(table_node, head.columns),
            head=head,
            layers=tuple(layers),
        )

    def _layer(self, norm: NodeProto) -> Layer:
        qkv = self._matrix(self._take(PRODUCT))
        of_heads = [self._gain(node) for node in self._take_all(*NORMS)]
        if len(of_heads) not in (0, 2):
            raise NotOursError("a layer norms something other than queries and keys")
        query_norm, key_norm = of_heads or (None, None)
        attention = self._take(ATTENTION)
        output = self._matrix(self._take(PRODUCT))
        width_norm = self._gain(self._take(*NORMS))
        gate_up, down = self._matrix(self._take(PRODUCT)), self._matrix(self._take(PRODUCT))
        return Layer(
            heads=helper.get_node_attr_value(attention, "num_heads"),
            kv_heads=helper.get_node_attr_value(attention, "kv_num_heads"),
            width=down.columns,
            attention_norm=self._gain(norm),
            query_norm=query_norm,
            key_norm=key_norm,
            width_norm=width_norm,
            qkv=qkv,
            output=output,
            gate_up=gate_up,
            down=down,
        )

    def _telling(self, nodes: "list[NodeProto]") -> Iterator[NodeProto]:
        for node in nodes:
            if node.op_type in (PRODUCT, ATTENTION, TABLE, *NORMS):
                yield node
            elif node.op_type not in SILENT:
                raise NotOursError(f"it computes {node.op_type}")

    def _take(self, *kinds: str) -> NodeProto:
        node = self._after(0)
        if node is None or node.op_type not in kinds:
            found = node.op_type if node else "nothing"
            raise NotOursError(f"{found} stands where {kinds[0]} is expected")
        self._next += 1
        return node

    def _take_all(self, *kinds: str) -> Iterator[NodeProto]:
        while (node := self._after(0)) is not None and node.op_type in kinds:
            self._next += 1
            yield node

    def _after(self, count: int) -> NodeProto | None:
        at = self._next + count
        return self._nodes[at] if at < len(self._nodes) else None

    def _gain(self, node: NodeProto) -> str:
        return self._stored(node.input[1 if node.op_type == NORMS[0] else 2])

    def _matrix(self, node: NodeProto) -> Matrix:
        names = [*node.input, *[""] * (6 - len(node.input))]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if names[4]:
            raise NotOursError("a matrix has its channels in another order")
        sizes = (attributes["N"], attributes["K"], attributes["bits"], attributes["block_size"])
        return self._made(sizes, names[1], names[2], names[3], names[5])

    def _table(self, node: NodeProto, columns: int) -> Matrix:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        zeros = node.input[3] if len(node.input) > 3 else ""
        rows = self._tensors[self._stored(node.input[0])].dims[0]
        sizes = (rows, columns, attributes["bits"], attributes["block_size"])
        return self._made(sizes, node.input[0], node.input[2], zeros, "")

    def _made(
        self, sizes: tuple[int, int, int, int], codes: str, scales: str, zeros: str, bias: str
    ) -> Matrix:
        scales = self._stored(scales)
        return Matrix(
            *sizes,
            half_scales=self._tensors[scales].data_type == TensorProto.FLOAT16,
            codes=self._stored(codes),
            scales=scales,
            zeros=self._stored(zeros) if zeros else None,
            bias=self._stored(bias) if bias else None,
        )

    def _stored(self, name: str) -> str:
        """The tensor behind a value; half-precision scales are cast before they are used."""
        while name not in self._tensors:
            maker = self._makers.get(name)
            if maker is None or maker.op_type != "Cast":
                raise NotOursError(f"{name} is computed, not stored")
            name = maker.input[0]
        return name
