"""An encoder's tensors, found in its graph: what our own engine reads in place of the operators.

As in ``tensor_table``, the graph is what is asked. It is followed from its outputs back to the
tokens, and each operator on the way must be the one of a BERT (see ``graph.bert``).
"""

from dataclasses import dataclass, replace
from typing import Any

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

STATES, VECTOR, SCORES = "last_hidden_state", "sentence_embedding", "logits"
ATTENTION, NORM = "MultiHeadAttention", "LayerNormalization"
HEAD_MULTIPLE = 16  # of a head's size


@dataclass(frozen=True)
class Norm:
    """A layer norm's tensors."""

    gain: Stored
    shift: Stored


@dataclass(frozen=True)
class EncoderLayer:
    """The tensors of one layer; each norm stands behind its half."""

    attention_norm: Norm
    width_norm: Norm
    qkv: Matrix
    output: Matrix
    widen: Matrix
    narrow: Matrix


@dataclass(frozen=True)
class Classifier:
    """What makes scores of the first token's state: scores = weight @ tanh(pooler) + bias."""

    pooler: Matrix
    weight: Stored
    bias: Stored


@dataclass(frozen=True)
class Encoder:
    """An encoder as the engine's description has it.

    output: ``mean`` of the hidden states, the ``first`` of them, or ``scores`` of the classifier.
    """

    vocab: int
    hidden: int
    heads: int
    width: int
    positions: int
    types: int
    epsilon: float
    output: str
    output_size: int
    normalizes: bool
    words: Matrix
    places: Stored
    kinds: Stored
    first_norm: Norm
    classifier: Classifier | None
    layers: tuple[EncoderLayer, ...]


def read_encoder(model: onnx.ModelProto) -> Encoder:
    """Find the tensors of an encoder's graph. Raises NotOursError on anything else."""
    return _Trace(model).encoder()


