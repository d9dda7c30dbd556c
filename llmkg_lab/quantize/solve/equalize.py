"""Other weights for the same function: factors moved from one tensor into its neighbour.

In a Llama, the gain of a norm may take a factor a channel from the columns of the matrices
that read it; the rows of ``v_proj`` from the columns of ``o_proj``, the rows of ``up_proj``
from those of ``down_proj``. Quantization sees such channels differently, the function does not
(SmoothQuant, Xiao et al., 2022, arXiv:2211.10438; AWQ, Lin et al., 2023, arXiv:2306.00978).
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from llmkg_lab.checkpoint.base import Checkpoint, TensorInfo


@dataclass(frozen=True)
class Coupling:
    """Tensors whose channels may trade a factor.

    producer: what makes the channels, a vector or a matrix with a row a channel.
    consumers: matrices that read them. heads: (key-value heads, query heads a head) where each
    head's channels are read once by every query head of its group, else (1, 1).
    """

    producer: str
    consumers: tuple[str, ...]
    heads: tuple[int, int] = (1, 1)

    def spread(self, factors: np.ndarray) -> np.ndarray:
        """Factors (channels,) as the consumers' columns see them."""
        heads, group = self.heads
        return np.repeat(factors.reshape(heads, -1), group, axis=0).ravel()


def llama_couplings(config: Mapping) -> Iterator[Coupling]:
    """The couplings of a Llama without biases, by the names of its checkpoint."""
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        qkv = tuple(f"{attention}.{part}_proj.weight" for part in "qkv")
        gated = (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
        yield Coupling(f"{layer}.input_layernorm.weight", qkv)
        yield Coupling(f"{layer}.post_attention_layernorm.weight", gated)
        yield Coupling(
            f"{attention}.v_proj.weight",
            (f"{attention}.o_proj.weight",),
            (kv_heads, heads // kv_heads),
        )
        yield Coupling(f"{mlp}.up_proj.weight", (f"{mlp}.down_proj.weight",))


class Rescaled(Checkpoint):
    """A checkpoint seen through factors: the producer's channels times, the consumers' by them.

    factors: float32 (channels,) by the producer's name.
    """

    def __init__(
        self, original: Checkpoint, couplings: list[Coupling], factors: Mapping[str, np.ndarray]
    ) -> None:
        tensors = {
            name: TensorInfo(name, info.shape, "F32", int(np.prod(info.shape)) * 4)
            for name, info in original.tensors.items()
        }
        super().__init__(original.path, original.config, tensors, ())
        self.format = original.format
        self._original = original
        self._rows: dict[str, np.ndarray] = {}
        self._columns: dict[str, np.ndarray] = {}
        for coupling in couplings:
            own = factors[coupling.producer]
            self._rows[coupling.producer] = own
            for consumer in coupling.consumers:
                self._columns[consumer] = 1 / coupling.spread(own)

    def _read(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
        values = self._original.read(info.name, slice(start, stop))
        if info.name in self._rows:
            rows = self._rows[info.name][start:stop]
            values = values * rows.reshape(-1, *[1] * (values.ndim - 1))
        return values * self._columns[info.name] if info.name in self._columns else values

    def sidecars(self) -> dict[str, bytes]:
        return self._original.sidecars()

    @property
    def pooling(self) -> dict | None:
        return self._original.pooling

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._original.fingerprint().encode())
        for factors in (self._rows, self._columns):
            for name in sorted(factors):
                digest.update(name.encode() + factors[name].tobytes())
        return digest.hexdigest()


def random_rescaling(checkpoint: Checkpoint, sigma: float, seed: int) -> Rescaled:
    """A Llama with every coupled channel rescaled by log-normal factors.

    Weights that were packaged in a quantized form lie on its grid, which flatters a scheme of
    the same grid; rescaled, they compute the same and lie on none.
    """
    random = np.random.default_rng(seed)
    couplings = list(llama_couplings(checkpoint.config))
    factors = {
        c.producer: random.lognormal(
            sigma=sigma, size=checkpoint.tensors[c.producer].shape[0]
        ).astype(np.float32)
        for c in couplings
    }
    return Rescaled(checkpoint, couplings, factors)


def equalized(checkpoint: Checkpoint) -> Rescaled:
    """A Llama whose consumers' columns all have the same root mean square.

    Then no channel sets the scale of its block for the others, and whatever factors a
    checkpoint came with are gone: two that compute the same become nearly the same.
    """
    couplings = list(llama_couplings(checkpoint.config))
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
