"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864): the inverse frequencies."""

import numpy as np

from llmkg_lab.models.base import UnsupportedError


def inverse_frequencies(config: dict, head_dim: int) -> np.ndarray:
    """float32 (head_dim / 2,), in radians a position, as transformers computes them.

    Static scalings only: ``linear`` (positions divided by a factor), ``llama3`` (Llama 3.1's
    smooth change from long wavelengths to short ones), and ``dynamic``, which changes nothing up
    to max_position_embeddings, where the graph ends. Raises UnsupportedError on others.
    """
    # transformers 5 writes rope_parameters, earlier versions rope_theta and rope_scaling
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta") or config.get("rope_theta") or 10000.0
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = 1 / np.float32(theta) ** exponents
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("default", "dynamic"):
        return frequencies
    if kind == "linear":
        return frequencies / np.float32(rope["factor"])
    if kind == "llama3":
        return _llama3(frequencies, rope)
    raise UnsupportedError(
        f"rotary embedding of type {kind!r}",
        "supported types are default, dynamic, linear and llama3",
    )


def _llama3(frequencies: np.ndarray, rope: dict) -> np.ndarray:
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)  # 0: long wavelength, 1: short
    scaled = (1 - smooth) * frequencies / rope["factor"] + smooth * frequencies
    return scaled.astype(np.float32)
