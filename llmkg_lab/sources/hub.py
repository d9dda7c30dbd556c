"""The Hugging Face Hub, through its own client and into the client's own cache.

The client resumes a cut download by range requests and waits out 429. It does not retry the
first question about a repository, nor a storage host that answers 5xx: that is added here.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import (
    DryRunFileInfo,
    HfApi,
    constants,
    get_cached_repo_tree,
    snapshot_download,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import repo_folder_name

from llmkg_lab.base.files import shortage
from llmkg_lab.base.progress import Counter, Progress
from llmkg_lab.roster.catalog import SourceSpec
from llmkg_lab.sources.base import Fetched, SourceError, UnavailableError
from llmkg_lab.sources.hub_errors import explain, retry_after, root, status
from llmkg_lab.sources.hub_files import checkpoint_files, lacks
from llmkg_lab.sources.hub_progress import Silenced, bars_of

FIRST_ANSWER_S = 10.0  # how long the first question may take
PAUSES_S = (1, 4)  # before the second and the third attempt, unless the Hub asks for another
LONGEST_PAUSE_S = 60  # beyond it, a user would rather know
Result = TypeVar("Result")


class HubSource:
    """A repository on the Hub, in the client's own cache.

    Without a network the cache serves, if it holds all that a conversion reads.
    """

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        try:
            self._question(spec)
        except Exception as error:
            return "" if self._cached(spec, cache) else _explained(error, spec)[0]
        return ""

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress) -> Fetched:
        repo, revision = spec.options["repo"], spec.options.get("revision")
        try:
            names = patiently(lambda: self._question(spec))
        except Exception as error:
            if path := self._cached(spec, cache):
                return Fetched(path, "hub", f"{spec}, from the cache", revision=path.name)
            raise UnavailableError(*_explained(error, spec)) from error

        if reason := lacks(repo, names):
            raise SourceError(*reason)
        wanted = {
            "revision": revision,
            "allow_patterns": checkpoint_files(names),
            "cache_dir": cache,
        }
        try:
            planned = patiently(
                lambda: snapshot_download(repo, **wanted, dry_run=True, tqdm_class=Silenced)
            )
            _check_room(repo, planned, Path(cache or constants.HF_HUB_CACHE))
            missing = sum(file.file_size or 0 for file in planned if file.will_download)
            bars = bars_of(Counter(progress, "download", "bytes", missing)) if missing else Silenced
            path = Path(patiently(lambda: snapshot_download(repo, **wanted, tqdm_class=bars)))
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(*_explained(error, spec)) from error
        return Fetched(path, "hub", str(spec), revision=path.name)  # the cache's folder: the commit

    def _question(self, spec: SourceSpec) -> list[str]:
        """The files of the repository."""
        if constants.is_offline_mode():
            raise OfflineModeIsEnabled
        info = HfApi().model_info(
            spec.options["repo"], revision=spec.options.get("revision"), timeout=FIRST_ANSWER_S
        )
        return [file.rfilename for file in info.siblings]

    def _cached(self, spec: SourceSpec, cache: Path | None) -> Path | None:
        """The snapshot that an earlier run left, if it is complete."""
        repo, revision = spec.options["repo"], spec.options.get("revision")
        try:
            tree = get_cached_repo_tree(repo, revision=revision, cache_dir=cache)
            files = checkpoint_files(entry.path for entry in tree)
            return Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    cache_dir=cache,
                    allow_patterns=files,
                    local_files_only=True,
                )
            )
        except (CachedRepoTreeNotFoundError, LocalEntryNotFoundError):
            return None


def _check_room(repo: str, planned: Sequence[DryRunFileInfo], cache: Path) -> None:
    """Raise SourceError where the files that are still missing do not fit the disk."""
    partial = cache.joinpath(repo_folder_name(repo_id=repo, repo_type="model"), "blobs")
    begun = sum(path.stat().st_size for path in partial.glob("*.incomplete"))
    missing = sum(file.file_size or 0 for file in planned if file.will_download) - begun
    if said := shortage(cache, missing):
        raise SourceError(f"{repo} {said}", "free some, or move the cache with HF_HOME")


def _explained(error: Exception, spec: SourceSpec) -> tuple[str, str]:
    return explain(error, spec.options["repo"], spec.options.get("revision"), constants.ENDPOINT)


def patiently(attempt: Callable[[], Result]) -> Result:
    """Try again where the fault may pass: a cut connection, a rate limit, a server's 5xx."""
    for pause in PAUSES_S:
        try:
            return attempt()
        except Exception as error:
            if not _may_pass(root(error)):
                raise
            time.sleep(min(retry_after(root(error)) or pause, LONGEST_PAUSE_S))
    return attempt()


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx2.ConnectError):  # no network: another source may serve at once
        return False
    code = status(error) or 0
    return isinstance(error, httpx2.TransportError) or code == 429 or code >= 500
