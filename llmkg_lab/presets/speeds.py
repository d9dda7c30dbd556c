"""What recipes were timed at on this processor: written by ``device --measure``."""

import json
from collections.abc import Mapping

from llmkg_lab.base import files, paths
from llmkg_lab.base.machine import cpu_name
from llmkg_lab.models import published

FOLDER = "speeds"  # in the cache
TIMED = {  # by kind: whose shape of models/published.yaml is timed, and what a time is of
    "decoder": ("smollm2_135m", "one token"),
    "encoder": ("all_minilm_l6_v2", "one text of 16 tokens"),
}
LAYERS = 8  # at most


def described(kind: str) -> str:
    """Say what a time is of."""
    name, what = TIMED[kind]
    layers = min(LAYERS, published.known()[name].form.layers)
    return f"{what}, {layers} layers of {name}"


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
