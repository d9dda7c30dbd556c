"""The graph of a BERT, in the order of the forward pass: see ``models.bert``."""

from typing import Any

import numpy as np
from onnx import TensorProto

from llmkg_lab.graph.layers import Layers
from llmkg_lab.models.bert import BertForm

TOKENS = ["batch_size", "sequence_length"]


def build(layers: Layers, form: BertForm, task: str, pooling: dict | None) -> None:
    """Build the encoder's graph: tokens in; hidden states, and what the task adds, out."""
    graph, c = layers.graph, form
    ids = graph.input("input_ids", np.int64, TOKENS)
    mask = graph.input("attention_mask", np.int64, TOKENS)
    types = graph.input("token_type_ids", np.int64, TOKENS)
    padding = graph.op("Cast", mask, to=TensorProto.INT32)
    x = _embed(layers, c, ids, types)  # (batch, sequence, hidden)
    for i in range(c.layers):
        last = i == c.layers - 1
        with graph.scope(f"layer.{i}"):
            name = c.layer(i)
            x = _attention(layers, c, f"{name}.attention", x, padding)
            x = _feed_forward(layers, c, name, x, "last_hidden_state" if last else "")
    graph.output("last_hidden_state", np.float32, [*TOKENS, c.hidden])
    if task == "sentence-embedding":
        _pool(layers, c, x, mask, pooling or {"mode": "mean", "normalize": True})
    elif task == "text-ranking":
        _classify(layers, c, x)


def _embed(layers: Layers, c: BertForm, ids: str, types: str) -> str:
    name, graph = f"{c.prefix}embeddings", layers.graph
    words = layers.table(c.table, c.vocab, c.hidden, is_head=False)
    # positions and types stay float32: together they are a hundredth of the model
    positions = layers.floats(f"{name}.position_embeddings.weight", c.positions, c.hidden)
    kinds = layers.floats(f"{name}.token_type_embeddings.weight", c.types, c.hidden)
    length = graph.op("Shape", ids, start=1)  # (1,): the sequence length
    start, axis = (layers.constant(np.array([0]), key) for key in ("first", "position_axis"))
    here = graph.op("Slice", positions, start, length, axis)  # (sequence, hidden)
    x = graph.op("Add", layers.gather(ids, words), graph.op("Gather", kinds, types))
    x = graph.op("Add", x, here)
    gain, shift = _norm(layers, c, f"{name}.LayerNorm")
    return graph.op("LayerNormalization", x, gain, shift, epsilon=c.epsilon, axis=-1)


def _attention(layers: Layers, c: BertForm, name: str, x: str, padding: str) -> str:
    graph = layers.graph
    parts = [(f"{name}.self.{part}", c.hidden) for part in ("query", "key", "value")]
    # one product for all three: (batch, sequence, 3 hidden)
    qkv = layers.linear(x, parts, c.hidden, "attention", bias=True)
    split = graph.op_many("Split", qkv, outputs=["", "", ""], axis=-1, num_outputs=3)
    attended = graph.op("MultiHeadAttention", *split, "", padding, num_heads=c.heads)
    return _join(layers, c, f"{name}.output", attended, x, c.hidden, "attention")


def _feed_forward(layers: Layers, c: BertForm, name: str, x: str, output: str) -> str:
    wide = [(f"{name}.intermediate.dense", c.feed_forward)]
    product = layers.linear(x, wide, c.hidden, "feed-forward")
    gelu = layers.graph.op("BiasGelu", product, layers.bias(wide, "feed-forward"))
    return _join(layers, c, f"{name}.output", gelu, x, c.feed_forward, "feed-forward", output)


def _join(
    layers: Layers,
    c: BertForm,
    name: str,
    inner: str,
    x: str,
    columns: int,
    group: str,
    output: str = "",
) -> str:
    """LayerNorm(x + dense(inner)): the end of both halves of a layer.

    As operators of their own: SkipLayerNormalization takes twice as long as both together.
    """
    product = layers.linear(inner, [(f"{name}.dense", c.hidden)], columns, group, bias=True)
    total = layers.graph.op("Add", product, x)
    gain, shift = _norm(layers, c, f"{name}.LayerNorm")
    inputs = (total, gain, shift)
    return layers.graph.op("LayerNormalization", *inputs, output=output, epsilon=c.epsilon, axis=-1)


def _norm(layers: Layers, c: BertForm, name: str) -> tuple[str, str]:
    return (
        layers.store.vector([(f"{name}.weight", c.hidden)], "norms"),
        layers.store.vector([(f"{name}.bias", c.hidden)], "norms"),
    )


def _pool(layers: Layers, c: BertForm, x: str, mask: str, pooling: dict) -> None:
    """Pool x (batch, sequence, hidden) to sentence_embedding (batch, hidden)."""
    graph, axis = layers.graph, layers.constant(np.array([1]), "token_axis")
    if pooling["mode"] == "cls":
        pooled = graph.op("Gather", x, layers.constant(np.array(0), "cls"), axis=1)
    else:
        weights = graph.op("Cast", mask, to=TensorProto.FLOAT)  # (batch, sequence)
        row = graph.op("Unsqueeze", weights, axis)  # (batch, 1, sequence)
        total = graph.op("Squeeze", graph.op("MatMul", row, x), axis)  # (batch, hidden)
        pooled = graph.op("Div", total, graph.op("ReduceSum", weights, axis, keepdims=1))
    kind = "LpNormalization" if pooling["normalize"] else "Identity"
    attributes: dict[str, Any] = {"p": 2, "axis": -1} if pooling["normalize"] else {}
    kept = pooling.get("truncate_dim")
    if kept is None:
        graph.op(kind, pooled, output="sentence_embedding", **attributes)
    else:  # of the normalized vector: what is left has another length
        whole = graph.op(kind, pooled, **attributes)
        ends = (layers.constant(np.array([end]), f"kept_{end}") for end in (0, kept))
        graph.op("Slice", whole, *ends, axis, output="sentence_embedding")
    graph.output("sentence_embedding", np.float32, ["batch_size", kept or c.hidden])


def _classify(layers: Layers, c: BertForm, x: str) -> None:
    """The first token's state -> tanh pooler -> logits (batch, labels)."""
    graph = layers.graph
    first = graph.op("Gather", x, layers.constant(np.array(0), "cls"), axis=1)
    pooler = [(f"{c.prefix}pooler.dense", c.hidden)]
    pooled = layers.linear(first, pooler, c.hidden, "classifier", bias=True)
    weight = layers.floats("classifier.weight", c.labels, c.hidden)
    bias = layers.bias([("classifier", c.labels)], "classifier")
    pooled = graph.op("Tanh", pooled)
    graph.op("Gemm", pooled, weight, bias, output="logits", transB=1)
    graph.output("logits", np.float32, ["batch_size", c.labels])
