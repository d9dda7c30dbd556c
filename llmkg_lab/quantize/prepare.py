"""What a scheme with a method stores: the weights to read, and what was solved beforehand."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from llmkg_lab.quantize.budget import compare
from llmkg_lab.quantize.budget import price as sensitivity
from llmkg_lab.quantize.budget.options import Sensitivities
from llmkg_lab.quantize.solve.decoder import calibrate
from llmkg_lab.quantize.solve.device import device_of, gpu_name
from llmkg_lab.quantize.solve.effort import EFFORT, check_effort, seconds_of, tokens_of, widest
from llmkg_lab.quantize.solve.equalize import equalized
from llmkg_lab.quantize.solve.gptq import DAMPING
from llmkg_lab.quantize.solve.text import (
    PROSE,
    CalibrationText,
    Writer,
    calibration_text,
    check_form,
    text_or_default,
)
from llmkg_lab.scheme import Layout, Scheme, SchemeError, integer_layout

CHARACTERS = 4  # of English, about: a token


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
    *,
    write: Writer | None = None,
    effort: str = EFFORT,
) -> Prepared:
    """Solve what the scheme's method solves; round to nearest needs nothing.

    text: its calibration half is read; by default the first corpus that is here. write: writes a
    decoder's own text, which is read by turns with the other. Where an encoder has no text, its
    scales are searched instead, and a warning says so. effort: how much is read, of EFFORTS.
    progress: told of "own text", "sensitivities", "calibration", "curvature" and "distillation", as
    far as the scheme takes them.
    Raises SchemeError for what a method cannot solve or for too small a budget, TextError
    for a text that is too short.
    """
    check_effort(effort)
    if scheme.dynamic and task == "text-generation":
        raise SchemeError(
            f"{scheme.name}: one scale per token is too coarse beside a language model's int8, "
            "and no faster",
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
        if is_encoder:
            corpora = [text] if text else texts.load_all(PROSE)
            return _encoder(checkpoint, scheme, corpora, effort, progress)
        text = text_or_default(text, write)
        tokens = tokens_of(effort, widest(checkpoint), alone=not text.text)
        calibration = calibration_text(checkpoint, text, tokens, write, progress)
    except TextError as error:
        if text or not is_encoder:
            raise
        return _without_text(checkpoint, scheme, error)
    record = {**calibration.record, "effort": effort}
    return _calibrated(checkpoint, scheme, replace(calibration, record=record), progress)


def _encoder(
    checkpoint: Checkpoint,
    scheme: Scheme,
    corpora: Sequence[Text],
    effort: str,
    progress: Progress,
) -> Prepared:
    from llmkg_lab.quantize.solve import encoder  # torch: seconds that a plain scheme need not wait

    return Prepared(*encoder.prepare(checkpoint, scheme, corpora, effort, progress))


def reads_text(checkpoint: Checkpoint, scheme: Scheme) -> bool:
    """Whether the scheme of a decoder is calibrated on text."""
    return scheme.method == "gptq" and isinstance(checkpoint.form, LlamaForm)


def expected_seconds(checkpoint: Checkpoint, scheme: Scheme, text: Text, effort: str) -> float:
    """About how long a decoder's calibration on ``text`` takes here.

    A budget is priced, which takes about as long as a quick calibration, and its mix compared.
    """
    columns = widest(checkpoint)
    tokens = tokens_of(effort, columns, alone=not text.text)
    given = min(tokens // 2, len(text.calibration) // CHARACTERS)
    whole = seconds_of(checkpoint, tokens, written=tokens - given)
    if not scheme.budget:
        return whole
    pricing = seconds_of(checkpoint, tokens_of("quick", columns))
    return whole + pricing + compare.expected_seconds(checkpoint)


def _without_text(checkpoint: Checkpoint, scheme: Scheme, error: TextError) -> Prepared:
    """An encoder's: its scales are searched for the least squared error instead."""
    warning = (
        f"{scheme.name} is NOT calibrated: {error.message}. It is made from the weights alone, "
        f"which costs quality. To calibrate it, {error.hint}"
    )
    warnings.warn(warning, stacklevel=4)
    record = {"method": "mse", "instead_of": scheme.method, "warning": warning}
    return Prepared(checkpoint, record=record, quantize=search)


def _check(checkpoint: Checkpoint, scheme: Scheme, task: str) -> None:
    try:
        check_form(checkpoint)
    except SchemeError as error:
        raise SchemeError(f"{scheme.name}: {error.message}", error.hint) from None
    if task != "text-generation":
        raise SchemeError(f"{scheme.name}: {checkpoint.path} is not there to generate text")


def _calibrated(
    checkpoint: Checkpoint,
    scheme: Scheme,
    calibration: CalibrationText,
    progress: Progress,
) -> Prepared:
    even: Checkpoint = equalized(checkpoint)
    record: dict[str, Any] = {"method": scheme.method, "damping": DAMPING, **calibration.record}
    if gpu := gpu_name(device_of(even)):
        record["gpu"] = gpu
    layouts: dict[str, Layout] = {}
    found = None
    if scheme.budget:
        found = sensitivity.measure(checkpoint, calibration, progress)
        layouts, record["budget"] = _within_budget(
            even, scheme, found, calibration.windows, progress
        )
    solved = calibrate(even, scheme, calibration.windows, layouts, progress)
    if scheme.distilled:
        even, solved, record["distillation"] = _distilled(
            even, scheme, solved, layouts, calibration.windows, progress
        )
    return Prepared(even, solved, record, layouts, found)


def _within_budget(
    checkpoint: Checkpoint,
    scheme: Scheme,
    found: Sensitivities,
    windows: np.ndarray,
    progress: Progress,
) -> tuple[dict[str, Layout], dict[str, Any]]:
    """The layouts that a budget is spent on, and what the manifest says of them."""
    assert scheme.budget is not None
    nbytes = scheme.budget.nbytes(found.record["parameters"])
    mix, others = budget.allocate(found, nbytes), compare.simpler(found, nbytes)
    layouts, compared = compare.better(checkpoint, scheme, mix, others, windows, progress)
    options = [
        next(option for option in found.matrices[name] if option.layout == layout)
        for name, layout in layouts.items()
    ]
    return layouts, {
        "nbytes": found.fixed_bytes + sum(option.nbytes for option in options),
        "predicted_kl": sum(option.kl for option in options),
        "next_megabyte": mix.next_megabyte,
        "next_gain_at": mix.next_gain_at,
        "compared": compared,
        "layouts": {name: asdict(layout) for name, layout in layouts.items()},
    }


def _distilled(
    checkpoint: Checkpoint,
    scheme: Scheme,
    solved: Mapping[str, Quantized],
    layouts: Mapping[str, Layout],
    windows: np.ndarray,
    progress: Progress,
) -> tuple[Checkpoint, dict[str, Quantized], dict]:
    from llmkg_lab.quantize.solve import distill  # torch

    form = checkpoint.form
    table, head = (
        layouts.get(name) or integer_layout(scheme.table(is_head=is_head))
        for name, is_head in ((form.table, form.tied), (form.head, True))
    )
    windows = windows[np.arange(-distill.STEPS, 0) % len(windows)]  # the last ones
    training = distill.Distillation(checkpoint, solved, (table, head), windows)
    matrices, gains, losses = training.run(progress)
    record = {"steps": len(losses), "tokens": windows.size, "divergence": losses}
    return Revised(checkpoint, gains), matrices, record
