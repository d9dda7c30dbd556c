"""The graph of an artifact as browsers' builds of ONNX Runtime open it, over the same weights.

- The table as Gather and arithmetic: the builds that Transformers.js takes have no
  GatherBlockQuantized for the CPU.
- ``num_logits_to_keep`` as an input that must be fed: one with a default is fed by nobody.
- The weights in pieces, cut between tensors in the order of their use, each tensor on a border of
  64 bytes; small tensors that the engine reads lie there too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from llmkg_lab.artifact import ALIGNMENT

KEEP = "num_logits_to_keep"
CHUNK = 16 << 20


@dataclass(frozen=True)
class Place:
    """Where a tensor lies among the pieces."""

    piece: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class _Bytes:
    """A tensor's bytes where they are: in a file, or here."""

    file: Path | None
    offset: int
    nbytes: int
    content: bytes = b""


class WebGraph:
    """A graph in the making. model: as it was loaded, without its weights, from ``path``."""

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        self.model = model
        self._path = path
        self._graph = model.graph
        self.places: dict[str, Place] = {}  # by tensor

    def write(self, target: Path, needed: Sequence[str], pieces: int) -> list[Path]:
        """Write the graph to ``target`` and its weights beside it; returns the pieces.

        needed: tensors that must lie in a piece, however small they are.
        """
        self._require_keep()
        self._unfuse_tables()
        files = self._write_pieces(target, list(self._tensors_in_order(set(needed))), pieces)
        content = self.model.SerializeToString(deterministic=True)
        target.write_bytes(content)
        return files

    def _require_keep(self) -> None:
        """Drop the default, where the graph has this input."""
        kept = [tensor for tensor in self._graph.initializer if tensor.name != KEEP]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _unfuse_tables(self) -> None:
        nodes: list[NodeProto] = []
        for node in self._graph.node:
            fused = node.op_type == "GatherBlockQuantized"
            nodes.extend(self._gathered(node) if fused else [node])
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _gathered(self, node: NodeProto) -> list[NodeProto]:
        """(code - zero point) * scale of the rows that ids name."""
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        bits, size = attributes["bits"], attributes["block_size"]
        table, ids, scales = node.input[:3]
        zeros = node.input[3] if len(node.input) > 3 else ""
        name = node.name
        steps = _Steps(name)
        codes = steps("Gather", table, ids)
        codes = self._numbers(steps, codes, bits)
        blocks = self._constant(f"{name}.blocks", np.array([0, 0, -1, size]))
        codes = steps("Reshape", codes, blocks)
        last = self._constant(f"{name}.last", np.array([-1]))
        if zeros:
            packed = self._numbers(steps, steps("Gather", zeros, ids), bits)
            count = self._constant(f"{name}.count", np.array([self._blocks(scales)]))
            first = self._constant(f"{name}.first", np.array([0]))
            axis = self._constant(f"{name}.axis", np.array([2]))
            zero = steps("Slice", packed, first, count, axis)
            zero = steps("Unsqueeze", zero, last)
        else:
            zero = self._constant(f"{name}.middle", np.array(2 ** (bits - 1), np.float32))
        exact = steps("Sub", codes, zero)
        scale = steps("Unsqueeze", steps("Gather", scales, ids), last)
        product = steps("Mul", exact, scale)
        rows = self._constant(f"{name}.rows", np.array([0, 0, -1]))
        steps("Reshape", product, rows, output=node.output[0])
        return steps.made

    def _numbers(self, steps: "_Steps", packed: str, bits: int) -> str:
        """Packed codes (batch, sequence, bytes) as float32 (batch, sequence, bytes * 8 / bits)."""
        if bits == 8:
            return steps("Cast", packed, to=TensorProto.FLOAT)
        per_byte, top = 8 // bits, 2**bits
        whole = steps("Cast", packed, to=TensorProto.INT32)
        axis = self._constant(f"{steps.name}.unpack_axis", np.array([-1]))
        whole = steps("Unsqueeze", whole, axis)
        shifts = np.array([top**i for i in range(per_byte)], np.int32)
        divided = steps("Div", whole, self._constant(f"{steps.name}.shifts", shifts))
        modulus = self._constant(f"{steps.name}.modulus", np.array([top], np.int32))
        apart = steps("Mod", divided, modulus)
        flat = self._constant(f"{steps.name}.flat", np.array([0, 0, -1]))
        return steps("Cast", steps("Reshape", apart, flat), to=TensorProto.FLOAT)

    def _constant(self, name: str, array: np.ndarray) -> str:
        if all(tensor.name != name for tensor in self._graph.initializer):
            self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def _blocks(self, scales: str) -> int:
        makers = {output: node for node in self._graph.node for output in node.output}
        while scales in makers:  # the cast of half-precision scales
            scales = makers[scales].input[0]
        return next(t.dims[1] for t in self._graph.initializer if t.name == scales)

    def _tensors_in_order(self, needed: set[str]) -> Iterator[TensorProto]:
        """Tensors that lie in a piece, as they are first used; those that share bytes together."""
        tensors = {tensor.name: tensor for tensor in self._graph.initializer}
        seen = set()
        for node in self._graph.node:
            for name in node.input:
                if name in tensors and name not in seen:
                    seen.add(name)
                    if tensors[name].external_data or name in needed:
                        yield tensors[name]

    def _write_pieces(
        self, target: Path, tensors: Sequence[TensorProto], pieces: int
    ) -> list[Path]:
        sources = [self._bytes(tensor) for tensor in tensors]
        total = sum(source.nbytes for source in dict.fromkeys(sources))
        placed: dict[_Bytes, Place] = {}
        files: list[Path] = []
        written, file = 0, None
        try:
            for tensor, source in zip(tensors, sources, strict=True):
                if source not in placed:
                    if file is None or written >= len(files) * total / pieces:
                        if file:
                            file.close()
                        files.append(_piece(target, len(files)))
                        file = files[-1].open("wb")
                    file.write(b"\0" * (-file.tell() % ALIGNMENT))
                    placed[source] = Place(len(files) - 1, file.tell(), source.nbytes)
                    _copy(source, file)
                    written += source.nbytes
                place = placed[source]
                self.places[tensor.name] = place
                _point(tensor, files[place.piece].name, place)
        finally:
            if file:
                file.close()
        return files

    def _bytes(self, tensor: TensorProto) -> _Bytes:
        if not tensor.external_data:
            content = numpy_helper.to_array(tensor).tobytes()
            return _Bytes(None, 0, len(content), content)
        said = {entry.key: entry.value for entry in tensor.external_data}
        path = self._path.with_name(said["location"])
        return _Bytes(path, int(said.get("offset", 0)), int(said["length"]))


class _Steps:
    """Nodes of one operator's replacement."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.made: list[NodeProto] = []

    def __call__(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        name = f"{self.name}/{len(self.made)}"
        self.made.append(helper.make_node(kind, inputs, [output or name], name=name, **attributes))
        return output or name


def _piece(target: Path, number: int) -> Path:
    """The name that Transformers.js asks for."""
    return target.with_name(f"{target.name}_data" + (f"_{number}" if number else ""))


def _copy(source: _Bytes, out: BinaryIO) -> None:
    if source.file is None:
        out.write(source.content)
        return
    with source.file.open("rb") as file:
        file.seek(source.offset)
        left = source.nbytes
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise EOFError(f"{source.file} is shorter than its graph says")
            out.write(chunk)
            left -= len(chunk)


def _point(tensor: TensorProto, location: str, place: Place) -> None:
    """Make a tensor refer to its place in a piece."""
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "external_data"):
        tensor.ClearField(name)
    tensor.data_location = TensorProto.EXTERNAL
    said = {"location": location, "offset": place.offset, "length": place.nbytes}
    for key, value in said.items():
        tensor.external_data.add(key=key, value=str(value))
