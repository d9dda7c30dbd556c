"""The text that a decoder is calibrated on, in windows of tokens.

A scheme that is solved on one kind of text is good on that kind. So a window of the text that is at
hand is followed by one that the model wrote itself, which is of all the kinds that it knows; where
no text is at hand, its own alone serves. Who writes is handed in: solvers run no artifacts.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import tokenizers

from llmkg_lab.base.progress import Progress, silent
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.data import texts
from llmkg_lab.data.texts import Text, TextError
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.scheme import SchemeError

CORPORA = ("wikitext2", "lee_background")  # of a decoder, the first that is here
PROSE = ("lee_background", "wikitext2")  # of an encoder: plain prose before a token list
WINDOW = 512  # tokens
OWN_ALONE = Text("own", "the model", hashlib.sha256().hexdigest(), "")  # whatever is at hand

# Windows (n, window) int64 that the model of a checkpoint writes, at least so many tokens in all.
Writer = Callable[[Checkpoint, int, int, Progress], np.ndarray]


@dataclass(frozen=True)
class CalibrationText:
    """Token ids (windows, tokens) int64, and for the manifest where they came from."""

    windows: np.ndarray
    record: dict

    def digest(self) -> list:
        """The shape and the SHA-256 of the windows, for keys of the cache."""
        content = self.windows.astype("<i8").tobytes()
        return [*self.windows.shape, hashlib.sha256(content).hexdigest()]

    def head(self, tokens: int) -> "CalibrationText":
        """The first windows, ``tokens`` in all."""
        windows = self.windows[: max(1, tokens // self.windows.shape[1])]
        return CalibrationText(windows, {**self.record, "tokens": windows.size})


def at_hand() -> Text:
    """The first of CORPORA that is here, else OWN_ALONE."""
    try:
        return texts.load(CORPORA)
    except TextError:
        return OWN_ALONE


def text_or_default(text: Text | None, write: Writer | None) -> Text:
    """The text, by default the first of CORPORA that is here; without one, OWN_ALONE for a writer.

    Raises TextError where there is neither a text nor a writer.
    """
    return text or (at_hand() if write else texts.load(CORPORA))


def calibration_text(
    checkpoint: Checkpoint,
    text: Text | None,
    tokens: int,
    write: Writer | None = None,
    progress: Progress = silent,
) -> CalibrationText:
    """So many tokens of the calibration half of ``text`` and of what the model writes, by turns.

    text: by default the first of CORPORA that is here, OWN_ALONE for none. write: without it, all
    is of ``text``.
    A text that is shorter than its half of the tokens is read to its end.
    Raises SchemeError for a checkpoint that is not a Llama, TextError where there is neither a
    text nor a writer, or a text shorter than a window.
    """
    check_form(checkpoint)
    window = min(WINDOW, checkpoint.form.positions)
    count = max(1, tokens // window)
    text = text_or_default(text, write)
    given = np.empty((0, window), np.int64)
    if text.text:
        given = _given(checkpoint, text, window, count - count // 2 if write else count, write)
    own = np.empty((0, window), np.int64)
    if write and len(given) < count:
        own = write(checkpoint, window, (count - len(given)) * window, progress)
        own = own[: count - len(given)]
    windows = np.stack([row for pair in zip_longest(given, own) for row in pair if row is not None])
    record: dict[str, Any] = {"tokens": windows.size, "window": window, "own_tokens": own.size}
    if len(given):
        record |= {"corpus": text.name, "sha256": text.sha256, "half": "first"}
    return CalibrationText(windows, record)


def _given(
    checkpoint: Checkpoint, text: Text, window: int, count: int, write: Writer | None
) -> np.ndarray:
    """The first ``count`` windows of a text; fewer of a short one where the model may go on."""
    tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.sidecars()["tokenizer.json"])
    ids = tokenizer.encode(text.calibration, add_special_tokens=False).ids
    if write and len(ids) >= window:
        count = min(count, len(ids) // window)
    return texts.windows(ids, window, count * window)


def check_form(checkpoint: Checkpoint) -> None:
    """Raises SchemeError for what the solvers of decoders cannot walk."""
    if not isinstance(checkpoint.form, LlamaForm):
        raise SchemeError(
            f"{checkpoint.path} is not a decoder of the Llama form, for which alone there are "
            "calibrated schemes",
            "use int8-rtn",
        )
