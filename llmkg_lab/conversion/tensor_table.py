"""A decoder's tensors, found in its graph: what our own engine reads in place of the operators.

The engine (engine/) computes what the graph says, from the same bytes. So the graph is
what is asked: its operators, in the order of the forward pass, must be those of a decoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto, helper

from llmkg_lab.conversion.stored_tensors import (
    PRODUCT,
    TABLE,
    Matrix,
    NotOursError,
    Stored,
    StoredTensors,
)

NORMS = ("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization")
ATTENTION = "GroupQueryAttention"
# what stands between them and is told by nothing else
SILENT = frozenset(
    ("Cast", "Concat", "Cos", "Gather", "Mul", "Neg", "QuickGelu", "Range", "ReduceSum", "Reshape")
) | frozenset(("Shape", "Sin", "Slice", "Split", "Sub", "Unsqueeze"))
FREQUENCIES = "inverse_frequencies"


@dataclass(frozen=True)
class Layer:
    """The tensors of one layer, and its own sizes."""

    heads: int
    kv_heads: int
    width: int
    attention_norm: Stored
    query_norm: Stored | None
    key_norm: Stored | None
    width_norm: Stored
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
    last_norm: Stored
    table: Matrix
    head: Matrix
    layers: tuple[Layer, ...] = field(default=())


def read_decoder(model: onnx.ModelProto) -> Decoder:
    """Find the tensors of a decoder's graph. Raises NotOursError on anything else."""
    return _Walk(model).decoder()


class _Walk:
    """The graph's telling operators, one after the other."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._stored = StoredTensors(model)
        self._inputs = {value.name: value for value in graph.input}
        self._nodes = list(self._telling(graph.node))
        self._next = 0

    def decoder(self) -> Decoder:
        if FREQUENCIES not in self._stored or "past_key_values.0.key" not in self._inputs:
            raise NotOursError("it is not a decoder with rotary positions")
        table_node = self._take(TABLE)
        cache = self._inputs["past_key_values.0.key"].type.tensor_type.shape
        layers, epsilon = [], None
        while (node := self._take(*NORMS)) and self._after(1) is not None:
            epsilon = helper.get_node_attr_value(node, "epsilon")
            layers.append(self._layer(node))
        head = self._stored.matrix(self._take(PRODUCT))
        if epsilon is None:
            raise NotOursError("it has no layers")
        return Decoder(
            vocab=head.rows,
            hidden=head.columns,
            head_dim=cache.dim[3].dim_value,
            epsilon=epsilon,
            frequencies=FREQUENCIES,
            last_norm=self._gain(node),
            table=self._stored.table(table_node, head.columns),
            head=head,
            layers=tuple(layers),
        )

    def _layer(self, norm: NodeProto) -> Layer:
        qkv = self._stored.matrix(self._take(PRODUCT))
        of_heads = [self._gain(node) for node in self._take_all(*NORMS)]
        if len(of_heads) not in (0, 2):
            raise NotOursError("a layer norms something other than queries and keys")
        query_norm, key_norm = of_heads or (None, None)
        attention = self._take(ATTENTION)
        output = self._stored.matrix(self._take(PRODUCT))
        width_norm = self._gain(self._take(*NORMS))
        gate_up, down = (self._stored.matrix(self._take(PRODUCT)) for _ in range(2))
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

    def _gain(self, node: NodeProto) -> Stored:
        return self._stored.name(node.input[1 if node.op_type == NORMS[0] else 2])
