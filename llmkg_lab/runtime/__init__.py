"""Running artifacts: tokenizer, decoder and embedder sessions, sampling, text generation."""

from llmkg_lab.base.errors import LabError


class InferenceError(LabError):
    """An artifact cannot be run as asked: a bad option, too long a prompt, a broken file."""


class BackendError(InferenceError):
    """A runtime failed, not the request: another one may do better."""
