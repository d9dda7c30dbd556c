"""The roster: one YAML file per variant in ``params/<family>/``, read into a typed ``Variant``.

A file holds only what the checkpoint cannot tell. ``params/defaults.yaml`` holds, by task, what
variants share (schemes, limits, targets, evaluation); a variant's file may override any of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from llmkg_lab.base import files, paths
from llmkg_lab.base.nearest import nearest
from llmkg_lab.models import FORMS
from llmkg_lab.presets import kind_of, resolve
from llmkg_lab.roster.metrics import BOUNDED
from llmkg_lab.roster.strict_yaml import CatalogError, Node
from llmkg_lab.scheme import Scheme, SchemeError

TASKS = ("text-generation", "sentence-embedding", "feature-extraction", "text-ranking")

Bounds = Mapping[str, Mapping[str, float]]  # scheme -> metric -> bound


@dataclass(frozen=True)
class SourceSpec:
    """Where a variant's files may come from.

    hub: options ``repo`` and, where pinned, ``revision``; local: ``path``;
    package: ``name``, ``version``, ``path`` (inside the installed package).
    """

    kind: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        options = self.options
        if self.kind == "hub":
            return f"hub {options['repo']}" + (
                f"@{options['revision']}" if options.get("revision") else ""
            )
        if self.kind == "package":
            return f"package {options['name']}=={options['version']}"
        return f"{self.kind} {options.get('path', '')}".rstrip()


@dataclass(frozen=True)
class Evaluation:
    """What a variant is validated on.

    Decoders read the first five fields, encoders ``corpora`` and ``sentences``.
    """

    corpora: tuple[str, ...] = ()  # in order of preference; a decoder reads the first two
    tokens: int = 8192  # in all, of each text
    window: int = 512  # tokens a forward pass sees
    prompts: tuple[str, ...] = ()  # continued greedily, reference against quantized
    continuation: int = 64  # tokens
    sentences: int = 500


@dataclass(frozen=True)
class Variant:
    """One model of the roster."""

    id: str  # the file's name
    family: str  # the folder's name
    title: str
    tier: int  # converted in this order
    task: str
    architecture: str
    license: str  # SPDX id, or the Hub's own name for it
    description: str
    sources: tuple[SourceSpec, ...]  # in order of preference
    schemes: tuple[str, ...]  # canonical names
    limits: Bounds  # beyond them a scheme fails
    targets: Bounds  # the roadmap's goals: a miss is reported
    evaluation: Evaluation
    expect: Mapping[str, int] = field(default_factory=dict)  # checked against the checkpoint
    tokenizer_source: SourceSpec | None = None  # where the repository carries no tokenizer
    chat_template: str = ""  # Jinja, of a model that chats and whose repository does not say how
    alias_of: str | None = None  # another id for the same repository

    @property
    def kind(self) -> str:
        """The kind of model, by which presets are resolved."""
        return kind_of(FORMS[self.architecture])

    def scheme(self, name: str) -> Scheme:
        """The scheme of a name, a preset with all that it means for this model."""
        return resolve(Scheme.parse(name), self.kind)

    def limits_for(self, scheme: str) -> Mapping[str, float]:
        """The limits of a scheme; ``int4-b64`` has those of ``int4`` unless it has its own."""
        return _bounds_for(self.limits, self.scheme(scheme))

    def targets_for(self, scheme: str) -> Mapping[str, float]:
        """The targets of a scheme, looked up like its limits."""
        return _bounds_for(self.targets, self.scheme(scheme))


def _bounds_for(bounds: Bounds, scheme: Scheme) -> Mapping[str, float]:
    """The bounds of the scheme itself, or of its base; ``budget`` is the base of all budgets."""
    named = (bounds.get(name) for name in (scheme.name, scheme.recipe, scheme.base))
    return next(filter(None, named), {})


def roster(folder: str | Path | None = None) -> dict[str, Variant]:
    """All variants by id, in tier order.

    Raises:
        CatalogError: a file with a wrong or unknown key or value, or an id that is there twice.
    """
    folder = Path(folder) if folder else paths.params()
    if not (folder / "defaults.yaml").is_file():
        raise CatalogError(f"{folder}: no roster here", "point LLMKG_LAB_PARAMS at params/")
    reader = _Reader(folder / "defaults.yaml")
    variants: dict[str, Variant] = {}
    for file in sorted(folder.glob("*/*.yaml")):
        if file.stem in variants:
            other = variants[file.stem].family
            raise CatalogError(f"{file}: the family {other} has a {file.stem} too", "rename one")
        variants[file.stem] = reader.variant(file)
    return dict(sorted(variants.items(), key=lambda item: (item[1].tier, item[1].family, item[0])))


def find_variant(name: str, folder: str | Path | None = None) -> Variant:
    """The variant with this id. Raises CatalogError, with the nearest id, where there is none."""
    variants = roster(folder)
    if name not in variants:
        raise CatalogError(f"unknown variant {name!r}", nearest(name, variants))
    return variants[name]


def load_variant(path: str | Path, defaults: str | Path | None = None) -> Variant:
    """One variant from its YAML file, completed by the defaults of its task.

    Raises:
        CatalogError: names the file, the key, and the nearest valid key or value.
    """
    file = Path(path)
    return _Reader(Path(defaults) if defaults else paths.params() / "defaults.yaml").variant(file)


@dataclass(frozen=True)
class _Reader:
    defaults: Path

    REQUIRED = ("title", "tier", "task", "architecture", "license", "description", "sources")
    SHARED = ("schemes", "limits", "targets", "evaluation")
    OPTIONAL = ("expect", "tokenizer_source", "chat_template", *SHARED)

    @cached_property
    def _tasks(self) -> dict[str, Node]:
        return Node.read(self.defaults).fields((), TASKS)

    def variant(self, file: Path) -> Variant:
        top = Node.read(file)
        keys = top.mapping()
        if "alias_of" in keys:
            return self._alias(file, top)
        fields = top.fields(self.OPTIONAL, self.REQUIRED)
        task = fields["task"].choice(TASKS)
        shared = self._shared(task, fields)
        optional: dict[str, Any] = {}
        if "expect" in fields:
            expect = fields["expect"].fields(("parameters",))
            optional["expect"] = {key: node.integer() for key, node in expect.items()}
        if "tokenizer_source" in fields:
            optional["tokenizer_source"] = _source(fields["tokenizer_source"])
        if "chat_template" in fields:
            optional["chat_template"] = fields["chat_template"].text()
        return Variant(
            id=file.stem,
            family=file.parent.name,
            title=fields["title"].text(),
            tier=fields["tier"].integer(),
            task=task,
            architecture=fields["architecture"].choice(tuple(FORMS)),
            license=fields["license"].text(),
            description=fields["description"].text(),
            sources=fields["sources"].each(_source),
            **shared,
            **optional,
        )

    def _alias(self, file: Path, top: Node) -> Variant:
        """Another id for a variant of the same family: its own name, everything else shared."""
        fields = top.fields((), ("title", "tier", "description", "alias_of"))
        others = {other.stem for other in file.parent.glob("*.yaml")} - {file.stem}
        name = fields["alias_of"].choice(others)
        original = self.variant(file.with_name(f"{name}.yaml"))
        if original.alias_of:
            raise fields["alias_of"].error(
                f"{name} is an alias itself", f"name {original.alias_of}"
            )
        return replace(
            original,
            id=file.stem,
            title=fields["title"].text(),
            tier=fields["tier"].integer(),
            description=fields["description"].text(),
            alias_of=name,
        )

    def _shared(self, task: str, fields: Mapping[str, Node]) -> dict:
        """Schemes, bounds and evaluation: the task's defaults, then what the variant says."""
        default = self._tasks[task].fields((), self.SHARED)
        limits, targets = _bounds(default["limits"]), _bounds(default["targets"])
        evaluation = _evaluation(default["evaluation"], Evaluation())
        if "limits" in fields:
            limits = _merged(limits, _bounds(fields["limits"]))
        if "targets" in fields:
            targets = _merged(targets, _bounds(fields["targets"]))
        if "evaluation" in fields:
            evaluation = _evaluation(fields["evaluation"], evaluation)
        schemes = fields.get("schemes", default["schemes"]).each(_scheme)
        return {"schemes": schemes, "limits": limits, "targets": targets, "evaluation": evaluation}


