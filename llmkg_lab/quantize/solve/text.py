"""The text that a decoder is calibrated on, in windows of tokens."""

import hashlib
from dataclasses import dataclass

import numpy as np
import tokenizers

from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.data import texts
from llmkg_lab.data.texts import Text
from llmkg_lab.models.llama import LlamaForm
from llmkg_lab.scheme import SchemeError

CORPORA = ("wikitext2", "lee_background")  # of a decoder, the first that is here
PROSE = ("lee_background", "wikitext2")  # of an encoder: plain prose before a token list
WINDOW = 512  # tokens


@dataclass(frozen=True)
class CalibrationText:
    """Token ids (windows, tokens) int64, and for the manifest where they came from."""

    windows: np.ndarray
    record: dict

    def digest(self) -> list:
        """The shape and the SHA-256 of the windows, for keys of the cache."""
        content = self.windows.astype("<i8").tobytes()
        return [*self.windows.shape, hashlib.sha256(content).hexdigest()]


def calibration_text(checkpoint: Checkpoint, text: Text | None, tokens: int) -> CalibrationText:
    """The first ``tokens`` of the calibration half of ``text``, by default the first of CORPORA.

    Raises SchemeError for a checkpoint that is not a Llama, TextError without a text that is long
    enough.
    """
    check_form(checkpoint)
    text = text or texts.load(CORPORA)
    tokenizer = tokenizers.Tokenizer.from_buffer(checkpoint.sidecars()["tokenizer.json"])
    ids = tokenizer.encode(text.calibration, add_special_tokens=False).ids
    window = min(WINDOW, checkpoint.form.positions)
    windows = texts.windows(ids, window, tokens)
    record = {
        "corpus": text.name,
        "sha256": text.sha256,
        "half": "first",
        "tokens": windows.size,
        "window": window,
    }
    return CalibrationText(windows, record)


def check_form(checkpoint: Checkpoint) -> None:
    """Raises SchemeError for what the solvers of decoders cannot walk."""
    if not isinstance(checkpoint.form, LlamaForm):
        raise SchemeError(
            f"{checkpoint.path} is not a decoder of the Llama form, for which alone there are "
            "calibrated schemes",
            "use int8-rtn",
        )
