"""What the Hub's cache can tell without the Hub's client, which takes a while to import."""

from pathlib import Path

from huggingface_hub import constants

NOT_HERE = "offline mode is on and the cache holds no complete copy"


def cannot_hold(repo: str, cache: Path | None) -> bool:
    """Return whether the client is offline and its cache has never seen ``repo``.

    Where it has, the client itself must look: a download may have been cut off.
    """
    name = constants.REPO_ID_SEPARATOR.join(("models", *repo.split("/")))
    return constants.is_offline_mode() and not Path(cache or constants.HF_HUB_CACHE, name).exists()
