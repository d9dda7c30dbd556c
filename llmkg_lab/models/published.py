"""What a variant's checkpoint looks like without its weights: config.json and tensor shapes.

The configurations are data, in shapes.yaml. From them follow the tensors' names and shapes, and
a reduced model of the same structure: fewer and narrower layers, all else as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path

import yaml

from llmkg_lab.models.widths import divisible

Shapes = dict[str, tuple[int, ...]]  # tensor name -> shape, in the order of the forward pass
HEAD_DIM = 32  # of reduced models
LAYERS = 2


@dataclass(frozen=True)
class Shape:
    """A published checkpoint: its config.json, and how its files were written."""

    config: dict
    dtype: str  # float32 | float16 | bfloat16
    tokenizer: str  # smollm | llama2 | wordpiece | xlmr
    shards: int = 1
    chat_template: str = ""  # Jinja, as tokenizer_config.json has it
    added_tokens: tuple[str, ...] = ()  # at the end of the vocabulary
    max_length: int | None = None  # tokens, of a sentence embedder

    def tensors(self) -> Shapes:
        """Every tensor of the checkpoint."""
        return dict(TENSORS[self.config["model_type"]](self.config))

    def parameters(self) -> int:
        """Their elements in all."""
        return sum(prod(shape) for shape in self.tensors().values())

    def reduced(self) -> "Shape":
        """The same structure in about a million parameters beside the vocabulary's."""
        return replace(self, config=REDUCED[self.config["model_type"]](self.config))


@cache
def known() -> dict[str, Shape]:
    """The shapes by variant's id; an alias is under its original's."""
    content = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return {name: Shape(**entry) for name, entry in content.items() if not name.startswith("_")}


def _llama(c: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, wide = c["hidden_size"], c["intermediate_size"]
    kv = hidden // c["num_attention_heads"] * c["num_key_value_heads"]
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden)
    for i in range(c["num_hidden_layers"]):
        name = f"model.layers.{i}"
        yield f"{name}.input_layernorm.weight", (hidden,)
        for part, rows in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            yield f"{name}.self_attn.{part}_proj.weight", (rows, hidden)
        yield f"{name}.post_attention_layernorm.weight", (hidden,)
        yield f"{name}.mlp.gate_proj.weight", (wide, hidden)
        yield f"{name}.mlp.up_proj.weight", (wide, hidden)
        yield f"{name}.mlp.down_proj.weight", (hidden, wide)
    yield "model.norm.weight", (hidden,)
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], hidden)


def _openelm(c: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, head = c["model_dim"], c["head_dim"]
    layers = zip(c["num_query_heads"], c["num_kv_heads"], c["ffn_multipliers"], strict=True)
    yield "transformer.token_embeddings.weight", (c["vocab_size"], hidden)
    for i, (heads, kv_heads, multiplier) in enumerate(layers):
        name, wide = f"transformer.layers.{i}", divisible(multiplier * hidden, c["ffn_dim_divisor"])
        yield f"{name}.attn_norm.weight", (hidden,)
        yield f"{name}.attn.qkv_proj.weight", ((heads + 2 * kv_heads) * head, hidden)
        yield f"{name}.attn.q_norm.weight", (head,)
        yield f"{name}.attn.k_norm.weight", (head,)
        yield f"{name}.attn.out_proj.weight", (hidden, heads * head)
        yield f"{name}.ffn_norm.weight", (hidden,)
        yield f"{name}.ffn.proj_1.weight", (2 * wide, hidden)
        yield f"{name}.ffn.proj_2.weight", (hidden, wide)
    yield "transformer.norm.weight", (hidden,)


def _bert(c: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, wide = c["hidden_size"], c["intermediate_size"]
    classifies = c["architectures"] == ["BertForSequenceClassification"]
    prefix = "bert." if classifies else ""
    rows = {
        "word": c["vocab_size"],
        "position": c["max_position_embeddings"],
        "token_type": c["type_vocab_size"],
    }
    for kind, count in rows.items():
        yield f"{prefix}embeddings.{kind}_embeddings.weight", (count, hidden)
    yield from _with_bias(f"{prefix}embeddings.LayerNorm", hidden)
    for i in range(c["num_hidden_layers"]):
        name = f"{prefix}encoder.layer.{i}"
        for part in ("query", "key", "value"):
            yield from _with_bias(f"{name}.attention.self.{part}", hidden, hidden)
        yield from _with_bias(f"{name}.attention.output.dense", hidden, hidden)
        yield from _with_bias(f"{name}.attention.output.LayerNorm", hidden)
        yield from _with_bias(f"{name}.intermediate.dense", wide, hidden)
        yield from _with_bias(f"{name}.output.dense", hidden, wide)
        yield from _with_bias(f"{name}.output.LayerNorm", hidden)
    yield from _with_bias(f"{prefix}pooler.dense", hidden, hidden)
    if classifies:
        yield from _with_bias("classifier", len(c["id2label"]), hidden)


def _with_bias(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


TENSORS = {"llama": _llama, "openelm": _openelm, "bert": _bert}


def _reduced_llama(c: dict) -> dict:
    group = c["num_attention_heads"] // c["num_key_value_heads"]  # query heads a key-value head
    kv_heads = -(-4 // group)
    hidden = group * kv_heads * HEAD_DIM
    return c | {
        "hidden_size": hidden,
        "intermediate_size": hidden * c["intermediate_size"] // c["hidden_size"],
        "num_hidden_layers": LAYERS,
        "num_attention_heads": group * kv_heads,
        "num_key_value_heads": kv_heads,
    }


def _reduced_openelm(c: dict) -> dict:
    """The first, the middle and the last layer, of three different widths."""
    last = c["num_transformer_layers"] - 1
    lists = ("num_query_heads", "num_kv_heads", "ffn_multipliers")
    kept = {name: [c[name][i] for i in (0, last // 2, last)] for name in lists}
    sizes = {"model_dim": 128, "head_dim": HEAD_DIM, "ffn_dim_divisor": 32}
    return c | kept | sizes | {"num_transformer_layers": 3}


def _reduced_bert(c: dict) -> dict:
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4}
    return c | sizes | {"num_hidden_layers": LAYERS}


REDUCED = {"llama": _reduced_llama, "openelm": _reduced_openelm, "bert": _reduced_bert}
