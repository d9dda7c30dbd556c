"""What pyproject.toml cannot say: folders beside the package are part of it once installed."""

from setuptools import find_packages, setup

FOLDERS = ("params", "notebooks", "workflow")

setup(
    packages=[*find_packages(include=["llmkg_lab*"]), *(f"llmkg_lab.{name}" for name in FOLDERS)],
    package_dir={f"llmkg_lab.{name}": name for name in FOLDERS},
)
