"""The Hugging Face Hub, through its own client and into the client's own cache.

The client resumes a cut download by range requests and waits out 429. It does not retry the
first question about a repository, nor a storage host that answers 5xx: that is added here.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, constants, snapshot_download

from llmkg_lab.catalog import SourceSpec
from llmkg_lab.sources.base import Fetched, Progress, SourceError, UnavailableError, source
from llmkg_lab.sources.hub_errors import explain, root, status
from llmkg_lab.sources.hub_files import checkpoint_files

FIRST_ANSWER_S = 10.0  # how long the first question may take
PAUSES_S = (1.0, 4.0)  # before the second and the third attempt
Result = TypeVar("Result")


@source("hub")
class HubSource:
    """A repository on the Hub, in the client's own cache."""

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        try:
            self._commit(spec, cache)
        except UnavailableError as error:
            return error.message
        return ""

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress | None) -> Fetched:
        commit, files = self._commit(spec, cache)
        repo = spec.options["repo"]

        def download() -> str:
            return snapshot_download(repo, revision=commit, allow_patterns=files, cache_dir=cache)

        try:
            path = Path(_patiently(download))
        except Exception as error:
            raise SourceError(*_explained(error, spec)) from error
        return Fetched(path, "hub", str(spec), revision=commit)

    def _commit(self, spec: SourceSpec, cache: Path | None) -> tuple[str, list[str]]:
        """The commit that the revision stands for, and the files a conversion needs from it."""
        repo, revision = spec.options["repo"], spec.options.get("revision")
        try:
            if constants.is_offline_mode():
                path = Path(
                    snapshot_download(
                        repo, revision=revision, cache_dir=cache, local_files_only=True
                    )
                )
                return path.name, [str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()]
            info = HfApi().model_info(repo, revision=revision, timeout=FIRST_ANSWER_S)
        except Exception as error:
            raise UnavailableError(*_explained(error, spec)) from error
        return info.sha, checkpoint_files(file.rfilename for file in info.siblings)


def _explained(error: Exception, spec: SourceSpec) -> tuple[str, str]:
    return explain(error, spec.options["repo"], spec.options.get("revision"), constants.ENDPOINT)


def _patiently(attempt: Callable[[], Result]) -> Result:
    """Try again where the fault may pass: a cut connection, or a server's 5xx."""
    for pause in PAUSES_S:
        try:
            return attempt()
        except Exception as error:
            cause = root(error)
            if not isinstance(cause, httpx2.TransportError) and (status(cause) or 0) < 500:
                raise
            time.sleep(pause)
    return attempt()
