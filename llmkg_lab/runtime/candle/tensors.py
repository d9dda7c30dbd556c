"""A model's weights as Candle's tensors, under GGUF's names, and the operations that forms share.

The `candle-nn` package brings the kernels, quantized products among them. The models that it
bundles are not used: its Llama has no grouped queries, and its causal mask lets a token see the
future.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from llmkg_lab.artifact import Artifact
from llmkg_lab.models import Form
from llmkg_lab.runtime import InferenceError

Tensor = Any  # candle.Tensor; candle is an optional package


class Weights:
    """Weights of one model.

    Args:
        stored: Matrices as they are stored (candle.QTensor, or candle.Tensor of float32) and
            vectors, by GGUF's name.
        read_as_floats: Matrices that are looked up and not multiplied with.
    """

    def __init__(self, stored: Mapping[str, Any], read_as_floats: Collection[str]) -> None:
        self.candle = _import()
        self._stored = dict(stored)
        self._floats = {
            name: _floats(weight)
            for name, weight in stored.items()
            if len(weight.shape) == 1 or name in read_as_floats
        }

    @classmethod
    def of_artifact(cls, artifact: Artifact, read_as_floats: Collection[str]) -> Self:
        """The weights of a GGUF artifact."""
        stored, _ = _import().utils.load_gguf(str(artifact.model_path))
        return cls(stored, read_as_floats)

    @classmethod
    def of_safetensors(cls, folder: Path, form: Form, read_as_floats: Collection[str]) -> Self:
        """The weights of a checkpoint's folder, as float32. What no graph reads is left out."""
        candle, stored = _import(), {}
        prefix = getattr(form, "prefix", "")
        for path in sorted(folder.glob("*.safetensors")):
            for name, tensor in candle.utils.load_safetensors(str(path)).items():
                if renamed := form.gguf.gguf_name(name.removeprefix(prefix)):
                    stored[renamed] = tensor.to_dtype(candle.f32)
        return cls(stored, read_as_floats)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def floats(self, name: str) -> Tensor:
        """A vector, or a matrix that is looked up."""
        return self._floats[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        """The product of x (rows, columns) with a module's weight, plus its bias if it has one."""
        weight = self._stored[f"{name}.weight"]
        y = weight.matmul_t(x) if hasattr(weight, "matmul_t") else x.matmul(weight.t())
        bias = self._floats.get(f"{name}.bias")
        return y if bias is None else y.broadcast_add(bias)

    def rows(self, name: str, ids: list[int]) -> Tensor:
        """Rows (ids, columns) of a table."""
        candle = self.candle
        return self._floats[name].index_select(candle.tensor(ids).to_dtype(candle.u32), 0)

    def rms_norm(self, name: str, x: Tensor, epsilon: float) -> Tensor:
        """Divide x (…, size) by the root of its mean square, and multiply by a gain."""
        mean = x.sqr().sum_keepdim(len(x.shape) - 1) / float(x.shape[-1])
        return x.broadcast_div((mean + epsilon).sqrt()).broadcast_mul(
            self._floats[f"{name}.weight"]
        )

    def layer_norm(self, name: str, x: Tensor, epsilon: float) -> Tensor:
        """X (…, size) with mean 0 and variance 1, times a gain, plus a shift."""
        last, size = len(x.shape) - 1, float(x.shape[-1])
        centred = x.broadcast_sub(x.sum_keepdim(last) / size)
        scaled = centred.broadcast_div((centred.sqr().sum_keepdim(last) / size + epsilon).sqrt())
        gain, shift = (self._floats[f"{name}.{part}"] for part in ("weight", "bias"))
        return scaled.broadcast_mul(gain).broadcast_add(shift)

    def softmax(self, x: Tensor) -> Tensor:
        return self.candle.functional.softmax(x, -1)

    def constant(self, values: np.ndarray) -> Tensor:
        return self.candle.tensor(values.astype(np.float32).tolist())


def to_numpy(x: Tensor) -> np.ndarray:
    """A tensor as an array of float32."""
    return np.array(x.values(), np.float32)


def _floats(weight: Any) -> Tensor:
    return weight.dequantize() if hasattr(weight, "dequantize") else weight


def _import() -> Any:
    try:
        import candle
        import candle.functional
        import candle.utils
    except ImportError as error:
        raise InferenceError(
            "Candle is not installed", "pip install 'llmkg-lab[candle]', or use ONNX Runtime"
        ) from error
    return candle
