"""What a scheme with a method stores: the weights to read, and what was solved beforehand."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from llmkg_lab.base.progress import Progress, silent
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.checkpoint.views import Revised
from llmkg_lab.data import texts
from llmkg_lab.data.texts import Text, TextError
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.quantize.blocks.rounding import Quantized, round_to_nearest, search
from llmkg_lab.quantize.budget import allocate as budget
from llmkg_lab.quantize.budget import even as fallback
from llmkg_lab.quantize.budget import price as sensitivity
from llmkg_lab.quantize.budget.options import Sensitivities
from llmkg_lab.quantize.solve.decoder import TOKENS, calibrate
from llmkg_lab.quantize.solve.equalize import equalized
from llmkg_lab.quantize.solve.gptq import DAMPING
from llmkg_lab.quantize.solve.text import CORPORA, PROSE, WINDOW, calibration_text, check_form
from llmkg_lab.scheme import Layout, Scheme, SchemeError, integer_layout


@dataclass(frozen=True)
class Prepared:
    """checkpoint: to read, the same function as the one that was given.

    solved: quantized matrices by checkpoint name; layouts: of matrices that are stored
    otherwise than the scheme says, as ``Layers`` takes them; record: for the manifest; quantize:
    what all matrices that are not solved go through.
    """

    checkpoint: Checkpoint
    solved: dict[str, Quantized] = field(default_factory=dict)
    record: dict | None = None
    layouts: dict[str, Layout] = field(default_factory=dict)
    sensitivities: Sensitivities | None = None
    quantize: Callable[[np.ndarray, Layout], Quantized] = round_to_nearest


def prepare(
    checkpoint: Checkpoint,
    scheme: Scheme,
    task: str,
    text: Text | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Solve what the scheme's method solves; round to nearest needs nothing.

    text: its calibration half is read; by default the first corpus that is here. Where none is, a
    warning says so, and ``fallback`` says what is done. progress: told of "sensitivities",
    "calibration" and "distillation", as far as the scheme takes them.
    Raises SchemeError for what a method cannot solve or for too small a budget, TextError
    for a text that is too short.
    """
    if scheme.dynamic and task == "text-generation":
        raise SchemeError(
            f"{scheme.name}: one scale for all activations is too coarse for a language model",
            "int8-dyn is for encoders; take int8",
        )
    if scheme.method == "rtn":
        return Prepared(checkpoint)
    is_encoder = not checkpoint.form.generates and scheme.method == "gptq" and not scheme.budget
    if not is_encoder:
        _check(checkpoint, scheme, task)
    if scheme.method in ("eq", "mse"):
        rounding = search if scheme.method == "mse" else round_to_nearest
        return Prepared(equalized(checkpoint), record={"method": scheme.method}, quantize=rounding)
    try:
        text = text or texts.load(PROSE if is_encoder else CORPORA)
    except TextError as error:
        return _without_text(checkpoint, scheme, error)
    if is_encoder:
        from llmkg_lab.quantize.solve import (
            encoder,  # torch: seconds that a plain scheme need not wait
        )

        return Prepared(*encoder.prepare(checkpoint, scheme, text, progress))
    return _calibrated(checkpoint, scheme, text, progress)


def _without_text(checkpoint: Checkpoint, scheme: Scheme, error: TextError) -> Prepared:
    layouts, nbytes = fallback.even_layouts(checkpoint, scheme) if scheme.budget else ({}, 0)
    is_llama = isinstance(checkpoint.form, LlamaForm)
    method = "eq" if is_llama else "mse"
    record = fallback.record_of(scheme, method, error, layouts, nbytes)
    warnings.warn(record["warning"], stacklevel=4)
    if is_llama:
        return Prepared(equalized(checkpoint), record=record, layouts=layouts)
    return Prepared(checkpoint, record=record, quantize=search)


def _check(checkpoint: Checkpoint, scheme: Scheme, task: str) -> None:
    try:
        check_form(checkpoint)
    except SchemeError as error:
        raise SchemeError(f"{scheme.name}: {error.message}", error.hint) from None
    if task != "text-generation":
        raise SchemeError(f"{scheme.name}: {checkpoint.path} is not there to generate text")


def _calibrated(checkpoint: Checkpoint, scheme: Scheme, text: Text, progress: Progress) -> Prepared:
    found, chosen = None, None
    if scheme.budget:
        found = sensitivity.measure(checkpoint, text, progress)
        chosen = budget.allocate(found, scheme.budget.nbytes(found.record["parameters"]))
    even: Checkpoint = equalized(checkpoint)
    calibration = calibration_text(checkpoint, text, TOKENS)
    layouts = chosen.layouts if chosen else {}
    solved = calibrate(even, scheme, calibration.windows, layouts, progress)
    record: dict[str, Any] = {"method": scheme.method, "damping": DAMPING, **calibration.record}
    if scheme.distilled:
        even, solved, record["distillation"] = _distilled(
            even, scheme, solved, layouts, text, progress
        )
    if chosen:
        record["budget"] = {
            "nbytes": chosen.nbytes,
            "predicted_kl": chosen.kl,
            "next_megabyte": chosen.next_megabyte,
            "next_gain_at": chosen.next_gain_at,
            "layouts": {name: asdict(layout) for name, layout in layouts.items()},
        }
    return Prepared(even, solved, record, layouts, found)


def _distilled(
    checkpoint: Checkpoint,
    scheme: Scheme,
    solved: Mapping[str, Quantized],
    layouts: Mapping[str, Layout],
    text: Text,
    progress: Progress,
) -> tuple[Checkpoint, dict[str, Quantized], dict]:
    from llmkg_lab.quantize.solve import distill  # torch

    form = checkpoint.form
    table, head = (
        layouts.get(name) or integer_layout(scheme.table(is_head=is_head))
        for name, is_head in ((form.table, form.tied), (form.head, True))
    )
    # on text that follows what the matrices were solved on
    windows = calibration_text(checkpoint, text, TOKENS + distill.STEPS * WINDOW).windows
    windows = windows[-distill.STEPS :]
    training = distill.Distillation(checkpoint, solved, (table, head), windows)
    matrices, gains, losses = training.run(progress)
    record = {"steps": len(losses), "tokens": windows.size, "divergence": losses}
    return Revised(checkpoint, gains), matrices, record
