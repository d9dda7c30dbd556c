"""An outputs folder as a batch leaves it, of a tiny Llama, and registries over it."""

import shutil

import pytest

from llmkg_lab.base.files import sha256
from llmkg_lab.conversion.to_onnx import convert
from llmkg_lab.llmkg import ModelRegistry
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.results.registry import Entry, Model, Registry, Weights
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.scheme import Scheme

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
VARIANT = "smollm2_135m_instruct"


@pytest.fixture(scope="session")
def llama_artifacts(tiny_llama_of_numbers, tmp_path_factory):
    """The tiny Llama at two schemes."""
    folder = tmp_path_factory.mktemp("llmkg-artifacts")
    return {
        name: convert(tiny_llama_of_numbers, Scheme.parse(name), folder / name)
        for name in ("fp32", "int8-rtn")
    }


def entry(artifact, scheme, path, **changes):
    """What a registry says of an artifact, with made-up measurements."""
    given = {
        "variant": VARIANT,
        "verdict": Verdict.PASS,
        "quality": {"kl_mean": Estimate(0.001, 0.0009, 0.0011, 99, "tokens")},
        "speed": {
            "tokens_per_second": Measurement(50.0, 45.0, 55.0, 9),
            "peak_memory_mb": Measurement(90.0, 90.0, 90.0, 1),
        },
        "conditions": {"threads": 1, "cpu": "a processor"},
    }
    return Entry(
        scheme=scheme,
        recipe=artifact.manifest.scheme.recipe,
        path=path,
        bytes=artifact.nbytes,
        bits_per_weight=artifact.bits_per_weight,
        reasons=[],
        protocol={},
        source=Weights("package", "0.1", artifact.manifest.source.fingerprint),
        manifest_sha256=sha256(artifact.folder / "manifest.json"),
        **given | changes,
    )


def model(artifact, id, entries):
    return Model(
        name="SmolLM2 135M Instruct",
        family="smollm",
        parameters=artifact.manifest.parameters,
        size_category="Tiny",
        huggingface_id=id,
        architecture="llama",
        task="text-generation",
        context_length=artifact.context_length,
        vocab_size=artifact.vocab_size,
        license="apache-2.0",
        description="",
        artifacts=entries,
    )


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
