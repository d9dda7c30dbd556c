"""The models of the roster as metadata: what params/, published shapes and publishers say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from llmkg_lab.llmkg.metadata import ModelCapabilities, ModelMetadata, ModelSize
from llmkg_lab.models import published
from llmkg_lab.results.registry import Model, Registry, hub_id
from llmkg_lab.roster import catalog
from llmkg_lab.roster.catalog import Variant

PUBLISHED = Path(__file__).with_name("published.yaml")


@dataclass(frozen=True)
class Published:
    """What a model's publisher says of it."""

    released: str = ""
    tokens: int | None = None
    capabilities: tuple[str, ...] = ()


def known(folder: str | None = None) -> dict[str, ModelMetadata]:
    """All variants of the roster by Hub id, in tier order, without artifacts.

    Ids of one repository are one model. A variant of a user's own, whose shape is not published
    here, is known from its first artifact on (``measured``).
    """
    models: dict[str, ModelMetadata] = {}
    for variant in catalog.roster(folder).values():
        shape = published.known().get(variant.alias_of or variant.id)
        if shape is not None and variant.alias_of is None:
            form, parameters = shape.form, shape.parameters()
            model = _metadata(variant, parameters, form.positions, form.vocab)
            models.setdefault(model.huggingface_id, model)
    return models


def with_artifacts(
    models: Mapping[str, ModelMetadata], built: Registry
) -> dict[str, ModelMetadata]:
    """The same models with their artifacts, and those that only an artifact tells of."""
    found = dict(models)
    variants = catalog.roster()
    for name, model in built.models.items():
        plain = found.get(name) or _from_artifact(model, variants)
        found[name] = replace(plain, artifacts=tuple(model.artifacts))
    return found


def _from_artifact(model: Model, variants: Mapping[str, Variant]) -> ModelMetadata:
    """The metadata that a registry holds itself."""
    ids = [entry.variant for entry in model.artifacts if entry.variant in variants]
    shape = model.parameters, model.context_length, model.vocab_size
    if ids:
        return _metadata(variants[ids[0]], *shape)
    return ModelMetadata(
        name=model.name,
        family=model.family,
        parameters=model.parameters,
        size_category=ModelSize.of(model.parameters),
        huggingface_id=model.huggingface_id,
        architecture=model.architecture,
        capabilities=_capabilities(model.task, ()),
        context_length=model.context_length,
        vocab_size=model.vocab_size,
        license=model.license,
        description=model.description,
        task=model.task,
    )


def _metadata(variant: Variant, parameters: int, context: int, vocab: int) -> ModelMetadata:
    said = _published().get(variant.id, Published())
    chats = ("instruction_following", "chat") if variant.chat_template else ()
    return ModelMetadata(
        name=variant.title,
        family=variant.family,
        parameters=parameters,
        size_category=ModelSize.of(parameters),
        huggingface_id=hub_id(variant),
        architecture=variant.architecture,
        capabilities=_capabilities(variant.task, (*said.capabilities, *chats)),
        context_length=context,
        vocab_size=vocab,
        training_tokens=said.tokens,
        release_date=said.released,
        license=variant.license,
        description=variant.description,
        task=variant.task,
        variant=variant.id,
    )


def _capabilities(task: str, names: tuple[str, ...]) -> ModelCapabilities:
    flags: dict[str, Any] = dict.fromkeys(names, True)
    return ModelCapabilities(**flags | {"text_generation": task == "text-generation"})


@cache
def _published() -> dict[str, Published]:
    """What publishers say, by variant; YAML reads 2024-07-16 as a date, 600e9 as text."""
    content = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    return {
        name: Published(
            released=str(entry["released"]),
            tokens=int(float(entry["tokens"])) if "tokens" in entry else None,
            capabilities=tuple(entry.get("capabilities", ())),
        )
        for name, entry in content.items()
    }
