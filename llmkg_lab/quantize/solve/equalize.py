"""Other weights for the same function: factors moved from one tensor into its neighbour.

In a Llama, the gain of a norm may take a factor per channel from the columns of the matrices
that read it; the rows of ``v_proj`` from the columns of ``o_proj``, the rows of ``up_proj``
from those of ``down_proj``. Quantization sees such channels differently, the function does not
(SmoothQuant, Xiao et al., 2022, arXiv:2211.10438; AWQ, Lin et al., 2023, arXiv:2306.00978).
"""

import numpy as np

from llmkg_lab.checkpoint.base import Checkpoint
from llmkg_lab.checkpoint.views import Rescaled
from llmkg_lab.models.base import Coupling


def random_rescaling(checkpoint: Checkpoint, sigma: float, seed: int) -> Rescaled:
    """Rescale every coupled channel by log-normal factors.

    Weights that were packaged in a quantized form lie on its grid, which flatters a scheme of
    the same grid; rescaled, they compute the same and lie on none.
    """
    random = np.random.default_rng(seed)
    couplings = list(checkpoint.form.couplings())
    factors = {
        c.producer: random.lognormal(
            sigma=sigma, size=checkpoint.tensors[c.producer].shape[0]
        ).astype(np.float32)
        for c in couplings
    }
    return Rescaled(checkpoint, couplings, factors)


def equalized(checkpoint: Checkpoint) -> Rescaled:
    """Give the consumers' columns of every coupling the same root mean square.

    Then no channel sets the scale of its block for the others, and whatever factors a
    checkpoint came with are gone: two that compute the same become nearly the same.
    """
    couplings = list(checkpoint.form.couplings())
    factors = {c.producer: _column_rms(checkpoint, c) for c in couplings}
    return Rescaled(checkpoint, couplings, factors)


def _column_rms(checkpoint: Checkpoint, coupling: Coupling) -> np.ndarray:
    """Root mean square of each channel's columns, 1 on average, (channels,) float32."""
    heads, group = coupling.heads
    stacked = np.concatenate([checkpoint.read(name) for name in coupling.consumers])
    energies = np.square(stacked, dtype=np.float64).mean(0)  # (columns,)
    channels = energies.reshape(heads, group, -1).mean(1).ravel()
    mean = channels.mean()
    if mean == 0:
        return np.ones(len(channels), np.float32)
    return np.sqrt(np.maximum(channels / mean, 1e-4)).astype(np.float32)  # dead ones stay small
