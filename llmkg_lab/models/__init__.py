"""What a model is, one file for each form: no weights, no ONNX, no PyTorch."""

from llmkg_lab.models import bert, llama, openelm  # noqa: F401  (the modules register their forms)
from llmkg_lab.models.base import (
    FORMS,
    Form,
    UnsupportedError,
    form_of,
    form_type,
    known_form,
    task_of,
)

__all__ = [
    "FORMS",
    "Form",
    "UnsupportedError",
    "form_of",
    "form_type",
    "known_form",
    "task_of",
]
