"""The extras of the package: which one to install where a module is missing.

``pip install llmkg-lab`` brings what running artifacts takes. What else a command needs belongs
to an extra of pyproject.toml, which the installed package's own metadata repeats.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from llmkg_lab.base.errors import LabError

PROJECT = "llmkg-lab"
PACKAGES = {"candle": "candle-nn", "google": "protobuf"}  # of modules that are named otherwise


class MissingPackageError(LabError):
    """A package that is not installed, and the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        install = f"pip install '{PROJECT}[{extra}]'"
        super().__init__(f"the package {package} is not installed", install)


@contextmanager
def explained() -> Iterator[None]:
    """Raise MissingPackageError where a module is missing that an extra brings."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = PACKAGES.get(module, module)
        if extra := extra_of(package):
            raise MissingPackageError(package, extra) from error
        raise


def extra_of(package: str) -> str:
    """Return the first extra that asks for ``package``, "" where none does."""
    from importlib import metadata  # slow to import, and rarely needed

    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:  # a checkout on the path that was never installed
        return ""
    asked = (re.match(r"""([\w.-]+).*;.*extra == ['"]([\w-]+)""", line) for line in lines)
    found = (match[2] for match in asked if match and _canonical(match[1]) == _canonical(package))
    return next(found, "")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
