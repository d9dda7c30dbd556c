"""What each layout of each matrix costs: the KL divergence of the whole model, and the bytes.

``measure`` reads calibration text once; what it finds serves every budget, is kept in the
cache, and lies beside each artifact that was made of it.
"""

from importlib.metadata import version

import numpy as np

from llmkg_lab.base import cache
from llmkg_lab.base.progress import Progress, silent
from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.data.texts import Text
from llmkg_lab.quantize.budget.options import Sensitivities, fixed_bytes
from llmkg_lab.quantize.solve.text import CalibrationText, calibration_text

METHOD = 6  # counted up when the same inputs would give other figures: cached ones are then void
TOKENS = 10 * 512  # of calibration text: for the solver, and two windows to price


def measure(
    checkpoint: Checkpoint,
    text: Text | CalibrationText | None = None,
    progress: Progress = silent,
) -> Sensitivities:
    """The sensitivities of a decoder of the Llama form, from the cache where they were measured.

    checkpoint: as it came: that its channels will be equalized is taken into account.
    text: windows, of which the first are read, or a text, of its calibration half; by default the
    first corpus that is here.
    Raises SchemeError for what is not such a decoder, TextError without a text that is long enough.
    """
    if isinstance(text, CalibrationText):
        calibration = text.head(TOKENS)
    else:
        calibration = calibration_text(checkpoint, text, TOKENS)
    key = {
        "method": METHOD,
        "fingerprint": checkpoint.fingerprint(),
        "windows": calibration.digest(),
        "versions": {name: version(name) for name in ("numpy", "torch", "transformers")},
    }

    def compute() -> cache.Arrays:
        content = _measure(checkpoint, calibration, progress).to_json()
        return {"json": np.frombuffer(content.encode(), np.uint8)}

    stored = cache.arrays("sensitivities", key, compute)
    return Sensitivities.from_json(stored["json"].tobytes().decode())


def _measure(
    checkpoint: Checkpoint, calibration: CalibrationText, progress: Progress
) -> Sensitivities:
    # torch: seconds that a cached answer need not wait
    from llmkg_lab.quantize.budget import fisher

    matrices, confirmed = fisher.estimate(checkpoint, calibration.windows, progress)
    record = {**calibration.record, "parameters": checkpoint.parameters, **confirmed}
    return Sensitivities(matrices, fixed_bytes(checkpoint), record)
