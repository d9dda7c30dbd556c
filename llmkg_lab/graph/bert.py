"""BERT: an encoder with learned positions, full attention and norms after each residual sum.

Devlin et al., 2018 (arXiv:1810.04805); the MiniLM models are of this form. On top, as the
checkpoint asks: pooling to a sentence embedding (Reimers and Gurevych, 2019,
arXiv:1908.10084), or a classifier's score for a pair of texts.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

import numpy as np
from onnx import TensorProto

from llmkg_lab.graph.layers import Layers
from llmkg_lab.models.base import UnsupportedError, integer, require

TOKENS = ["batch_size", "sequence_length"]


@dataclass(frozen=True)
class Config:
    """What the graph needs of config.json."""

    prefix: str  # of every tensor name: "bert." under a head, else ""
    vocab: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    types: int
    labels: int
    epsilon: float

    @classmethod
    def read(cls, config: dict, names: Collection[str]) -> Self:
        """Read config.json. Raises UnsupportedError on what this file does not compute."""
        require(config, "hidden_act", ("gelu",), "gelu")
        require(config, "position_embedding_type", ("absolute", None), "absolute")
        require(config, "is_decoder", (False, None), False)
        hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
        if hidden % heads:
            raise UnsupportedError(f"config.json: {heads} heads do not divide {hidden}")
        return cls(
            prefix="bert." if any(name.startswith("bert.") for name in names) else "",
            vocab=integer(config, "vocab_size"),
            hidden=hidden,
            layers=integer(config, "num_hidden_layers"),
            heads=heads,
            feed_forward=integer(config, "intermediate_size"),
            positions=integer(config, "max_position_embeddings"),
            types=integer(config, "type_vocab_size"),
            labels=len(config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}),
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
        )


def build(layers: Layers, config: Config, task: str, pooling: dict | None) -> None:
    """Build the encoder's graph: tokens in; hidden states, and what the task adds, out."""
    graph, c = layers.graph, config
    ids = graph.input("input_ids", np.int64, TOKENS)
    mask = graph.input("attention_mask", np.int64, TOKENS)
    types = graph.input("token_type_ids", np.int64, TOKENS)
    padding = graph.op("Cast", mask, to=TensorProto.INT32)
    x = _embed(layers, c, ids, types)  # (batch, sequence, hidden)
    for i in range(c.layers):
        last = i == c.layers - 1
        with graph.scope(f"layer.{i}"):
            name = f"{c.prefix}encoder.layer.{i}"
            x = _attention(layers, c, f"{name}.attention", x, padding)
            x = _feed_forward(layers, c, name, x, "last_hidden_state" if last else "")
    graph.output("last_hidden_state", np.float32, [*TOKENS, c.hidden])
    if task == "sentence-embedding":
        _pool(layers, c, x, mask, pooling or {"mode": "mean", "normalize": True})
    elif task == "text-ranking":
        _classify(layers, c, x)


def _embed(layers: Layers, c: Config, ids: str, types: str) -> str:
    name, graph = f"{c.prefix}embeddings", layers.graph
    words = layers.table(f"{name}.word_embeddings.weight", c.vocab, c.hidden, is_head=False)
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


def _attention(layers: Layers, c: Config, name: str, x: str, padding: str) -> str:
    graph = layers.graph
    parts = [(f"{name}.self.{part}", c.hidden) for part in ("query", "key", "value")]
    # one product for all three: (batch, sequence, 3 hidden)
    qkv = layers.linear(x, parts, c.hidden, "attention", bias=True)
    split = graph.op_many("Split", qkv, outputs=["", "", ""], axis=-1, num_outputs=3)
    attended = graph.op("MultiHeadAttention", *split, "", padding, num_heads=c.heads)
    return _join(layers, c, f"{name}.output", attended, x, c.hidden, "attention")


def _feed_forward(layers: Layers, c: Config, name: str, x: str, output: str) -> str:
    wide = [(f"{name}.intermediate.dense", c.feed_forward)]
    product = layers.linear(x, wide, c.hidden, "feed-forward")
    gelu = layers.graph.op("BiasGelu", product, layers.bias(wide, "feed-forward"))
    return _join(layers, c, f"{name}.output", gelu, x, c.feed_forward, "feed-forward", output)


def _join(
    layers: Layers,
    c: Config,
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


def _norm(layers: Layers, c: Config, name: str) -> tuple[str, str]:
    return (
        layers.store.vector([(f"{name}.weight", c.hidden)], "norms"),
        layers.store.vector([(f"{name}.bias", c.hidden)], "norms"),
    )


def _pool(layers: Layers, c: Config, x: str, mask: str, pooling: dict) -> None:
    """x (batch, sequence, hidden) -> sentence_embedding (batch, hidden)."""
    require(pooling, "mode", ("mean", "cls"), "mean")
    graph, axis = layers.graph, layers.constant(np.array([1]), "token_axis")
    if pooling["mode"] == "cls":
        pooled = graph.op("Gather", x, layers.constant(np.array(0), "cls"), axis=1)
    else:
        weights = graph.op("Cast", mask, to=TensorProto.FLOAT)  # (batch, sequence)
        row = graph.op("Unsqueeze", weights, axis)  # (batch, 1, sequence)
        total = graph.op("Squeeze", graph.op("MatMul", row, x), axis)  # (batch, hidden)
        pooled = graph.op("Div", total, graph.op("ReduceSum", weights, axis, keepdims=1))
    kind = "LpNormalization" if pooling["normalize"] else "Identity"
    attributes = {"p": 2, "axis": -1} if pooling["normalize"] else {}
    graph.op(kind, pooled, output="sentence_embedding", **attributes)
    graph.output("sentence_embedding", np.float32, ["batch_size", c.hidden])


def _classify(layers: Layers, c: Config, x: str) -> None:
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
