"""What every kind of source has in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Progress
from llmkg_lab.roster.catalog import SourceSpec


class SourceError(LabError):
    """A checkpoint that cannot be fetched."""


class UnavailableError(SourceError):
    """A source that cannot serve here and now, while another one may."""


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on this machine and where it came from."""

    path: Path  # a folder, or one .gguf file
    kind: str  # hub | local | package
    detail: str  # for people: which source, and why not an earlier one
    revision: str | None  # the commit on the Hub, or the package's version
    synthetic: bool = False
    tokenizer: Path | None = None  # a folder, where the checkpoint's own has no tokenizer


class Source(Protocol):
    """One kind of source. Both methods may be called from any thread."""

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        """Why nothing can be fetched now, in words; empty where it can."""

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress) -> Fetched:
        """Bring the files here. Raises UnavailableError, or SourceError on a broken transfer."""


SOURCES: dict[str, Source] = {}


def source(kind: str) -> Callable[[type[Source]], type[Source]]:
    """Register a class as the source of this kind."""

    def register(cls: type[Source]) -> type[Source]:
        SOURCES[kind] = cls()
        return cls

    return register
