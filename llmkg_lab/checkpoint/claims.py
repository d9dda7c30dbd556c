"""What config.json and the files of quantizers claim of the weights, held against them."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from llmkg_lab.checkpoint.base import Checkpoint, CheckpointError
from llmkg_lab.models import form_of, known_form

QUANTIZATION, TIED = "quantization_config", "tie_word_embeddings"
QUANTIZERS = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}  # their files, older
FLOATS = ("F64", "F32", "F16", "BF16")
ROWS = 1 << 12  # that are compared at once


def settled(
    checkpoint: Checkpoint, config: dict[str, Any], quantizers: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json without what the weights show to be untrue; itself where it is true.

    - Plain weights are not quantized, though a quantization_config may have been left.
    - A head that is stored beside the table and differs from it is not tied to it.

    quantizers: the content of the files named in ``QUANTIZERS`` that lie there.
    Raises CheckpointError where the weights are quantized.
    """
    if config.get(QUANTIZATION) is not None:
        described = config[QUANTIZATION]
        by = described.get("quant_method") if isinstance(described, Mapping) else described
        _refuse_quantized(checkpoint, config, by, f"config.json: {QUANTIZATION}")
        config = {key: value for key, value in config.items() if key != QUANTIZATION}
    for name in quantizers:
        _refuse_quantized(checkpoint, config, QUANTIZERS[name], name)
    return config | {TIED: False} if _has_own_head(checkpoint, config) else config


def remarks(
    claimed: Mapping[str, Any], config: Mapping[str, Any], quantizers: Mapping[str, Any]
) -> Iterator[str]:
    """Say what was changed: ``config`` is what ``settled`` made of ``claimed``."""
    if QUANTIZATION in claimed and QUANTIZATION not in config:
        yield f"config.json: {QUANTIZATION} is left out: the weights are not quantized"
    for name in quantizers:
        yield f"{name} is left out: the weights are not quantized"
    if claimed.get(TIED) is not config.get(TIED):
        yield f"config.json: {TIED} is true, but another head is stored, and that is the model's"


def _refuse_quantized(
    checkpoint: Checkpoint, config: Mapping[str, Any], by: object, said: str
) -> None:
    """Raise CheckpointError unless all weights that the model needs are there, as floats.

    by: the method that is said to have quantized them; said: where.
    """
    form = form_of(config, checkpoint.tensors)
    wanted = [name for name, _ in form.tensors() if not re.fullmatch(form.unused, name)]
    stored = ((name, checkpoint.tensors.get(name)) for name in wanted)
    odd = next((name for name, info in stored if info is None or info.dtype not in FLOATS), None)
    if odd is not None:
        raise CheckpointError(
            f"{checkpoint.path}: its weights are quantized by {by} ({said}); "
            f"{odd} is not stored as floats",
            "get the model as it was before: a scheme here quantizes it",
        )


def _has_own_head(checkpoint: Checkpoint, config: Mapping[str, Any]) -> bool:
    """Whether the head is said to be the table, and another one is stored beside it."""
    form = known_form(config)
    if form is None or config.get(TIED) is not True:
        return False
    head, table = (checkpoint.tensors.get(name) for name in form.ties)
    if head is None or table is None:
        return False
    starts = range(0, table.shape[0] if table.shape else 0, ROWS)
    return head.shape != table.shape or not all(
        np.array_equal(checkpoint.read(head.name, rows), checkpoint.read(table.name, rows))
        for rows in (slice(start, start + ROWS) for start in starts)
    )
