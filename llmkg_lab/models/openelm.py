"""OpenELM: a decoder whose layers have more heads and wider feed-forwards towards the end.

Mehta et al., 2024 (arXiv:2404.14619). Queries and keys pass an RMS norm, head by head, before
they are rotated. The tensor names are the checkpoint's own; keys and values of all heads come
from one matrix, queries first.
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
    flag,
    integer,
    layer_count,
    number,
    register,
)
from llmkg_lab.models.gguf import GGUFNames
from llmkg_lab.models.keys import CONFIG, Table, followed, harmless, refused
from llmkg_lab.models.rope import Rope

TABLE = "transformer.token_embeddings.weight"
EPSILON = 1e-6  # of every norm; config.json does not hold it
GGUF_MODULES = {
    "token_embd": "transformer.token_embeddings",
    "output_norm": "transformer.norm",
    "attn_norm": "attn_norm",
    "attn_qkv": "attn.qkv_proj",
    "attn_q_norm": "attn.q_norm",
    "attn_k_norm": "attn.k_norm",
    "attn_output": "attn.out_proj",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "ffn.proj_1",  # gate and up in one
    "ffn_down": "ffn.proj_2",
}
KEYS: Table = {
    **CONFIG,
    **followed("vocab_size", "model_dim", "num_transformer_layers", "head_dim"),
    **followed("num_query_heads", "num_kv_heads", "num_gqa_groups", "qkv_multipliers"),
    **followed("ffn_multipliers", "ffn_dim_divisor", "max_context_length", "rope_freq_constant"),
    **followed("share_input_output_layers", "normalize_qk_projections"),
    **refused("another feed-forward", "activation_fn_name", unless=("swish", "silu")),
    **refused("another feed-forward", "ffn_with_glu", unless=(True,)),
    **refused("another norm", "normalization_layer_name", unless=("rms_norm",)),
    **harmless("for how many positions tables are made ahead", "rope_max_length"),
    **harmless("the model is computed here, and not by the code beside it", "auto_map"),
}


@register
@dataclass(frozen=True)
class OpenELMForm(Form):
    """The dimensions of an OpenELM; the tuples hold one number per layer."""

    model_type: ClassVar[str] = "openelm"
    tasks: ClassVar[Mapping[str, str]] = {"OpenELMForCausalLM": "text-generation"}
    generates: ClassVar[bool] = True
    unused: ClassVar[str] = r"lm_head\.weight"
    bare: ClassVar[tuple[str, str]] = ("transformer.", r"(token_embeddings|layers|norm)\..*")
    keys: ClassVar[Table] = KEYS
    gguf: ClassVar[GGUFNames] = GGUFNames(
        "openelm",
        "transformer.layers",
        GGUF_MODULES,
        halved={"ffn.proj_1": ("ffn_gate", "ffn_up")},
    )

    vocab: int
    hidden: int
    layers: int
    head_dim: int
    heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    feed_forward: tuple[int, ...]
    positions: int
    table: str
    head: str
    norm_qk: bool
    rope: Rope

    @classmethod
    def read(cls, config: Config, names: Collection[str] | None = None) -> Self:
        layer_count(config, "num_transformer_layers", names)
        heads, kv_heads = _heads(config)
        tied = flag(config, "share_input_output_layers", True)
        return cls(
            vocab=integer(config, "vocab_size"),
            hidden=integer(config, "model_dim"),
            layers=len(heads),
            head_dim=integer(config, "head_dim"),
            heads=heads,
            kv_heads=kv_heads,
            feed_forward=_feed_forward_widths(config),
            positions=context_length(config, "max_context_length"),
            table=TABLE,
            head=TABLE if tied else "lm_head.weight",
            norm_qk=flag(config, "normalize_qk_projections", False),
            rope=Rope(number(config, "rope_freq_constant", 10000.0)),
        )

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        hidden, size = self.hidden, self.head_dim
        yield self.table, (self.vocab, hidden)
        for i, (heads, kv_heads, wide) in enumerate(
            zip(self.heads, self.kv_heads, self.feed_forward, strict=True)
        ):
            name = f"transformer.layers.{i}"
            yield f"{name}.attn_norm.weight", (hidden,)
            yield f"{name}.attn.qkv_proj.weight", ((heads + 2 * kv_heads) * size, hidden)
            if self.norm_qk:
                yield f"{name}.attn.q_norm.weight", (size,)
                yield f"{name}.attn.k_norm.weight", (size,)
            yield f"{name}.attn.out_proj.weight", (hidden, heads * size)
            yield f"{name}.ffn_norm.weight", (hidden,)
            yield f"{name}.ffn.proj_1.weight", (2 * wide, hidden)
            yield f"{name}.ffn.proj_2.weight", (hidden, wide)
        yield "transformer.norm.weight", (hidden,)
        if not self.tied:
            yield self.head, (self.vocab, hidden)

    @classmethod
    def reduced(cls, config: Config) -> dict[str, Any]:
        """The first, the middle and the last layer, of three different widths."""
        last = config["num_transformer_layers"] - 1
        lists = ("num_query_heads", "num_kv_heads", "ffn_multipliers")
        kept = {name: [config[name][i] for i in (0, last // 2, last)] for name in lists}
        sizes = {"model_dim": 128, "head_dim": 32, "ffn_dim_divisor": 32}
        return {**config, **kept, **sizes, "num_transformer_layers": 3}

    def gguf_metadata(self, pooling: str | None) -> Iterator[tuple[str, object]]:
        if not self.norm_qk:
            raise UnsupportedError(
                "GGUF export of an OpenELM that does not norm its queries and keys",
                "llama.cpp always does: use the ONNX artifact",
            )
        yield from super().gguf_metadata(pooling)
        name = self.gguf.architecture
        yield f"{name}.attention.head_count_kv", self.kv_heads
        yield f"{name}.attention.key_length", self.head_dim
        yield f"{name}.attention.value_length", self.head_dim
        yield f"{name}.attention.layer_norm_rms_epsilon", EPSILON
        yield f"{name}.rope.dimension_count", self.head_dim
        yield f"{name}.rope.freq_base", float(self.rope.theta)


def divisible(value: float, divisor: int) -> int:
    """``value`` rounded to a multiple of ``divisor``, by no more than a tenth downwards.

    Source: MobileNet's channel counts (Howard et al., 2017, arXiv:1704.04861), which OpenELM's
        widths follow.
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _heads(config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Query heads and KV heads of each layer, as config.json lists them or by its rule."""
    if config.get("num_query_heads") is None:
        head_dim, groups = integer(config, "head_dim"), integer(config, "num_gqa_groups")
        step = head_dim * (groups if groups > 1 else 2)
        widths = [
            divisible(integer(config, "model_dim") * multiplier, step)
            for multiplier in _multipliers(config, "qkv_multipliers")
        ]
        heads = tuple(width // head_dim for width in widths)
        return heads, tuple(count // groups for count in heads)
    heads, kv_heads = _counts(config, "num_query_heads"), _counts(config, "num_kv_heads")
    for i, (queries, keys) in enumerate(zip(heads, kv_heads, strict=True)):
        if queries % keys:
            raise UnsupportedError(
                f"config.json: {keys} KV heads do not divide the {queries} heads of layer {i}"
            )
    return heads, kv_heads


def _feed_forward_widths(config: Config) -> tuple[int, ...]:
    hidden, divisor = integer(config, "model_dim"), integer(config, "ffn_dim_divisor")
    multipliers = _multipliers(config, "ffn_multipliers")
    return tuple(divisible(hidden * multiplier, divisor) for multiplier in multipliers)


def _counts(config: Config, key: str) -> tuple[int, ...]:
    """The list ``key`` of config.json: a positive whole number for each layer."""
    layers, values = integer(config, "num_transformer_layers"), config.get(key)
    if not isinstance(values, list) or len(values) != layers:
        raise UnsupportedError(
            f"config.json: {key} is not a list of {layers} numbers, one per layer"
        )
    return tuple(integer({key: value}, key) for value in values)


def _multipliers(config: Config, key: str) -> list[float]:
    """A factor for each layer: all of them given, or the first and the last, or one for all."""
    layers, values = integer(config, "num_transformer_layers"), config.get(key)
    values = values if isinstance(values, list) else [values]
    good = all(isinstance(v, int | float) and 0 < v < 1024 for v in values)  # nan is neither
    if not good or len(values) not in (1, 2, layers):
        raise UnsupportedError(f"config.json: {key} gives no factors for {layers} layers")
    if len(values) == layers:
        return values
    import numpy as np  # published configs list all factors

    factors: list[float] = np.linspace(values[0], values[-1], layers).round(2).tolist()
    return factors
