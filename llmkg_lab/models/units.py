"""The matrices of a Llama as its graph stores them, for what prices or solves them."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Unit(NamedTuple):
    """Matrices that the graph stores as one, and multiplies with in one product."""

    name: str  # the first part's tensor, by which ``Layers`` and the size table know the unit
    kind: str  # qkv | o | gate_up | down | table | head
    layer: int  # -1 where it belongs to none
    parts: tuple[str, ...]  # tensors, stacked along their rows


def units_of(config: Mapping) -> Iterator[Unit]:
    """The matrices of a Llama as its graph stores them, in the order of their use."""
    yield Unit(TABLE, "table", -1, (TABLE,))
    for i in range(config["num_hidden_layers"]):
        for kind, block, parts in (
            ("qkv", "self_attn", ("q_proj", "k_proj", "v_proj")),
            ("o", "self_attn", ("o_proj",)),
            ("gate_up", "mlp", ("gate_proj", "up_proj")),
            ("down", "mlp", ("down_proj",)),
        ):
            names = tuple(f"model.layers.{i}.{block}.{part}.weight" for part in parts)
            yield Unit(names[0], kind, i, names)
    if not config.get("tie_word_embeddings", False):
        yield Unit(HEAD, "head", -1, (HEAD,))
