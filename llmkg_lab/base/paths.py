"""Where things lie: the checkout's folders, each of which an environment variable may move."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default)


def params() -> Path:
    """The roster: one YAML a variant, by family."""
    return _folder("LLMKG_LAB_PARAMS", ROOT / "params")


def notebooks() -> Path:
    """The papermill templates, one a family."""
    return _folder("LLMKG_LAB_NOTEBOOKS", ROOT / "notebooks")


def outputs() -> Path:
    """Reports, artifacts and the registry."""
    return _folder("LLMKG_LAB_OUTPUTS", ROOT / "outputs")


def cache() -> Path:
    """What can be computed again: reference outputs, materialized checkpoints."""
    return _folder("LLMKG_LAB_CACHE", Path.home() / ".cache" / "llmkg-lab")


def data() -> Path | None:
    """Evaluation data that the user keeps outside the project, if any."""
    value = os.environ.get("LLMKG_LAB_DATA")
    return Path(value) if value and Path(value).is_dir() else None
