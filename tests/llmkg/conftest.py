"""An outputs folder as a batch leaves it, of a tiny Llama, and registries over it."""

import shutil

import pytest
from support.listed import SMOLLM2, VARIANT, entry, model

from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.llmkg import ModelRegistry
from llmkg_lab.results.registry import Registry
from llmkg_lab.scheme import Scheme


@pytest.fixture(scope="session")
def llama_artifacts(tiny_llama_of_numbers, tmp_path_factory):
    """The tiny Llama at two schemes."""
    folder = tmp_path_factory.mktemp("llmkg-artifacts")
    return {
        name: convert(tiny_llama_of_numbers, Scheme.parse(name), folder / name)
        for name in ("fp32", "int8-rtn")
    }


@pytest.fixture
def outputs(llama_artifacts, tmp_path):
    """The tiny Llama, listed as SmolLM2."""
    folder = tmp_path / "outputs"
    entries = []
    for scheme, artifact in llama_artifacts.items():
        path = f"smollm/{VARIANT}/artifacts/{scheme}"
        shutil.copytree(artifact.folder, folder / path)
        entries.append(entry(artifact, scheme, path))
    Registry({SMOLLM2: model(llama_artifacts["int8-rtn"], SMOLLM2, entries)}).save(folder)
    return folder


@pytest.fixture
def registry(outputs):
    return ModelRegistry(outputs)
