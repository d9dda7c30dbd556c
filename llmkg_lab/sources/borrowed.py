"""A tokenizer from another place than the weights: OpenELM's repositories have none."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants, snapshot_download

from llmkg_lab.base.progress import Progress
from llmkg_lab.roster.catalog import SourceSpec
from llmkg_lab.sources.base import Fetched, SourceError, source_named
from llmkg_lab.sources.hub import patiently
from llmkg_lab.sources.hub_errors import explain
from llmkg_lab.sources.hub_files import TOKENIZER, tokenizer_files
from llmkg_lab.sources.hub_progress import Silenced

OWN = ("tokenizer.json", "tokenizer.model")


def with_tokenizer(
    fetched: Fetched, spec: SourceSpec, cache: Path | None, progress: Progress
) -> Fetched:
    """Return the same with the tokenizer of ``spec``, unless the checkpoint has one of its own.

    Raises SourceError where that tokenizer cannot be had.
    """
    if fetched.path.is_file() or any((fetched.path / name).exists() for name in OWN):
        return fetched
    if spec.kind == "hub":
        folder = _from_hub(spec, cache)
    else:
        folder = source_named(spec.kind).fetch(spec, cache, progress).path
    return replace(fetched, tokenizer=folder, detail=f"{fetched.detail}; tokenizer of {spec}")


def _from_hub(spec: SourceSpec, cache: Path | None) -> Path:
    """The tokenizer's files alone: the repository's weights are another model's."""
    repo, revision = spec.options["repo"], spec.options.get("revision")

    def download() -> str:
        patterns = list(TOKENIZER)
        return snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            cache_dir=cache,
            tqdm_class=Silenced,  # a few small files
        )

    try:
        folder = Path(patiently(download))
    except Exception as error:
        message, hint = explain(error, repo, revision, constants.ENDPOINT)
        raise SourceError(f"the tokenizer: {message}", hint) from error
    if not tokenizer_files(path.name for path in folder.iterdir()):
        raise SourceError(f"{spec} holds no tokenizer", "name another tokenizer_source")
    return folder
