"""What pyproject.toml cannot say: folders beside the package are part of it once installed."""

from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = {name: name for name in ("params", "notebooks", "workflow")}
if Path("web/dist/llmkg-lab.js").is_file():  # what `make web` builds
    FOLDERS["web"] = "web/dist"

setup(
    packages=[*find_packages(include=["llmkg_lab*"]), *(f"llmkg_lab.{name}" for name in FOLDERS)],
    package_dir={f"llmkg_lab.{name}": folder for name, folder in FOLDERS.items()},
)
