"""The Hugging Face Hub, through its own client and into the client's own cache.

The client resumes a cut download by range requests and waits out 429. It does not retry the
first question about a repository, nor a storage host that answers 5xx: that is added here.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import (
    DryRunFileInfo,
    HfApi,
    constants,
    get_cached_repo_tree,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.file_download import repo_folder_name

from llmkg_lab.base.files import shortage
from llmkg_lab.base.progress import Counter, Progress
from llmkg_lab.checkpoint import CheckpointError, open_checkpoint
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
            files_of(spec)
        except Exception as error:
            return "" if self._cached(spec, cache) else explained(error, spec)[0]
        return ""

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress) -> Fetched:
        repo = spec.options["repo"]
        try:
            names = patiently(lambda: files_of(spec))
        except Exception as error:
            if path := self._cached(spec, cache):
                return Fetched(path, "hub", f"{spec}, from the cache", revision=path.name)
            raise UnavailableError(*explained(error, spec)) from error

        if reason := lacks(repo, names):
            raise SourceError(*reason)
        path = download(spec, checkpoint_files(names), progress, cache=cache)
        return Fetched(path, "hub", str(spec), revision=path.name)  # the cache's folder: the commit

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
        except CachedRepoTreeNotFoundError:  # from_pretrained fetches file by file, and lists none
            return self._fetched_singly(spec, cache)
        except LocalEntryNotFoundError:
            return None

    def _fetched_singly(self, spec: SourceSpec, cache: Path | None) -> Path | None:
        """The snapshot whose files other programs fetched, if it is a whole checkpoint."""
        repo, revision = spec.options["repo"], spec.options.get("revision")
        for name in ("config.json", "modules.json"):
            found = try_to_load_from_cache(repo, name, cache_dir=cache, revision=revision)
            if isinstance(found, str):
                with contextlib.suppress(CheckpointError):
                    return open_checkpoint(Path(found).parent).path
        return None


def files_of(spec: SourceSpec) -> list[str]:
    """The files of a repository, asked of the Hub. Raises what its client raises."""
    if constants.is_offline_mode():
        raise OfflineModeIsEnabled
    info = HfApi().model_info(
        spec.options["repo"], revision=spec.options.get("revision"), timeout=FIRST_ANSWER_S
    )
    return [file.rfilename for file in info.siblings]


def download(
    spec: SourceSpec,
    names: Sequence[str],
    progress: Progress,
    *,
    cache: Path | None = None,
    folder: Path | None = None,
) -> Path:
    """Bring files of a repository here; an interrupted download goes on where it was cut.

    cache, folder: where to: into a cache of the client's kind, or as plain files into a folder.
    progress: told of "download", in bytes.
    Returns the folder that holds them. Raises SourceError, which says what is wrong.
    """
    repo = spec.options["repo"]
    wanted: dict[str, Any] = {
        "revision": spec.options.get("revision"),
        "allow_patterns": list(names),
        "cache_dir": cache,
        "local_dir": folder,
    }
    try:
        planned = patiently(
            lambda: snapshot_download(repo, **wanted, dry_run=True, tqdm_class=Silenced)
        )
        _check_room(repo, planned, folder or Path(cache or constants.HF_HUB_CACHE))
        missing = sum(file.file_size or 0 for file in planned if file.will_download)
        bars = bars_of(Counter(progress, "download", "bytes", missing)) if missing else Silenced
        return Path(patiently(lambda: snapshot_download(repo, **wanted, tqdm_class=bars)))
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(*explained(error, spec)) from error


def _check_room(repo: str, planned: Sequence[DryRunFileInfo], cache: Path) -> None:
    """Raise SourceError where the files that are still missing do not fit the disk."""
    partial = cache.joinpath(repo_folder_name(repo_id=repo, repo_type="model"), "blobs")
    begun = sum(path.stat().st_size for path in partial.glob("*.incomplete"))
    missing = sum(file.file_size or 0 for file in planned if file.will_download) - begun
    if said := shortage(cache, missing):
        raise SourceError(f"{repo} {said}", "free some, or move the cache with HF_HOME")


def explained(error: Exception, spec: SourceSpec) -> tuple[str, str]:
    """What went wrong at the Hub, and what to do."""
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
