"""Small open language models, quantized to run anywhere, with proof of what each bit cost.

What programs use is named here and imported when it is first asked for:

    from llmkg_lab import Scheme, convert, open_backend, open_checkpoint

    artifact = convert(open_checkpoint("SmolLM2-135M"), Scheme.parse("balanced"), "smollm2")
    text = open_backend(artifact.folder).generate_text("The capital of France is")
"""

import os

from llmkg_lab.base.version import __version__

# Nobody is told what runs here. Official builds of ONNX Runtime keep an id of the device and report
# sessions to Microsoft, unless they find this when they are loaded; the Hub's client tells the Hub
# what else is installed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from llmkg_lab.base.errors import LabError
    from llmkg_lab.checkpoint import open_checkpoint
    from llmkg_lab.conversion.to_onnx import convert
    from llmkg_lab.llmkg.loader import ModelLoader
    from llmkg_lab.llmkg.registry import ModelRegistry
    from llmkg_lab.results.registry import Registry
    from llmkg_lab.runtime.selection import open_backend
    from llmkg_lab.scheme import Scheme

__all__ = [
    "LabError",
    "ModelLoader",
    "ModelRegistry",
    "Registry",
    "Scheme",
    "__version__",
    "convert",
    "open_backend",
    "open_checkpoint",
]
_HOMES = {
    "LabError": "base.errors",
    "ModelLoader": "llmkg.loader",
    "ModelRegistry": "llmkg.registry",
    "Registry": "results.registry",
    "Scheme": "scheme",
    "convert": "conversion.to_onnx",
    "open_backend": "runtime.selection",
    "open_checkpoint": "checkpoint",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from llmkg_lab.base import extras

    with extras.explained():
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # from now on without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
