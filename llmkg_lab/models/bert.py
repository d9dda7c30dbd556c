"""BERT: an encoder with learned positions, full attention and norms after each residual sum.

Devlin et al., 2018 (arXiv:1810.04805); the MiniLM models are of this form. On top, as the
checkpoint asks: pooling to a sentence embedding (Reimers and Gurevych, 2019,
arXiv:1908.10084), or a classifier's score for a pair of texts.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from llmkg_lab.models.base import (
    Config,
    Form,
    Shape,
    UnsupportedError,
    context_length,
    integer,
    layer_count,
    named_class,
    number,
    register,
)
from llmkg_lab.models.gguf import POOLING, GGUFNames, Metadata, special_ids
from llmkg_lab.models.keys import CONFIG, Table, followed, harmless, refused

CLASSIFIER = "BertForSequenceClassification"
GGUF_MODULES = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
    # Names of our own, so that llama.cpp refuses a cross-encoder: it embeds no second segment, and
    # would score the pairs wrongly.
    "pooler": "pooler.dense",
    "classifier": "classifier",
}
KEYS: Table = {
    **CONFIG,
    **followed("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    **followed("intermediate_size", "max_position_embeddings", "type_vocab_size"),
    **followed("layer_norm_eps", "num_labels", "id2label"),
    **harmless("scores have no names", "label2id"),
    **refused("another feed-forward", "hidden_act", unless=("gelu",)),
    **refused("positions of another kind", "position_embedding_type", unless=("absolute", None)),
    **refused("the model would not look ahead", "is_decoder", unless=(False, None)),
    **harmless(
        "only training uses it",
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    ),
    **harmless("no head over the vocabulary is computed", "tie_word_embeddings"),
    **harmless(
        "left over from the first BERT; no one reads it",
        *("directionality", "pooler_type", "pooler_fc_size", "pooler_num_attention_heads"),
        *("pooler_num_fc_layers", "pooler_size_per_head"),
    ),
    **harmless(
        "scores are given as they are, before any function of them",
        *("sbert_ce_default_activation_function", "sentence_transformers"),
    ),
}
GGUF_KEYS: Table = {
    **followed("context_length", "embedding_length", "block_count", "feed_forward_length"),
    **followed("attention.head_count", "attention.layer_norm_epsilon"),
    **refused("a text would be pooled otherwise", "pooling_type", unless=(*POOLING.values(),)),
    **harmless("the table's rows say it", "vocab_size"),
    **refused("the model would not look ahead", "attention.causal", unless=(False,)),
    **refused(
        "the model would be no plain BERT",
        *("expert_count", "expert_used_count", "attention.max_alibi_bias", "rope.freq_base"),
        *("attention.head_count_kv", "attention.key_length", "attention.value_length"),
        unless=(0,),
    ),
}


@register
@dataclass(frozen=True)
class BertForm(Form):
    """The dimensions of a BERT."""

    model_type: ClassVar[str] = "bert"
    tasks: ClassVar[Mapping[str, str]] = {
        "BertModel": "feature-extraction",
        "BertForMaskedLM": "feature-extraction",
        "BertForPreTraining": "feature-extraction",
        CLASSIFIER: "text-ranking",
    }
    generates: ClassVar[bool] = False
    unused: ClassVar[str] = r".*embeddings\.position_ids|(bert\.)?pooler\..*|cls\..*"
    keys: ClassVar[Table] = KEYS
    gguf: ClassVar[GGUFNames] = GGUFNames("bert", "encoder.layer", GGUF_MODULES)
    gguf_keys: ClassVar[Table] = GGUF_KEYS

    # Matrices of a layer in the order in which they compute; those of a group share their inputs.
    groups: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        ("attention.output.dense",),
        ("intermediate.dense",),
        ("output.dense",),
    )
    # What comes out of these is added to what went into those.
    residuals: ClassVar[Mapping[str, str]] = {
        "attention.output.dense": "attention.self.query",
        "output.dense": "intermediate.dense",
    }

    prefix: str  # of every tensor name: "bert." under a head, else ""
    vocab: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    types: int
    labels: int
    classifies: bool  # there is a pooler and a classifier on top
    epsilon: float
    table: str
    head: str = ""

    @classmethod
    def read(cls, config: Config, names: Collection[str] | None = None) -> Self:
        hidden, heads = integer(config, "hidden_size"), integer(config, "num_attention_heads")
        if hidden % heads:
            raise UnsupportedError(f"config.json: {heads} heads do not divide {hidden}")
        classifies = named_class(config) == CLASSIFIER
        has_prefix = classifies if names is None else any(n.startswith("bert.") for n in names)
        prefix = "bert." if has_prefix else ""
        return cls(
            prefix=prefix,
            vocab=integer(config, "vocab_size"),
            hidden=hidden,
            layers=layer_count(config, "num_hidden_layers", names),
            heads=heads,
            feed_forward=integer(config, "intermediate_size"),
            positions=context_length(config, "max_position_embeddings"),
            types=integer(config, "type_vocab_size"),
            labels=_labels(config),
            classifies=classifies,
            epsilon=number(config, "layer_norm_eps", 1e-12),
            table=f"{prefix}embeddings.word_embeddings.weight",
        )

    def layer(self, i: int) -> str:
        """The prefix of the tensors of layer ``i``."""
        return f"{self.prefix}encoder.layer.{i}"

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        hidden, wide = self.hidden, self.feed_forward
        embeddings = f"{self.prefix}embeddings"
        rows = {"word": self.vocab, "position": self.positions, "token_type": self.types}
        for kind, count in rows.items():
            yield f"{embeddings}.{kind}_embeddings.weight", (count, hidden)
        yield from _with_bias(f"{embeddings}.LayerNorm", hidden)
        for i in range(self.layers):
            name = self.layer(i)
            for part in ("query", "key", "value"):
                yield from _with_bias(f"{name}.attention.self.{part}", hidden, hidden)
            yield from _with_bias(f"{name}.attention.output.dense", hidden, hidden)
            yield from _with_bias(f"{name}.attention.output.LayerNorm", hidden)
            yield from _with_bias(f"{name}.intermediate.dense", wide, hidden)
            yield from _with_bias(f"{name}.output.dense", hidden, wide)
            yield from _with_bias(f"{name}.output.LayerNorm", hidden)
        yield from _with_bias(f"{self.prefix}pooler.dense", hidden, hidden)
        if self.classifies:
            yield from _with_bias("classifier", self.labels, hidden)

    @classmethod
    def reduced(cls, config: Config) -> dict[str, Any]:
        sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
        return {**config, **sizes, "num_hidden_layers": 2}

    def gguf_metadata(self, pooling: str | None) -> Iterator[tuple[str, object]]:
        yield from super().gguf_metadata(pooling)
        name = self.gguf.architecture
        yield f"{name}.attention.layer_norm_epsilon", self.epsilon
        yield f"{name}.attention.causal", False
        yield "tokenizer.ggml.token_type_count", self.types
        yield f"{name}.pooling_type", POOLING.get(pooling, 0)

    @classmethod
    def gguf_config(cls, metadata: Metadata, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """The config.json of a bare BertModel, or of one with a classifier."""
        name = cls.gguf.architecture
        classifier = shapes.get("classifier.weight")
        labels = {"num_labels": classifier[0]} if classifier else {}
        return (
            {
                "architectures": [CLASSIFIER if classifier else "BertModel"],
                "model_type": cls.model_type,
                "hidden_act": "gelu",
                "vocab_size": metadata.rows(shapes, "embeddings.word_embeddings.weight"),
                "type_vocab_size": metadata.rows(shapes, "embeddings.token_type_embeddings.weight"),
                "hidden_size": metadata.size(f"{name}.embedding_length"),
                "intermediate_size": metadata.size(f"{name}.feed_forward_length"),
                "num_hidden_layers": metadata.size(f"{name}.block_count"),
                "num_attention_heads": metadata.size(f"{name}.attention.head_count"),
                "max_position_embeddings": metadata.size(f"{name}.context_length"),
                "layer_norm_eps": metadata.decimal(f"{name}.attention.layer_norm_epsilon"),
            }
            | labels
            | special_ids(metadata)
        )


def _labels(config: Config) -> int:
    """The classes of a classifier, as transformers counts them: by name, or by number alone."""
    named = config.get("id2label")
    if named is None:
        return integer(config, "num_labels") if config.get("num_labels") else 2
    if not isinstance(named, Mapping) or not named:
        raise UnsupportedError(f"config.json: id2label is {named!r}, not names by number")
    return len(named)


def _with_bias(name: str, *shape: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
