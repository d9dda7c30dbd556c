"""Today's names of stored tensors, and what names that fit nothing may mean."""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from llmkg_lab.models import known_form

TIED = "tie_word_embeddings"  # config.json's key
# what quantized weights are stored with beside them, or in their place
PACKED = r".*\.(qweight|qzeros|scales|g_idx|absmax|quant_state.*|quant_map|SCB|weight_scale(_inv)?)"


def current(config: Mapping[str, Any], stored: Iterable[str]) -> dict[str, str]:
    """The names as transformers has them today, by the stored ones.

    - Checkpoints of 2018 call a norm's parts gamma and beta.
    - One that was saved from the bare model, without the head, lacks its prefix.
    - Of a table and a head that are tied, the head alone may be stored.
    """
    names = {name: _norm(name) for name in stored}
    if (form := known_form(config)) is None:
        return names
    prefix, parts = form.bare
    if prefix and not any(name.startswith(prefix) for name in names.values()):
        bare = {name for name in names.values() if re.fullmatch(parts, name)}
        names = {key: prefix + name if name in bare else name for key, name in names.items()}
    head, table = form.ties
    if head and config.get(TIED) is True and table not in names.values():
        names = {key: table if name == head else name for key, name in names.items()}
    return names


def _norm(name: str) -> str:
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def packed(names: Iterable[str]) -> str | None:
    """The first of the names that only quantized weights have, None where they are plain."""
    return next((name for name in names if re.fullmatch(PACKED, name)), None)


def explain(names: Collection[str], wanted: str) -> tuple[str, str]:
    """What the names of a checkpoint that lacks ``wanted`` tell: a message's end, and a hint."""
    if longer := [name for name in names if name.endswith(f".{wanted}")]:
        prefix = longer[0].removesuffix(wanted)
        return (
            f", but it has {longer[0]}",
            f"it was saved from inside a wrapper: rename its tensors, without {prefix!r}",
        )
    near = get_close_matches(wanted, names, n=1)
    return f", but it has {near[0]}" if near else "", "config.json and weights disagree"
