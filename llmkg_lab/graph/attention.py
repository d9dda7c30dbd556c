"""Attention over a KV cache: the inputs and outputs that every decoder's graph shares."""

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from llmkg_lab.graph.layers import Layers
from llmkg_lab.graph.store import Matrix
from llmkg_lab.models.base import UnsupportedError
from llmkg_lab.models.rope import Rope


class CachedAttention:
    """The cache's side of a decoder: declares its inputs, attends, declares its outputs.

    GroupQueryAttention rotates queries and keys, appends to the cache and attends, in one
    operator. It counts a sequence's tokens from the left, so padding stands at the right. A
    past that is longer than the tokens in it may be bound as the present too: the operator
    then appends in place, and decoding copies nothing.
    """

    def __init__(
        self,
        layers: Layers,
        head_dim: int,
        rope: Rope,
        positions: int,
    ) -> None:
        if head_dim % 16:
            raise UnsupportedError(
                f"head_dim is {head_dim}", "GroupQueryAttention computes multiples of 16"
            )
        self.layers = layers
        self.head_dim = head_dim
        graph = layers.graph
        self.input_ids = graph.input("input_ids", np.int64, ["batch_size", "sequence_length"])
        mask = graph.input("attention_mask", np.int64, ["batch_size", "total_sequence_length"])
        with graph.scope("lengths"):
            self._lengths(mask)
        with graph.scope("rotary"):
            self._rotary(rope.inverse_frequencies(head_dim), positions)

    def attend(self, layer: int, qkv: Sequence[str], heads: int, kv_heads: int) -> str:
        """Attention of one layer, (batch, sequence, heads head_dim).

        qkv: queries, keys and values one by one, or side by side as one value (batch, sequence,
            (heads + 2 kv_heads) head_dim).
        """
        graph = self.layers.graph
        shape: list[int | str] = ["batch_size", kv_heads]
        past, present = [], []
        for part in ("key", "value"):
            name = f"{layer}.{part}"
            past_shape = [*shape, "past_sequence_length", self.head_dim]
            past.append(graph.input(f"past_key_values.{name}", np.float32, past_shape))
            present.append(f"present.{name}")
            present_shape = [*shape, "total_sequence_length", self.head_dim]
            graph.output(present[-1], np.float32, present_shape)
        absent = [""] * (3 - len(qkv))
        inputs = [*qkv, *absent, *past, self._last, self._total, self._cos, self._sin]
        return graph.op_many(
            "GroupQueryAttention",
            *inputs,
            outputs=["", *present],
            num_heads=heads,
            kv_num_heads=kv_heads,
            scale=self.head_dim**-0.5,
            do_rotary=1,
        )[0]

    def logits(self, x: str, head: Matrix) -> None:
        """The graph's main output: x (batch, sequence, hidden) -> (batch, kept, vocab).

        ``num_logits_to_keep``, an input that may be left out, asks for the last n positions
        only; 0, its default, for all. Transformers.js feeds it where a graph has it. In a small
        model the head is a fifth of a prompt's work, and one position of it is used.
        """
        graph = self.layers.graph
        with graph.scope("logits"):
            keep = graph.input("num_logits_to_keep", np.int64, [], default=np.array(0))
            start = graph.op("Unsqueeze", graph.op("Neg", keep), self._constant("first", 0))
            end = self._constant("end", np.iinfo(np.int64).max)
            kept = graph.op("Slice", x, start, end, self._axis)  # from -n; where n is 0, from 0
            self.layers.product(kept, head, output="logits")
        # named as where all are kept: there are runtimes that infer the shape from the inputs'
        graph.output("logits", np.float32, ["batch_size", "sequence_length", head.rows])

    def _lengths(self, mask: str) -> None:
        graph = self.layers.graph
        self._axis = self._constant("axis", 1)
        count = graph.op("ReduceSum", mask, self._axis, keepdims=0)  # tokens per sequence: (batch,)
        last = graph.op("Sub", count, self._constant("one", 1))
        self._last = graph.op("Cast", last, to=TensorProto.INT32)
        axis = self.layers.constant(np.array(1), "mask_axis")
        total = graph.op("Gather", graph.op("Shape", mask), axis)
        self._total = graph.op("Cast", total, to=TensorProto.INT32)

    def _constant(self, name: str, value: int) -> str:
        return self.layers.constant(np.array([value]), name)

    def _rotary(self, inverse_frequencies: np.ndarray, positions: int) -> None:
        # Angles (positions, head_dim / 2), folded to constants when the graph is loaded: two
        # tables of 1 MB each for 8,192 positions that the file need not carry.
        graph, constant = self.layers.graph, self.layers.constant
        span = [constant(np.array(value), f"position_{value}") for value in (0, positions, 1)]
        position = graph.op("Cast", graph.op("Range", *span), to=TensorProto.FLOAT)
        axis = constant(np.array([1]), "rotary_axis")
        frequencies = constant(inverse_frequencies, "inverse_frequencies")
        angles = graph.op("Mul", graph.op("Unsqueeze", position, axis), frequencies)
        self._cos, self._sin = graph.op("Cos", angles), graph.op("Sin", angles)
