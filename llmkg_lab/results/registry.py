"""The registry: which converted models may be used, and what each is worth.

``outputs/registry.json`` is what LLMKG reads. It lists an artifact only if its quality was
measured on real weights and held its scheme's limits, and if its files are still there. The key
of a model is its Hub id. The same results give the same bytes.

    python -m llmkg_lab.results.registry outputs
"""

import sys
from pathlib import Path
from typing import Literal, Self

from llmkg_lab.artifact import MANIFEST, Artifact
from llmkg_lab.base import files, records
from llmkg_lab.base.errors import LabError
from llmkg_lab.base.records import Count, Hash, Record, RecordError, Size
from llmkg_lab.measure.values import Estimate, Measurement
from llmkg_lab.results.result import Conditions, Protocol, Result, ResultError, SchemeResult
from llmkg_lab.results.verdict import Verdict
from llmkg_lab.roster import catalog
from llmkg_lab.roster.catalog import Variant
from llmkg_lab.scheme import Scheme

FORMAT = "llmkg-lab/registry/1"
OWN_SOURCES = ("hub", "package", "local")  # that a variant names: its own weights
NAME = "registry.json"
Category = Literal["Tiny", "Small", "Medium", "Large"]
SIZES: tuple[tuple[float, Category], ...] = (  # in parameters, below
    *((50e6, "Tiny"), (200e6, "Small"), (500e6, "Medium"), (float("inf"), "Large")),
)


class RegistryError(LabError):
    """An artifact that the registry cannot list, and why; or a registry that cannot be read."""


class Weights(Record, frozen=True):
    """The weights that an artifact was made of."""

    kind: str
    revision: str | None
    fingerprint: str  # SHA-256 of the checkpoint's files


class Entry(Record, frozen=True):
    """One artifact: where it is and what was measured of it, as result.json says it."""

    variant: str
    scheme: str  # the name that was asked for, such as balanced
    recipe: str  # all that it means, by its canonical name
    path: str  # its folder, relative to registry.json
    bytes: Count  # of the graph and its weights
    bits_per_weight: Size
    verdict: Verdict
    reasons: list[str]
    quality: dict[str, Estimate]  # by metric
    protocol: Protocol  # on what the quality was measured
    speed: dict[str, Measurement]  # by metric
    conditions: Conditions  # on what machine, with what prompt, the speed was measured
    source: Weights
    manifest_sha256: Hash  # the manifest holds the SHA-256 of every other file

    @property
    def base(self) -> str:
        """The base of its scheme, whatever name it was asked for by."""
        return Scheme.parse(self.recipe).base


class Model(Record, frozen=True):
    """A model, by the field names of LLMKG's own registry, and its artifacts."""

    name: str
    family: str
    parameters: Count
    size_category: Category
    huggingface_id: str
    architecture: str
    task: str
    context_length: Count  # tokens
    vocab_size: Count
    license: str
    description: str
    artifacts: list[Entry]


class Registry(Record, frozen=True, tag_field="format", tag=FORMAT):
    """The content of registry.json: all models by Hub id."""

    models: dict[str, Model]

    @classmethod
    def read(cls, outputs: str | Path) -> Self:
        """Read the registry of an outputs folder. Raises RegistryError where there is none."""
        path = Path(outputs) / NAME
        try:
            return records.parse(path.read_bytes(), cls)
        except OSError as error:
            raise RegistryError(
                f"{path}: {error.strerror}", "make one with llmkg-lab run"
            ) from None
        except RecordError as error:
            raise RegistryError(f"{path}: {error}", "make it again with llmkg-lab run") from None

    def save(self, outputs: str | Path) -> Path:
        """Write registry.json into ``outputs``, whole or not at all."""
        path = Path(outputs) / NAME
        files.write(path, records.text(self))
        return path


def build(outputs: str | Path) -> tuple[Registry, dict[str, str]]:
    """Read the result.json of every variant of the roster.

    It lies in ``<family>/<variant>`` and, where a source was asked for, in a folder of its name,
    such as ``hub/<family>/<variant>``. Results elsewhere in ``outputs``, as those of smoke runs and
    of notebooks run by hand, are not looked at.
    Raises CatalogError where the roster cannot be read.

    Returns:
        The registry, and the reason for each artifact, or variant, that is not in it, by path.
    """
    outputs = Path(outputs)
    models: dict[str, Model] = {}
    left_out: dict[str, str] = {}
    places = [
        (variant, outputs / apart / variant.family / variant.id)
        for variant in catalog.roster().values()  # in tier order
        for apart in ("", *OWN_SOURCES)
    ]
    for variant, folder in places:
        try:
            result = Result.find(folder)
        except ResultError as error:
            left_out[folder.relative_to(outputs).as_posix()] = error.message
            continue
        if result is None:  # it was not run
            continue
        for name, measured in result.schemes.items():
            path = (folder / measured.artifact).relative_to(outputs).as_posix()
            try:
                artifact = _usable(result, measured, outputs / path)
                model = _model(variant, artifact)
            except LabError as error:
                left_out[path] = error.message
                continue
            entry = _entry(variant, name, path, result, measured, artifact)
            models.setdefault(model.huggingface_id, model).artifacts.append(entry)
    return Registry(models), left_out


def _usable(result: Result, measured: SchemeResult, folder: Path) -> Artifact:
    """The artifact in ``folder``. Raises LabError where it must not be listed."""
    if result.source.synthetic:
        raise RegistryError("its weights are synthetic")
    if not measured.verdict.usable:
        raise RegistryError(f"its verdict is {measured.verdict}: {measured.reasons}")
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    made = manifest.source.fingerprint, manifest.scheme
    if made != (result.source.fingerprint, measured.scheme):
        raise RegistryError("it was made again after it was measured")
    return artifact


def hub_id(variant: Variant) -> str:
    """The key of a variant's model. One that has no repository goes by its own id."""
    hub = (source for source in variant.sources if source.kind == "hub")
    return next((source.options["repo"] for source in hub), variant.id)


def _model(variant: Variant, artifact: Artifact) -> Model:
    """The model without artifacts."""
    parameters = artifact.manifest.parameters
    return Model(
        name=variant.title,
        family=variant.family,
        parameters=parameters,
        size_category=next(name for bound, name in SIZES if parameters < bound),
        huggingface_id=hub_id(variant),
        architecture=variant.architecture,
        task=artifact.task,
        context_length=artifact.context_length,
        vocab_size=artifact.vocab_size,
        license=variant.license,
        description=variant.description,
        artifacts=[],
    )


def _entry(
    variant: Variant,
    scheme: str,
    path: str,
    result: Result,
    measured: SchemeResult,
    artifact: Artifact,
) -> Entry:
    source = result.source
    return Entry(
        variant=variant.id,
        scheme=scheme,
        recipe=measured.scheme.recipe,
        path=path,
        bytes=measured.bytes,
        bits_per_weight=measured.bits_per_weight,
        verdict=measured.verdict,
        reasons=measured.reasons,
        quality=measured.quality,
        protocol=measured.protocol,
        speed=measured.speed,
        conditions=measured.conditions,
        source=Weights(source.kind, source.revision, source.fingerprint),
        manifest_sha256=files.sha256(artifact.folder / MANIFEST),
    )


def main() -> None:
    """Refresh the registry of the folder named on the command line; say what is not in it."""
    outputs = Path(sys.argv[1])
    registry, left_out = build(outputs)
    registry.save(outputs)
    for path, reason in left_out.items():
        print(f"not in the registry: {path}: {reason}")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(str(error))
