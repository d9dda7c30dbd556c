"""Llama: a decoder with rotary positions, grouped-query attention and a gated feed-forward.

Touvron et al., 2023 (arXiv:2302.13971); SmolLM, SmolLM2 and TinyLlama are of this form.
The tensor names are the checkpoint's own.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from llmkg_lab.models.base import (
    Config,
    Coupling,
    Form,
    Shape,
    Unit,
    UnsupportedError,
    context_length,
    flag,
    integer,
    layer_count,
    number,
    register,
)
from llmkg_lab.models.gguf import GGUFNames, Metadata, special_ids
from llmkg_lab.models.keys import CONFIG, Table, followed, harmless, refused
from llmkg_lab.models.rope import KEYS as ROPE
from llmkg_lab.models.rope import Rope

TABLE = "model.embed_tokens.weight"
GGUF_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
UNITS = (  # of a layer: kind, block, parts
    ("qkv", "self_attn", ("q_proj", "k_proj", "v_proj")),
    ("o", "self_attn", ("o_proj",)),
    ("gate_up", "mlp", ("gate_proj", "up_proj")),
    ("down", "mlp", ("down_proj",)),
)
KEYS: Table = {
    **CONFIG,
    **followed("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    **followed("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
    **followed("rms_norm_eps", "attention_bias", "mlp_bias", "tie_word_embeddings"),
    **followed("rope_theta", "original_max_position_embeddings"),
    **followed("rope_scaling", "rope_parameters", inside=ROPE),
    **refused("another feed-forward", "hidden_act", unless=("silu", "swish")),
    **refused("part of a head would be rotated", "partial_rotary_factor", unless=(1, None)),
    **harmless("only training uses it", "attention_dropout"),
    **harmless("the weights are whole, and transformers ignores it", "pretraining_tp"),
    **harmless("left by what trained SmolLM; no one reads it", "is_llama_config"),
    **harmless("left by what trained SmolLM; no one reads it", "rope_interleaved"),
}
GGUF_KEYS: Table = {
    **followed("context_length", "embedding_length", "block_count", "feed_forward_length"),
    **followed("attention.head_count", "attention.head_count_kv"),
    **followed("attention.key_length", "attention.value_length"),
    **followed("attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base"),
    **followed("rope.scaling.type", "rope.scaling.factor", "rope.scale_linear"),
    **harmless("the table's rows say it", "vocab_size"),
    **harmless("it says which program wrote the rows", "tensor_data_layout"),
    **harmless(
        "only the type yarn uses it, which is refused",
        *("rope.scaling.original_context_length", "rope.scaling.finetuned"),
    ),
    **refused("the model would be no plain Llama", "rope.scaling.attn_factor", unless=(1,)),
    **refused("the model would be no plain Llama", "attention.causal", unless=(True,)),
    **refused("a decoder pools nothing", "pooling_type", unless=(0,)),
    **refused(
        "the model would be no plain Llama",
        *("expert_count", "expert_used_count", "use_parallel_residual", "nextn_predict_layers"),
        *("attention.sliding_window", "attention.scale", "attention.clamp_kqv"),
        *("attention.max_alibi_bias", "attention.temperature_scale", "attention.output_scale"),
        *("logit_scale", "residual_scale", "embedding_scale", "attn_logit_softcapping"),
        *("final_logit_softcapping", "rope.scaling.alpha", "rope.scaling.yarn_*"),
        *("rope.dimension_sections", "rope.freq_base_swa", "rope.dimension_count_swa"),
        unless=(0, False),
    ),
}


@register
@dataclass(frozen=True)
class LlamaForm(Form):
    """The dimensions of a Llama."""

    model_type: ClassVar[str] = "llama"
    tasks: ClassVar[Mapping[str, str]] = {
        "LlamaForCausalLM": "text-generation",
        "LlamaModel": "text-generation",  # without its head, which is then the table
    }
    generates: ClassVar[bool] = True
    unused: ClassVar[str] = r".*rotary_emb\.inv_freq|lm_head\.weight"
    bare: ClassVar[tuple[str, str]] = ("model.", r"(embed_tokens|layers|norm)\..*")
    ties: ClassVar[tuple[str, str]] = ("lm_head.weight", TABLE)
    keys: ClassVar[Table] = KEYS
    gguf: ClassVar[GGUFNames] = GGUFNames(
        "llama",
        "model.layers",
        GGUF_MODULES,
        permuted={"self_attn.q_proj": "heads", "self_attn.k_proj": "kv_heads"},
    )
    gguf_keys: ClassVar[Table] = GGUF_KEYS

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    positions: int
    epsilon: float
    table: str
    head: str
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    rope: Rope

    @classmethod
    def read(cls, config: Config, names: Collection[str] | None = None) -> Self:
        hidden = integer(config, "hidden_size")
        heads = integer(config, "num_attention_heads")
        kv_heads = integer(config, "num_key_value_heads", "num_attention_heads")
        if heads % kv_heads:
            raise UnsupportedError(
                f"config.json: {kv_heads} key-value heads do not divide the {heads} heads"
            )
        if not config.get("head_dim") and hidden % heads:
            raise UnsupportedError(f"config.json: {heads} heads do not divide {hidden}")
        bias = flag(config, "attention_bias", False)
        tied = flag(config, "tie_word_embeddings", False)
        return cls(
            vocab=integer(config, "vocab_size"),
            hidden=hidden,
            layers=layer_count(config, "num_hidden_layers", names),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=integer(config, "head_dim") if config.get("head_dim") else hidden // heads,
            feed_forward=integer(config, "intermediate_size"),
            positions=context_length(config, "max_position_embeddings"),
            epsilon=number(config, "rms_norm_eps", 1e-6),
            table=TABLE,
            head=TABLE if tied else "lm_head.weight",
            qkv_bias=bias,
            o_bias=bias,
            mlp_bias=flag(config, "mlp_bias", False),
            rope=Rope.read(config),
        )

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        hidden, wide = self.hidden, self.feed_forward
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield self.table, (self.vocab, hidden)
        for i in range(self.layers):
            name = f"model.layers.{i}"
            yield f"{name}.input_layernorm.weight", (hidden,)
            for part, rows in (("q", q), ("k", kv), ("v", kv)):
                yield from _linear(f"{name}.self_attn.{part}_proj", rows, hidden, self.qkv_bias)
            yield from _linear(f"{name}.self_attn.o_proj", hidden, q, self.o_bias)
            yield f"{name}.post_attention_layernorm.weight", (hidden,)
            yield from _linear(f"{name}.mlp.gate_proj", wide, hidden, self.mlp_bias)
            yield from _linear(f"{name}.mlp.up_proj", wide, hidden, self.mlp_bias)
            yield from _linear(f"{name}.mlp.down_proj", hidden, wide, self.mlp_bias)
        yield "model.norm.weight", (hidden,)
        if not self.tied:
            yield self.head, (self.vocab, hidden)

    def units(self) -> Iterator[Unit]:
        yield Unit(self.table, "table", -1, (self.table,))
        for i in range(self.layers):
            for kind, block, parts in UNITS:
                names = tuple(f"model.layers.{i}.{block}.{part}.weight" for part in parts)
                yield Unit(names[0], kind, i, names)
        if not self.tied:
            yield Unit(self.head, "head", -1, (self.head,))

    def couplings(self) -> Iterator[Coupling]:
        """A norm's gain with what reads it, values with the output, up with down."""
        for i in range(self.layers):
            layer = f"model.layers.{i}"
            attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
            qkv = tuple(f"{attention}.{part}_proj.weight" for part in "qkv")
            gated = (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
            yield Coupling(f"{layer}.input_layernorm.weight", qkv)
            yield Coupling(f"{layer}.post_attention_layernorm.weight", gated)
            yield Coupling(
                f"{attention}.v_proj.weight",
                (f"{attention}.o_proj.weight",),
                (self.kv_heads, self.heads // self.kv_heads),
                (f"{attention}.v_proj.bias",) if self.qkv_bias else (),
            )
            yield Coupling(
                f"{mlp}.up_proj.weight",
                (f"{mlp}.down_proj.weight",),
                biases=(f"{mlp}.up_proj.bias",) if self.mlp_bias else (),
            )

    @classmethod
    def reduced(cls, config: Config) -> dict[str, Any]:
        group = config["num_attention_heads"] // config["num_key_value_heads"]  # per key-value head
        kv_heads = -(-4 // group)
        hidden = group * kv_heads * 32
        return {
            **config,
            "hidden_size": hidden,
            "intermediate_size": hidden * config["intermediate_size"] // config["hidden_size"],
            "num_hidden_layers": 2,
            "num_attention_heads": group * kv_heads,
            "num_key_value_heads": kv_heads,
        }

    def gguf_metadata(self, pooling: str | None) -> Iterator[tuple[str, object]]:
        yield from super().gguf_metadata(pooling)
        name = self.gguf.architecture
        yield f"{name}.attention.head_count_kv", self.kv_heads
        yield f"{name}.attention.key_length", self.head_dim
        yield f"{name}.attention.value_length", self.head_dim
        yield f"{name}.attention.layer_norm_rms_epsilon", self.epsilon
        yield f"{name}.rope.dimension_count", self.head_dim
        yield f"{name}.rope.freq_base", float(self.rope.theta)
        if self.rope.kind == "linear":
            yield f"{name}.rope.scaling.type", "linear"
            yield f"{name}.rope.scaling.factor", float(self.rope.factor)
        elif self.rope.kind not in ("default", "dynamic"):
            raise UnsupportedError(
                f"GGUF export of a rotary embedding of type {self.rope.kind!r}",
                "supported: default, dynamic and linear",
            )

    @classmethod
    def gguf_config(cls, metadata: Metadata, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        name = cls.gguf.architecture
        heads = metadata.size(f"{name}.attention.head_count")
        config = {
            "architectures": [next(iter(cls.tasks))],
            "model_type": cls.model_type,
            "hidden_act": "silu",
            "vocab_size": metadata.rows(shapes, TABLE),
            "hidden_size": metadata.size(f"{name}.embedding_length"),
            "intermediate_size": metadata.size(f"{name}.feed_forward_length"),
            "num_hidden_layers": metadata.size(f"{name}.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": metadata.size(f"{name}.attention.head_count_kv", heads),
            "head_dim": _gguf_head_dim(metadata, name, heads),
            "max_position_embeddings": metadata.size(f"{name}.context_length"),
            "rms_norm_eps": metadata.decimal(f"{name}.attention.layer_norm_rms_epsilon"),
            "rope_theta": metadata.get(f"{name}.rope.freq_base", float, 10000.0),
            "tie_word_embeddings": "lm_head.weight" not in shapes,
            "attention_bias": "model.layers.0.self_attn.q_proj.bias" in shapes,
            "mlp_bias": "model.layers.0.mlp.up_proj.bias" in shapes,
        }
        if factor := _gguf_rope_factor(metadata, name):
            config["rope_scaling"] = {"rope_type": "linear", "factor": factor}
        return config | special_ids(metadata)


def _linear(name: str, rows: int, columns: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _gguf_head_dim(metadata: Metadata, name: str, heads: int) -> int:
    implied = metadata.size(f"{name}.embedding_length") // heads
    rotated = metadata.size(f"{name}.rope.dimension_count", implied or None)
    head_dim = metadata.size(f"{name}.attention.key_length", rotated)
    if rotated != head_dim:
        raise UnsupportedError(
            f"{metadata.path}: {rotated} of a head's {head_dim} dimensions are rotated",
            "supported is a rotary embedding over all of them",
        )
    if (values := metadata.size(f"{name}.attention.value_length", head_dim)) != head_dim:
        raise UnsupportedError(
            f"{metadata.path}: keys of {head_dim} dimensions, values of {values}"
        )
    return head_dim


def _gguf_rope_factor(metadata: Metadata, name: str) -> float:
    """What positions are divided by, as llama.cpp reads it: the type is linear unless it is said.

    0 stands for no scaling. The older key counts only where the newer one is not there.
    """
    kind = metadata.get(f"{name}.rope.scaling.type", str, "linear")
    if kind not in ("none", "linear"):
        raise UnsupportedError(
            f"{metadata.path}: rotary embedding of type {kind!r}", "supported are none and linear"
        )
    keys = (f"{name}.rope.scaling.factor", f"{name}.rope.scale_linear")
    key = next((key for key in keys if key in metadata), None)
    return metadata.get(key, float) if key and kind == "linear" else 0.0
