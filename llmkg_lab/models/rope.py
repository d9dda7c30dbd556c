"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864): its base and its scaling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from llmkg_lab.models.base import UnsupportedError

if TYPE_CHECKING:
    import numpy as np

KINDS = ("default", "dynamic", "linear", "llama3")


@dataclass(frozen=True)
class Rope:
    """Static scalings only.

    ``linear`` divides positions by a factor, ``llama3`` is Llama 3.1's smooth change from long
    wavelengths to short ones, and ``dynamic`` changes nothing up to max_position_embeddings,
    where the graph ends.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_positions: int = 0

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Self:
        """Read what config.json says. Raises UnsupportedError on a scaling not named above."""
        # transformers 5 writes rope_parameters, earlier versions rope_theta and rope_scaling
        said = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = said.get("rope_theta") or config.get("rope_theta") or 10000.0
        kind = said.get("rope_type") or said.get("type") or "default"
        if kind not in KINDS:
            raise UnsupportedError(
                f"rotary embedding of type {kind!r}", f"supported types are {', '.join(KINDS)}"
            )
        if kind in ("default", "dynamic"):
            return cls(theta, kind)
        if kind == "linear":
            return cls(theta, kind, said["factor"])
        return cls(
            theta,
            kind,
            said["factor"],
            said["low_freq_factor"],
            said["high_freq_factor"],
            said["original_max_position_embeddings"],
        )

    def inverse_frequencies(self, head_dim: int) -> "np.ndarray":
        """float32 (head_dim / 2,), in radians per position, as transformers computes them."""
        import numpy as np  # what a model is can be asked without it

        exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequencies = 1 / np.float32(self.theta) ** exponents
        if self.kind == "linear":
            return frequencies / np.float32(self.factor)
        if self.kind != "llama3":
            return frequencies
        low, high = self.low_freq_factor, self.high_freq_factor
        turns = self.original_positions * frequencies / (2 * np.pi)
        smooth = np.clip((turns - low) / (high - low), 0, 1)  # 0: long wavelength, 1: short
        scaled = (1 - smooth) * frequencies / self.factor + smooth * frequencies
        return scaled.astype(np.float32)