class _Trace:
    """A graph, followed from its values to what they are computed from."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._stored = StoredTensors(model)
        self._outputs = {value.name: value for value in model.graph.output}
        self._heads: set[int] = set()
        self._epsilons: set[float] = set()

    def encoder(self) -> Encoder:
        if STATES not in self._outputs:
            raise NotOursError(f"it has no {STATES}")
        layers: list[EncoderLayer] = []
        x = STATES
        while self._is_behind_product(x):
            layer, x = self._layer(x)
            layers.insert(0, layer)
        if not layers:
            raise NotOursError("it has no layers")
        hidden, width = layers[0].qkv.columns, layers[0].narrow.columns
        words, places, kinds, first_norm = self._embeddings(x, hidden)
        output, size, normalizes, classifier = self._output(hidden)
        return Encoder(
            vocab=words.rows,
            hidden=hidden,
            heads=self._head_count(hidden),
            width=width,
            positions=self._stored.rows(places),
            types=self._stored.rows(kinds),
            epsilon=_only(self._epsilons, "epsilon"),
            output=output,
            output_size=size,
            normalizes=normalizes,
            words=words,
            places=places,
            kinds=kinds,
            first_norm=first_norm,
            classifier=classifier,
            layers=tuple(layers),
        )

    def _layer(self, output: str) -> tuple[EncoderLayer, str]:
        """The layer that computes ``output``, and what it computes it from."""
        width_norm, product, middle = self._half(output)
        gelu = self._stored.maker(product.input[0], "BiasGelu")
        widen = self._stored.maker(gelu.input[0], PRODUCT)
        widened = self._stored.matrix(widen)
        bias = self._stored.floats(gelu.input[1], widened.rows)
        attention_norm, joined, x = self._half(middle)
        attention = self._stored.maker(joined.input[0], ATTENTION)
        split = self._stored.maker(attention.input[0], "Split")
        qkv = self._stored.maker(split.input[0], PRODUCT)
        if list(attention.input[:3]) != list(split.output) or attention.input[3]:
            raise NotOursError("attention is not over queries, keys and values of one product")
        if qkv.input[0] != x or widen.input[0] != middle or widened.bias:
            raise NotOursError("a layer's halves do not follow each other")
        if _attribute(attention, "scale", 0.0) or _attribute(attention, "unidirectional", 0):
            raise NotOursError("attention has a scale of its own, or does not look ahead")
        self._heads.add(_attribute(attention, "num_heads"))
        layer = EncoderLayer(
            attention_norm=attention_norm,
            width_norm=width_norm,
            qkv=self._stored.matrix(qkv),
            output=self._stored.matrix(joined),
            widen=replace(widened, bias=bias),
            narrow=self._stored.matrix(product),
        )
        return layer, x

    def _half(self, output: str) -> tuple[Norm, NodeProto, str]:
        """norm(product + x): the norm, the product and x."""
        norm, total = self._normed(output)
        return norm, self._stored.maker(total.input[0], PRODUCT), total.input[1]

    def _is_behind_product(self, output: str) -> bool:
        """Whether a layer computes ``output``, and not the embeddings."""
        _, total = self._normed(output)
        return self._stored.is_made_by(total.input[0], PRODUCT)

    def _normed(self, output: str) -> tuple[Norm, NodeProto]:
        node = self._stored.maker(output, NORM)
        self._epsilons.add(_attribute(node, "epsilon"))
        gain, shift = (self._stored.floats(name, -1) for name in node.input[1:3])
        return Norm(gain, shift), self._stored.maker(node.input[0], "Add")

    def _embeddings(self, output: str, hidden: int) -> tuple[Matrix, Stored, Stored, Norm]:
        """Words, positions and types, whose sum is normed."""
        norm, total = self._normed(output)
        both = self._stored.maker(total.input[0], "Add")
        place = self._stored.maker(total.input[1], "Slice")
        kind = self._stored.maker(both.input[1], "Gather")
        word = self._stored.maker(both.input[0], TABLE, "Slice")
        if word.op_type == "Slice":  # rows without the padding of their last block
            word = self._stored.maker(word.input[0], TABLE)
        if word.input[1] != "input_ids" or kind.input[1] != "token_type_ids":
            raise NotOursError("its tables are not gathered by tokens and their types")
        places, kinds = (self._stored.floats(n.input[0], -1, hidden) for n in (place, kind))
        return self._stored.table(word, hidden), places, kinds, norm

    def _output(self, hidden: int) -> tuple[str, int, bool, Classifier | None]:
        """What is made of the hidden states, of how many numbers, normalized or not."""
        if SCORES in self._outputs:
            classifier = self._classifier(hidden)
            return "scores", self._stored.rows(classifier.weight), False, classifier
        if VECTOR not in self._outputs:  # as the page pools where a model says nothing of it
            return "mean", hidden, True, None
        last = self._stored.maker(VECTOR, "LpNormalization", "Identity", "Slice")
        if last.op_type == "Slice":
            last = self._stored.maker(last.input[0], "LpNormalization", "Identity")
        pooled = self._stored.maker(last.input[0], "Div", "Gather")
        size = self._outputs[VECTOR].type.tensor_type.shape.dim[1].dim_value
        output = "first" if pooled.op_type == "Gather" else "mean"
        return output, size, last.op_type == "LpNormalization", None

    def _classifier(self, hidden: int) -> Classifier:
        scores = self._stored.maker(SCORES, "Gemm")
        tanh = self._stored.maker(scores.input[0], "Tanh")
        pooler = self._stored.maker(tanh.input[0], PRODUCT)
        first = self._stored.maker(pooler.input[0], "Gather")
        if first.input[0] != STATES:
            raise NotOursError("scores are not of the first token's state")
        weight = self._stored.floats(scores.input[1], -1, hidden)
        bias = self._stored.floats(scores.input[2], self._stored.rows(weight))
        return Classifier(self._stored.matrix(pooler), weight, bias)

    def _head_count(self, hidden: int) -> int:
        heads = _only(self._heads, "number of heads")
        if hidden % heads or hidden // heads % HEAD_MULTIPLE:
            raise NotOursError(f"the size of a head is not a multiple of {HEAD_MULTIPLE}")
        return heads


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    found = [a for a in node.attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else default


def _only(values: set[Any], what: str) -> Any:
    if len(values) != 1:
        raise NotOursError(f"its layers differ in their {what}")
    return values.pop()
