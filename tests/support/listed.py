"""Entries of a registry, for artifacts that are there, with made-up measurements."""

from llmkg_lab.base.files import sha256
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.results.registry import Entry, Model, Weights
from llmkg_lab.results.verdict import Verdict

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
VARIANT = "smollm2_135m_instruct"


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
