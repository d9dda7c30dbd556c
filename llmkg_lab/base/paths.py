"""The folders that the project reads and writes, each of which an environment variable may move.

The roster, the notebooks and the workflow lie beside the package in a checkout, and inside it
where a wheel was installed.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = None if (PACKAGE / "params").is_dir() else PACKAGE.parent
ROOT = CHECKOUT or PACKAGE  # holds params, notebooks and workflow


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ.get(variable) or default)


def params() -> Path:
    """Return the folder of the roster: one YAML file per variant, by family."""
    return _folder("LLMKG_LAB_PARAMS", ROOT / "params")


def notebooks() -> Path:
    """Return the folder of the papermill templates, one per family."""
    return _folder("LLMKG_LAB_NOTEBOOKS", ROOT / "notebooks")


def workflow() -> Path:
    """Return the folder of the Snakefile and its profile."""
    return ROOT / "workflow"


def web() -> Path:
    """Return the folder of what a browser loads, as ``make web`` builds it."""
    default = ROOT / "web" / "dist" if CHECKOUT else ROOT / "web"
    return _folder("LLMKG_LAB_WEB", default)


def outputs() -> Path:
    """Return the folder of reports, artifacts and the registry.

    By default that is ``outputs`` in the current folder, so that a command leaves what it makes
    where it was started; anywhere inside a checkout it is the checkout's own.
    """
    home = Path.cwd()
    if CHECKOUT and home.is_relative_to(CHECKOUT):
        home = CHECKOUT
    return _folder("LLMKG_LAB_OUTPUTS", home / "outputs")


def cache() -> Path:
    """Return the folder of what can be computed again: reference outputs, packed weights."""
    return _folder("LLMKG_LAB_CACHE", Path.home() / ".cache" / "llmkg-lab")


def data() -> Path | None:
    """Return the folder of evaluation data outside the project, None where the user names none."""
    value = os.environ.get("LLMKG_LAB_DATA")
    return Path(value) if value and Path(value).is_dir() else None
