"""What every kind of source has in common."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Progress
from llmkg_lab.roster.catalog import SourceSpec

if TYPE_CHECKING:
    from llmkg_lab.checkpoint import Checkpoint


class SourceError(LabError):
    """A checkpoint that cannot be fetched."""


class UnavailableError(SourceError):
    """A source that cannot serve here and now, while another one may."""


@dataclass(frozen=True)
class Fetched:
    """A checkpoint on this machine and where it came from."""

    path: Path  # a folder, or one .gguf file
    kind: str  # hub | local | package | synthetic
    detail: str  # for people: which source, and why not an earlier one
    revision: str | None  # the commit on the Hub, or the package's version
    synthetic: bool = False
    tokenizer: Path | None = None  # a folder, where the checkpoint's own has no tokenizer
    chat_template: str = ""  # Jinja, for a tokenizer that does not say how to write a chat

    def open(self) -> "Checkpoint":
        """Open the checkpoint with its tokenizer and chat template. No weights are read yet.

        Raises CheckpointError where there is nothing to open or it is broken.
        """
        from llmkg_lab.checkpoint import open_checkpoint  # NumPy, and readers of every format

        return open_checkpoint(self.path, self.tokenizer, self.chat_template)

    @property
    def origin(self) -> dict[str, Any]:
        """What manifests and results say of where the checkpoint came from."""
        names = ("kind", "detail", "revision", "synthetic")
        return {name: getattr(self, name) for name in names}


class Source(Protocol):
    """One kind of source. Both methods may be called from any thread."""

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        """Why nothing can be fetched now, in words; empty where it can."""

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress) -> Fetched:
        """Bring the files here. Raises UnavailableError, or SourceError on a broken transfer."""


SOURCES = {  # the class of each kind, by its module
    "hub": "hub.HubSource",
    "local": "local.LocalSource",
    "package": "local.PackageSource",
    "synthetic": "synthetic.SyntheticSource",
}


@cache
def source_named(kind: str) -> Source:
    """Return the source of a kind. Its module is imported now: the Hub's client takes a while."""
    module, name = SOURCES[kind].split(".")
    return getattr(import_module(f"llmkg_lab.sources.{module}"), name)()
