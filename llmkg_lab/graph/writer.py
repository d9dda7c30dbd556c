"""Building an ONNX graph by hand: an operator helper and a file that weights stream into.

``Graph`` collects nodes and tensors; large tensors go straight to a ``DataFile`` (ONNX's
external data), so that no more than the rows at hand are ever in memory.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from onnx import TensorProto, helper

from llmkg_lab.artifact import ALIGNMENT
from llmkg_lab.base.version import __version__

OPSET = 21
IR_VERSION = 10
INLINE_BYTES = 1024  # smaller tensors live in the graph itself

CONTRIB = frozenset(  # ONNX Runtime's own operators, domain com.microsoft
    {
        "BiasGelu",
        "DynamicQuantizeMatMul",
        "FusedMatMul",
        "GatherBlockQuantized",
        "GroupQueryAttention",
        "MatMulNBits",
        "MultiHeadAttention",
        "QuickGelu",
        "SkipSimplifiedLayerNormalization",
    }
)
ELEMENT_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float16): TensorProto.FLOAT16,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.uint8): TensorProto.UINT8,
}


class DataFile:
    """A file of tensors' bytes, written front to back and hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = path.open("wb")
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def align(self) -> int:
        """Pad to the next aligned offset and return it."""
        self.append(b"\0" * (-self.size % ALIGNMENT))
        return self.size

    def append(self, data: bytes | memoryview | np.ndarray) -> None:
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")  # type: ignore[arg-type]
        self._file.write(view)
        self._hash.update(view)
        self.size += len(view)

    def sha256(self) -> str:
        return self._hash.hexdigest()


class Graph:
    """Nodes and tensors of one ONNX model; values are known by their names (str)."""

    def __init__(self, name: str, data: DataFile) -> None:
        self.name = name
        self.data = data
        self._scope: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._tensors: dict[str, TensorProto] = {}
        self._node_names: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the nodes made inside; a profile then reads like the model."""
        self._scope.append(name)
        yield
        self._scope.pop()

    def input(
        self,
        name: str,
        dtype: np.dtype | type,
        shape: Sequence[int | str],
        default: np.ndarray | None = None,
    ) -> str:
        """Declare a graph input; a str in the shape is a symbolic dimension.

        default: the value where a caller feeds none. Runtimes do not list such an input among
            those they ask for.
        """
        self._inputs.append(helper.make_tensor_value_info(name, _element_type(dtype), shape))
        return name if default is None else self.constant(default, name)

    def output(self, name: str, dtype: np.dtype | type, shape: Sequence[int | str]) -> None:
        """Declare the value ``name`` a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, _element_type(dtype), shape))

    def op(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        """Append a node of one output and return that output's name.

        ``""`` among the inputs leaves an optional one out; ``output`` names the one it makes.
        """
        return self.op_many(kind, *inputs, outputs=[output], **attributes)[0]

    def op_many(
        self, kind: str, *inputs: str, outputs: Sequence[str | None], **attributes: object
    ) -> tuple[str, ...]:
        """The same for several outputs; those given as ``""`` get a name of their own.

        None among the outputs leaves an optional one out: it is neither computed nor stored.
        """
        node = self._unique("/".join([*self._scope, kind]))
        names = tuple(
            "" if name is None else name or f"{node}.{i}" for i, name in enumerate(outputs)
        )
        domain = "com.microsoft" if kind in CONTRIB else ""
        self._nodes.append(
            helper.make_node(kind, inputs, names, name=node, domain=domain, **attributes)
        )
        return names

    def constant(self, array: np.ndarray, name: str) -> str:
        """Add a tensor: small ones inside the graph, others into the data file."""
        array = np.asarray(array, order="C")  # ascontiguousarray would make scalars vectors
        if name in self._tensors:
            raise ValueError(f"two tensors named {name}")
        if array.nbytes <= INLINE_BYTES:
            self._tensors[name] = onnx.numpy_helper.from_array(array, name)
            return name
        offset = self.data.align()
        self.data.append(array.reshape(-1))
        return self.external(name, array.dtype, array.shape, offset, array.nbytes)

    def external(
        self, name: str, dtype: np.dtype | type, shape: Sequence[int], offset: int, nbytes: int
    ) -> str:
        """Add a tensor whose bytes lie in the data file already.

        Two tensors may name the same bytes: that is how an embedding table and the LM head
        share one copy under the two shapes their operators ask for.
        """
        tensor = TensorProto(
            name=name, data_type=_element_type(dtype), data_location=TensorProto.EXTERNAL
        )
        tensor.dims.extend(shape)
        entries = {"location": self.data.path.name, "offset": str(offset), "length": str(nbytes)}
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        self._tensors[name] = tensor
        return name

    def model(self) -> onnx.ModelProto:
        """The finished model, its nodes in the order in which they were made."""
        used = {name for node in self._nodes for name in node.input}
        tensors = [tensor for name, tensor in self._tensors.items() if name in used]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, tensors)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
            ir_version=IR_VERSION,
            producer_name="llmkg-lab",
            producer_version=__version__,
        )

    def _unique(self, name: str) -> str:
        count = self._node_names.get(name, 0)
        self._node_names[name] = count + 1
        return f"{name}_{count}" if count else name


def _element_type(dtype: np.dtype | type) -> int:
    return ELEMENT_TYPES[np.dtype(dtype)]
