"""How to load a model and how to generate with it, under LLMKG's names and with its defaults."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkg_lab.base.errors import LabError

if TYPE_CHECKING:
    from llmkg_lab.runtime.text.generate import GenerationConfig

REVISION = re.compile(r"\w[\w-]*([./][\w-]+)*", re.ASCII)  # no way out of a folder
STOP_TOKENS = ("</s>", "<|endoftext|>")


class LoadingError(LabError):
    """A model that cannot be loaded or run as asked."""


@dataclass(frozen=True)
class Cpu:
    """The processor: every artifact runs there."""


@dataclass(frozen=True)
class Cuda:
    """A CUDA device. Encoders run there where ONNX Runtime has its provider."""

    index: int = 0


@dataclass(frozen=True)
class Metal:
    """Apple's GPU. Nothing here runs on it, and asking for it is an error."""


Device = Cpu | Cuda | Metal

# None is a word of Python's: that member is Quantization["None"], or Quantization.None_
Quantization = StrEnum(
    "Quantization",
    {
        "None": "None",
        "None_": "None",
        "Int8": "Int8",
        "Int4": "Int4",
        "F16": "F16",
        "BFloat16": "BFloat16",
    },
)
Quantization.__doc__ = "How weights are stored; None is the checkpoint's float32."


@dataclass(frozen=True)
class LoadingConfig:
    """How to load a model.

    Args:
        device: Where it runs.
        quantization: Which of its artifacts to take; Python's None, the default, leaves it to what
            was measured, as reports recommend it.
        batch_size: Texts that an encoder is given at a time; None leaves it to the runtime, which
            puts so many together as its processor reads fastest.
        cache_dir: Where artifacts of the Hub are kept; a loader's own goes before it.
        trust_remote_code: Always False. No code beside weights is ever run, and asking for it
            raises LoadingError.
        revision: The commit, branch or tag of a repository on the Hub; of what was converted here,
            the revision that its weights must have come from.
    """

    device: Device = Cpu()
    quantization: Quantization | None = None
    batch_size: int | None = None
    cache_dir: str | Path | None = None
    trust_remote_code: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.trust_remote_code is not False:
            raise LoadingError(
                "trust_remote_code is refused: no code beside weights is ever run",
                "leave it out; the model's form has to be one that llmkg-lab knows",
            )
        if isinstance(self.device, Metal):
            raise LoadingError("no runtime here computes on Metal", "use Cpu()")
        if isinstance(self.device, Cuda) and self.device.index:
            raise LoadingError(
                f"ONNX Runtime is only asked for the first CUDA device, not for {self.device}",
                "let CUDA_VISIBLE_DEVICES say which one is the first",
            )
        if self.revision is not None and not REVISION.fullmatch(self.revision):
            raise LoadingError(f"{self.revision!r} is not a revision", "give a commit or a branch")
        if self.batch_size is not None and self.batch_size < 1:
            raise LoadingError(f"batch_size is {self.batch_size}", "it has to be 1 or more")


@dataclass(frozen=True)
class ModelConfig:
    """How to continue a prompt.

    ``stop_tokens`` end the text and are not shown. The two that stand there by default do so where
    they are special tokens of the model, whether they are named or not; as plain text they do
    not, because a page of HTML may hold them. Nothing here reads a custom parameter: one that is
    given is refused by name when text is asked for.
    """

    temperature: float | None = 0.7
    top_k: int | None = 50
    top_p: float | None = 0.95
    repetition_penalty: float = 1.1
    max_tokens: int = 1024
    seed: int | None = None
    stop_tokens: tuple[str, ...] = STOP_TOKENS
    custom_parameters: Mapping[str, Any] = field(default_factory=dict)

    def generation(self) -> "GenerationConfig":
        """The same as the runtimes have it. Raises LabError on what they cannot follow."""
        from llmkg_lab.runtime.text.generate import GenerationConfig  # tokenizers, NumPy

        if self.custom_parameters:
            names = ", ".join(map(str, self.custom_parameters))
            raise LoadingError(f"no runtime here reads the custom parameters {names}", "leave out")
        return GenerationConfig(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop_tokens=tuple(stop for stop in self.stop_tokens if stop not in STOP_TOKENS),
        )


@dataclass(frozen=True)
class NotLoaded:
    """Nobody asked for the model yet, or it was unloaded."""


@dataclass(frozen=True)
class Downloading:
    """The artifact is on its way from the Hub; ``percent`` of its bytes are here."""

    percent: float


@dataclass(frozen=True)
class Loading:
    """The artifact is here; it is checked and opened."""


@dataclass(frozen=True)
class Loaded:
    """The model can answer."""


@dataclass(frozen=True)
class Failed:
    """The last attempt to load it failed, and why."""

    reason: str


LoadingState = NotLoaded | Downloading | Loading | Loaded | Failed
