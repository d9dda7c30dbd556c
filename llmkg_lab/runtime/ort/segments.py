"""A decoder's graph cut at its layers, so that not all of it need be in memory at once.

The graph tells what belongs together: the nodes of layer 3 are named ``layers.3/…``. What comes
before the first layer makes the opening segment, what comes after the last the closing one. A
value that one segment makes and a later one reads becomes an output here and an input there.
Weights stay where they are, in the artifact's data file.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, helper

LAYER = re.compile(r"(?:^|/)layers\.(\d+)/")


@dataclass(frozen=True)
class Segment:
    """A part of a decoder as a model of its own; ``inputs`` and ``outputs`` in its order."""

    name: str  # opening, layers.0, …, closing
    model: bytes  # a serialized ModelProto, its weights in the artifact's data file
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nbytes: int  # of the weights that it reads


def cut(path: Path) -> list[Segment]:
    """The segments of an artifact's graph, in the order in which they run."""
    model = onnx.load(path, load_external_data=False)
    return list(_segments(model))


def _segments(model: onnx.ModelProto) -> Iterator[Segment]:
    graph = model.graph
    parts = _parts(graph.node)
    declared = {value.name: value for value in (*graph.input, *graph.output)}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    # A node that only reads tensors, such as a cast of scales, is made again where it is needed:
    # an operator packs weights that are constants, not values that come from outside.
    constant = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Cast" and node.input[0] in tensors
    }
    parts = {
        name: [*(constant[v] for v in dict.fromkeys(_reads(nodes)) if v in constant), *others]
        for name, nodes in parts.items()
        if (others := [node for node in nodes if node.output[0] not in constant])
    }
    needed_after = [{name.name for name in graph.output}]  # by the segments after each
    for nodes in reversed(list(parts.values())):
        needed_after.append(needed_after[-1] | set(_reads(nodes)))
    for (name, nodes), needed in zip(parts.items(), reversed(needed_after[:-1]), strict=True):
        made = [output for node in nodes for output in node.output if output]
        read = dict.fromkeys(_reads(nodes))
        inputs = [value for value in read if value not in tensors and value not in made]
        outputs = [value for value in made if value in needed and value not in constant]
        weights = [tensors[value] for value in read if value in tensors]
        read_here, made_here = (
            [declared.get(value) or _value_info(value, made_by[value]) for value in names]
            for names in (inputs, outputs)
        )
        piece = helper.make_model(
            helper.make_graph(nodes, name, read_here, made_here, weights),
            opset_imports=model.opset_import,
            ir_version=model.ir_version,
        )
        content = piece.SerializeToString(deterministic=True)
        yield Segment(name, content, tuple(inputs), tuple(outputs), sum(map(_nbytes, weights)))


def _parts(nodes: Sequence[onnx.NodeProto]) -> dict[str, list[onnx.NodeProto]]:
    """Nodes by segment; those without a layer open the model until the first layer was there."""
    parts: dict[str, list[onnx.NodeProto]] = {}
    outside = "opening"
    for node in nodes:
        layer = LAYER.search(node.name)
        outside = "closing" if layer else outside
        parts.setdefault(f"layers.{layer[1]}" if layer else outside, []).append(node)
    return parts


def _reads(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    return [value for node in nodes for value in node.input if value]


def _value_info(name: str, node: onnx.NodeProto) -> onnx.ValueInfoProto:
    """A value between segments: float32, but for what a Cast or Shape says. Of any shape."""
    kinds = {"Cast": next((a.i for a in node.attribute if a.name == "to"), 0)}
    kinds["Shape"] = TensorProto.INT64
    return helper.make_tensor_value_info(name, kinds.get(node.op_type, TensorProto.FLOAT), None)


def _nbytes(tensor: TensorProto) -> int:
    stored = {entry.key: entry.value for entry in tensor.external_data}
    return int(stored["length"]) if stored else tensor.ByteSize()
