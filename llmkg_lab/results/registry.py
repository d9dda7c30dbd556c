"""The registry: which converted models may be used, and what each is worth.

``outputs/registry.json`` is what LLMKG reads. It lists an artifact only if its quality was
measured on real weights and held its scheme's limits ("pass" or "below target"), and if its
files are still there. The key of a model is its Hub id. The same results give the same bytes.

    python -m llmkg_lab.results.registry outputs
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llmkg_lab.artifact import MANIFEST, Artifact
from llmkg_lab.base import files
from llmkg_lab.base.errors import LabError
from llmkg_lab.roster import catalog
from llmkg_lab.roster.catalog import Variant

FORMAT = "llmkg-lab/registry/1"
NAME = "registry.json"
USABLE = ("pass", "below target")
SIZES = ((50e6, "Tiny"), (200e6, "Small"), (500e6, "Medium"), (float("inf"), "Large"))


class RegistryError(LabError):
    """An artifact that the registry cannot list, and why."""


@dataclass(frozen=True)
class ModelMetadata:
    """What a model is, by the field names of LLMKG's own registry."""

    name: str
    family: str
    parameters: int
    size_category: str  # Tiny, Small, Medium, Large: below 50, 200, 500 million parameters, above
    huggingface_id: str
    architecture: str
    task: str
    context_length: int  # tokens
    vocab_size: int
    license: str
    description: str


@dataclass(frozen=True)
class Entry:
    """One artifact: where it is and what was measured of it, as result.json says it."""

    variant: str
    scheme: str
    path: str  # its folder, relative to registry.json
    bytes: int  # of the graph and its weights
    bits_per_weight: float
    verdict: str
    reasons: list[str]
    quality: dict[str, dict]  # metric -> value, low, high, n, unit
    protocol: dict  # on what the quality was measured
    speed: dict[str, dict]  # metric -> value, low, high, n
    conditions: dict  # on what machine, with what prompt, the speed was measured
    source: dict  # kind, revision, fingerprint of the checkpoint
    manifest_sha256: str  # the manifest holds the SHA-256 of every other file


@dataclass(frozen=True)
class Model:
    """A model and its artifacts."""

    metadata: ModelMetadata
    artifacts: list[Entry] = field(default_factory=list)


@dataclass(frozen=True)
class Registry:
    """All models by Hub id, and why an artifact that was made is not among them."""

    models: dict[str, Model]
    left_out: dict[str, str]  # path -> reason


def build(outputs: str | Path) -> Registry:
    """Read the ``<family>/<variant>/result.json`` of every variant of the roster.

    Results elsewhere in ``outputs``, as those of notebooks run by hand, are not looked at.
    Raises RegistryError where a result.json cannot be read, CatalogError where the roster cannot.
    """
    outputs = Path(outputs)
    registry = Registry({}, {})
    for variant in catalog.roster().values():  # in tier order
        folder = outputs / variant.family / variant.id
        result = _read(folder / "result.json")
        for name, measured in result["schemes"].items():
            path = (folder / measured["artifact"]).relative_to(outputs).as_posix()
            try:
                artifact = _usable(result, measured, outputs / path)
            except LabError as error:
                registry.left_out[path] = error.message
                continue
            key = _huggingface_id(variant)
            model = registry.models.setdefault(key, Model(_metadata(variant, artifact)))
            model.artifacts.append(
                _entry(variant, name, path, result["source"], measured, artifact)
            )
    return registry


def save(registry: Registry, outputs: str | Path) -> Path:
    """Write registry.json into ``outputs``, whole or not at all."""
    models = {
        key: {**asdict(model.metadata), "artifacts": [asdict(entry) for entry in model.artifacts]}
        for key, model in registry.models.items()
    }
    path = Path(outputs) / NAME
    files.write(path, json.dumps({"format": FORMAT, "models": models}, indent=2) + "\n")
    return path


def _read(path: Path) -> dict:
    """A variant's result.json; no schemes where it was not run."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {"schemes": {}}
    except ValueError as error:
        raise RegistryError(f"{path} is not JSON: {error}", "run the variant again") from None


def _usable(result: dict, measured: dict, folder: Path) -> Artifact:
    """The artifact in ``folder``. Raises LabError where it must not be listed."""
    if result["source"]["synthetic"]:
        raise RegistryError("its weights are synthetic")
    if measured["verdict"] not in USABLE:
        raise RegistryError(f"its verdict is {measured['verdict']}: {measured['reasons']}")
    artifact = Artifact.open(folder)
    manifest = artifact.manifest
    made = manifest["source"]["fingerprint"], manifest["scheme"]
    if made != (result["source"]["fingerprint"], measured["scheme"]):
        raise RegistryError("it was made again after it was measured")
    return artifact


def _huggingface_id(variant: Variant) -> str:
    """The repository on the Hub; a variant that has none goes by its own id."""
    hub = (source for source in variant.sources if source.kind == "hub")
    return next((source.options["repo"] for source in hub), variant.id)


def _metadata(variant: Variant, artifact: Artifact) -> ModelMetadata:
    parameters, config = artifact.manifest["parameters"], artifact.config
    return ModelMetadata(
        name=variant.title,
        family=variant.family,
        parameters=parameters,
        size_category=next(name for bound, name in SIZES if parameters < bound),
        huggingface_id=_huggingface_id(variant),
        architecture=variant.architecture,
        task=artifact.task,
        context_length=artifact.context_length,
        vocab_size=config["vocab_size"],
        license=variant.license,
        description=variant.description,
    )


def _entry(
    variant: Variant, scheme: str, path: str, source: dict, measured: dict, artifact: Artifact
) -> Entry:
    same = ("bytes", "bits_per_weight", "verdict", "reasons")
    evidence = ("quality", "protocol", "speed", "conditions")
    return Entry(
        variant=variant.id,
        scheme=scheme,
        path=path,
        **{key: measured[key] for key in (*same, *evidence)},
        source={key: source[key] for key in ("kind", "revision", "fingerprint")},
        manifest_sha256=files.sha256(artifact.folder / MANIFEST),
    )


def main() -> None:
    """Refresh the registry of the folder named on the command line; say what is not in it."""
    outputs = Path(sys.argv[1])
    registry = build(outputs)
    save(registry, outputs)
    for path, reason in registry.left_out.items():
        print(f"not in the registry: {path}: {reason}")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(str(error))
