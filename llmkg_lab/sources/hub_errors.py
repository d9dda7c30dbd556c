"""What a failure of the Hub's client means to a user, and what to do about it."""

import errno
import re

import httpx2
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from llmkg_lab.sources.hub_cache import NOT_HERE

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
LOG_IN = "set HF_TOKEN or run `hf auth login`"
RUN_AGAIN = "run again: files that are complete are kept"


def status(error: BaseException) -> int | None:
    """The HTTP status of an error that the Hub answered with."""
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def root(error: BaseException) -> BaseException:
    """The client says "not in the cache" where the true reason is the error before it."""
    while isinstance(error, LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    return error


def retry_after(error: BaseException) -> int | None:
    """Seconds that the Hub asks to wait: its rate limit header, or the standard one."""
    if not isinstance(error, HfHubHTTPError):
        return None
    headers = error.response.headers
    limit = re.search(r"\bt\s*=\s*(\d+)", headers.get("ratelimit", ""))
    asked = limit[1] if limit else headers.get("retry-after", "")
    return int(asked) if asked.isdecimal() else None


def explain(
    error: BaseException, repo: str, revision: str | None, endpoint: str
) -> tuple[str, str]:
    """What went wrong with ``repo``, and the way out."""
    error = root(error)
    if status(error) is not None:
        return _refusal(error, repo, revision, endpoint)
    if isinstance(error, OfflineModeIsEnabled):
        return NOT_HERE, "unset HF_HUB_OFFLINE, or fetch it once with a network"
    if isinstance(error, httpx2.ConnectError | httpx2.TimeoutException | TimeoutError):
        return (
            f"the Hub cannot be reached at {endpoint}",
            "check the network (HF_ENDPOINT and HTTPS_PROXY are honoured), or name a local folder",
        )
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy refuses to reach {endpoint}: {error}", "check HTTPS_PROXY"
    if isinstance(error, httpx2.TransportError):
        return f"the connection was cut while fetching {repo}: {error}", RUN_AGAIN
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return f"no space left on the disk for {repo}", "free some, or move the cache with HF_HOME"
    if isinstance(error, PermissionError):
        return f"the cache cannot be written: {error}", "move it with HF_HOME"
    return f"fetching {repo} failed: {type(error).__name__}: {error}", RUN_AGAIN


def _refusal(
    error: HfHubHTTPError, repo: str, revision: str | None, endpoint: str
) -> tuple[str, str]:
    """What an HTTP status and the Hub's error code say."""
    code, page = status(error), f"{endpoint}/{repo}"
    if isinstance(error, GatedRepoError):
        if code == 401:
            return f"{repo} is gated", f"accept its terms at {page}, then {LOG_IN}"
        return f"{repo} is gated and your token has no access", f"accept its terms at {page}"
    if isinstance(error, RepositoryNotFoundError):
        return f"there is not a repository {repo}, or it is private", f"check the name, or {LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}", f"choose a branch, tag or commit at {page}"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"a file that {repo} lists is gone: {error.response.url}", "run again"
    if isinstance(error, DisabledRepoError):
        return f"the Hub has disabled {repo}", f"see {page}"
    if code in (401, 403):
        return f"the Hub refuses access to {repo} ({code})", f"renew the token: {LOG_IN}"
    if code == 429:
        wait = retry_after(error)
        when = f"in {wait} s" if wait is not None else "later"
        return "the Hub's rate limit is reached", f"try again {when}; to raise the limit, {LOG_IN}"
    return f"the Hub answered {code} about {repo}", "try again later"
