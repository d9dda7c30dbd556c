"""Results as runs leave them."""

import shutil

from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.results.result import Origin, Result, SchemeResult, Subject
from llmkg_lab.results.verdict import Verdict


def write_result(outputs, variant, artifact, verdicts, synthetic=False):
    """A variant's folder: ``artifact`` once a scheme, and the result.json that measured it."""
    manifest, folder = artifact.manifest, outputs / variant
    family, name = variant.split("/")
    schemes = {
        scheme: SchemeResult(
            scheme=manifest.scheme,
            bytes=artifact.nbytes,
            bits_per_weight=artifact.bits_per_weight,
            artifact=f"artifacts/{scheme}",
            groups=manifest.groups,
            quality={"cosine_mean": Estimate(0.99, 0.98, 0.999, 80, "texts")},
            protocol={"corpus": "stsb"},
            speed={"embed_ms": Measurement(4.0, 3.9, 4.2, 10)},
            conditions={"threads": 2},
            verdict=verdict,
            reasons=[] if verdict is Verdict.PASS else ["cosine_mean is 0.99"],
        )
        for scheme, verdict in verdicts.items()
    }
    for scheme in verdicts:
        shutil.copytree(artifact.folder, folder / "artifacts" / scheme)
    Result(
        variant=Subject(name, name, family),
        source=Origin(
            "package", "package x==0.1.0", "0.1.0", synthetic, manifest.source.fingerprint
        ),
        environment={},
        schemes=schemes,
        verdict=Verdict.worst(verdicts.values()),
    ).save(folder)
    return folder
