"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864): its base and its scaling."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from llmkg_lab.models.base import UnsupportedError, integer, number
from llmkg_lab.models.keys import Table, followed, harmless, refused

if TYPE_CHECKING:
    import numpy as np

KINDS = ("default", "dynamic", "linear", "llama3")
KEYS: Table = {  # of config.json's rope_scaling and rope_parameters
    **followed("rope_theta", "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor"),
    **followed("original_max_position_embeddings"),
    **refused("part of a head would be rotated", "partial_rotary_factor", unless=(1, None)),
    **harmless(
        "only the types yarn and longrope use it, which are refused",
        *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
        *("short_factor", "long_factor", "finetuned"),
    ),
}


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
        """Read what config.json says, where transformers would look for it.

        Raises:
            UnsupportedError: A scaling that is not named above, or a figure that is not one.
        """
        # earlier versions than 5 write rope_scaling and rope_theta; where both are there, they win
        key = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
        said = config.get(key) or {}
        if not isinstance(said, Mapping):
            raise UnsupportedError(f"config.json: {key} is {said!r}, not an object")
        theta = number(
            said if said.get("rope_theta") is not None else config, "rope_theta", 10000.0
        )
        kind = said.get("rope_type") or said.get("type") or "default"
        if kind not in KINDS:
            raise UnsupportedError(
                f"rotary embedding of type {kind!r}", f"supported types are {', '.join(KINDS)}"
            )
        if kind in ("default", "dynamic"):
            return cls(theta, kind)
        if kind == "linear":
            return cls(theta, kind, number(said, "factor"))
        # transformers fills in the length that the model was first trained on
        original = {**config, **said, **_present(config, "original_max_position_embeddings")}
        lengths = ("original_max_position_embeddings", "max_position_embeddings")
        low, high = number(said, "low_freq_factor"), number(said, "high_freq_factor")
        if high <= low:
            raise UnsupportedError(f"config.json: high_freq_factor {high:g} is not above {low:g}")
        return cls(theta, kind, number(said, "factor"), low, high, integer(original, *lengths))

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


def _present(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {key: config[key]} if config.get(key) is not None else {}
