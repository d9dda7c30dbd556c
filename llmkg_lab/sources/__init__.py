"""Where checkpoints come from: the Hub, a local folder, an installed package.

A variant names its sources in order of preference; the first that is available is used, and
``Fetched.detail`` says which one that is and why the earlier ones were passed over.
"""

import re
from dataclasses import replace
from pathlib import Path

from llmkg_lab.base.nearest import nearest
from llmkg_lab.base.progress import Progress, silent
from llmkg_lab.roster.catalog import SourceSpec, Variant
from llmkg_lab.sources import hub_cache, local
from llmkg_lab.sources.base import (
    SOURCES,
    Fetched,
    SourceError,
    UnavailableError,
    source_named,
)

__all__ = [
    "SOURCES",
    "Fetched",
    "SourceError",
    "UnavailableError",
    "availability",
    "fetch",
    "fetch_repo",
]


def fetch(
    variant: Variant,
    source: str = "",
    *,
    cache: str | Path | None = None,
    progress: Progress = silent,
) -> Fetched:
    """Bring a variant's checkpoint here, from the first of its sources that is available.

    source: only this kind (hub, local, package), or the path of a checkpoint to use instead;
        ``synthetic`` or ``synthetic:reduced`` for random weights in the variant's shape.
    cache: the Hub's cache folder, if not the usual one.
    progress: told of "download", or "drawing weights", in bytes.

    Raises:
        UnavailableError: no source can serve; each one's reason and way out is told.
        SourceError: a source began to serve and broke (connection cut, disk full).
    """
    cache = Path(cache) if cache else None
    passed_over: list[tuple[SourceSpec, UnavailableError]] = []
    for spec in _wanted(variant, source):
        try:
            fetched = source_named(spec.kind).fetch(spec, cache, progress)
        except UnavailableError as error:
            passed_over.append((spec, error))
        else:
            why = "; ".join(f"{other}: {error.message}" for other, error in passed_over)
            detail = f"{fetched.detail}; passed over: {why}" if why else fetched.detail
            fetched = replace(fetched, detail=detail, chat_template=variant.chat_template)
            return _with_tokenizer(fetched, variant, cache, progress)
    raise _none_available(variant, passed_over)


def fetch_repo(
    repo_or_path: str | Path,
    *,
    revision: str | None = None,
    cache: str | Path | None = None,
    progress: Progress = silent,
) -> Fetched:
    """A checkpoint that has no parameter file: a path, or OWNER/NAME on the Hub.

    Raises SourceError, or its subclass UnavailableError, as ``fetch`` does.
    """
    path, name = Path(repo_or_path), str(repo_or_path)
    if path.exists():
        return local.at(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII) or name.startswith("."):
        raise SourceError(
            f"{name} is neither a path here nor a repository",
            "name a folder with config.json, a .gguf file, or OWNER/NAME on the Hub",
        )
    spec = SourceSpec("hub", {"repo": name} | ({"revision": revision} if revision else {}))
    return source_named("hub").fetch(spec, Path(cache) if cache else None, progress)


def availability(variant: Variant, cache: Path | None = None) -> list[tuple[SourceSpec, bool, str]]:
    """Each of a variant's sources: can it serve now, and if not, why. Downloads nothing."""
    reasons = [(spec, _missing(spec, cache)) for spec in variant.sources]
    return [(spec, not reason, reason) for spec, reason in reasons]


def _missing(spec: SourceSpec, cache: Path | None) -> str:
    if spec.kind == "hub" and hub_cache.cannot_hold(spec.options["repo"], cache):
        return hub_cache.NOT_HERE
    return source_named(spec.kind).missing(spec, cache)


def _with_tokenizer(
    fetched: Fetched, variant: Variant, cache: Path | None, progress: Progress
) -> Fetched:
    if variant.tokenizer_source is None:
        return fetched
    from llmkg_lab.sources.borrowed import with_tokenizer  # imports the Hub's client

    return with_tokenizer(fetched, variant.tokenizer_source, cache, progress)


def _wanted(variant: Variant, source: str) -> list[SourceSpec]:
    if not source:
        return list(variant.sources)
    kind = source.partition(":")[0]
    if kind == "synthetic":
        from llmkg_lab.sources.synthetic import spec_of  # imports NumPy

        return [spec_of(variant, source)]
    if source in SOURCES:
        if specs := [spec for spec in variant.sources if spec.kind == source]:
            return specs
        kinds = ", ".join(str(spec) for spec in variant.sources)
        raise SourceError(f"{variant.id} has no source of kind {source}", f"it has {kinds}")
    if Path(source).exists():
        return [SourceSpec("local", {"path": source})]
    if kind in SOURCES:
        raise SourceError(f"{source!r}: only synthetic weights have a size", f"write {kind}")
    raise SourceError(
        f"{source!r} is neither a kind of source nor a path", nearest(source, SOURCES)
    )


def _none_available(
    variant: Variant, errors: list[tuple[SourceSpec, UnavailableError]]
) -> UnavailableError:
    lines = "".join(f"\n  {spec}: {error.message}" for spec, error in errors)
    ways_out = dict.fromkeys(error.hint for _, error in errors if error.hint)
    return UnavailableError(f"{variant.id}: no source is available{lines}", "; or ".join(ways_out))
