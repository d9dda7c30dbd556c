"""What recipes were timed at on this processor: written by ``device --measure``."""

import json
from collections.abc import Mapping

from llmkg_lab.base import files, paths
from llmkg_lab.base.machine import cpu_name

FOLDER = "speeds"  # in the cache


def remembered(kind: str) -> dict[str, float]:
    """Return ms by recipe, as timed on a processor of this name; none where nothing was timed."""
    path = paths.cache() / FOLDER / f"{kind}.json"
    try:
        content = json.loads(path.read_bytes())
        timed = content["ms"] if content["cpu"] == cpu_name() else {}
        return {str(recipe): float(ms) for recipe, ms in timed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def remember(kind: str, ms: Mapping[str, float]) -> None:
    """Keep what recipes were timed at on this processor."""
    content = {"cpu": cpu_name(), "ms": dict(ms)}
    path = paths.cache() / FOLDER / f"{kind}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, json.dumps(content, indent=1) + "\n")