def _scheme(node: Node) -> str:
    try:
        return Scheme.parse(node.text()).name
    except SchemeError as error:
        raise node.error(error.message, error.hint) from error


def _bounds(node: Node) -> Bounds:
    bounds = {}
    for name, child in node.mapping().items():
        scheme = name if name == "budget" else _scheme(Node(child.file, child.key, name))
        bounds[scheme] = {key: value.number() for key, value in child.fields(BOUNDED).items()}
    return bounds


def _merged(default: Bounds, own: Bounds) -> Bounds:
    return {name: {**default.get(name, {}), **own.get(name, {})} for name in {**default, **own}}


def _evaluation(node: Node, default: Evaluation) -> Evaluation:
    fields = node.fields(Evaluation.__dataclass_fields__)
    texts = ("corpora", "prompts")
    said: dict[str, Any] = {
        key: value.each(Node.text) if key in texts else value.integer()
        for key, value in fields.items()
    }
    return replace(default, **said)


def _source(node: Node) -> SourceSpec:
    """``hub: OWNER/NAME``, ``package: NAME==VERSION`` with ``path``, or ``local: PATH``."""
    kinds = {"hub": _hub, "local": _local, "package": _package}
    named = [key for key in node.mapping() if key in kinds]
    if len(named) != 1:
        raise node.error("needs exactly one of hub, local, package", _near_kind(node, kinds))
    return SourceSpec(named[0], kinds[named[0]](node))


def _near_kind(node: Node, kinds: Mapping) -> str:
    unknown = [key for key in node.mapping() if key not in kinds]
    return nearest(unknown[0], kinds) if unknown else "split it into one entry a source"


def _hub(node: Node) -> dict[str, str]:
    fields = node.fields(("revision",), ("hub",))
    repo = fields["hub"].text()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII):
        raise fields["hub"].error(f"{repo!r} is not a repository", "write OWNER/NAME")
    options = {"repo": repo}
    if "revision" in fields:
        options["revision"] = fields["revision"].text()
    return options


def _local(node: Node) -> dict[str, str]:
    """A path beside the YAML file, or an absolute one."""
    path = Path(node.fields((), ("local",))["local"].text()).expanduser()
    return {"path": str(node.file.parent / path)}


def _package(node: Node) -> dict[str, str]:
    fields = node.fields((), ("package", "path"))
    name, pinned, version = fields["package"].text().partition("==")
    if not (name and pinned and version):
        raise fields["package"].error("no version is pinned", "write NAME==VERSION")
    path = fields["path"].text()
    if not files.is_inside(path):
        raise fields["path"].error(f"{path!r} leaves the package", "write a path inside it")
    return {"name": name, "version": version, "path": path}
