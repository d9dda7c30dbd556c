"""pyproject.toml, constraints.txt, requirements-weights.txt and environment.yml agree."""

import ast
import itertools
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from llmkg_lab.base import paths
from llmkg_lab.roster import catalog

PACKAGE, OURS = paths.PACKAGE, {"llmkg_lab"}
CONDA_NAMES = {"pytorch": "torch"}  # conda-forge's name -> the Python registry's


def lines(name):
    """A requirement file without its comments."""
    text = re.sub(r"#.*", "", (paths.ROOT / name).read_text())
    return [line.strip() for line in text.splitlines() if line.strip()]


def ranges(requirements):
    """Canonical name -> version specifiers, without the project's own name."""
    parsed = [Requirement(line) for line in requirements]
    named = {(canonicalize_name(r.name), r.specifier) for r in parsed if r.name != "llmkg-lab"}
    assert len(dict(named)) == len(named)  # what two extras need, they need in one range
    return dict(named)


def pins(name):
    """Canonical name -> the one version that a file allows."""
    pinned = {}
    for package, specifier in ranges(lines(name)).items():
        (only,) = specifier
        assert only.operator == "==", f"{package} is not pinned"
        assert "*" not in only.version
        assert Version(only.version).local is None, f"{package}: a local version is only here"
        pinned[package] = only.version
    return pinned


PROJECT = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = ranges([*PROJECT["dependencies"], *itertools.chain(*EXTRAS.values())])
PINS, WEIGHTS = pins("constraints.txt"), pins("requirements-weights.txt")
CONDA = yaml.safe_load((paths.ROOT / "environment.yml").read_text())


def test_conda_and_pip_ask_for_the_same_ranges():
    packages = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    (from_pip,) = (entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    conda = ranges([*packages, *from_pip])
    assert conda.pop("pip") == ""
    assert conda.pop("python") == PROJECT["requires-python"]
    assert {CONDA_NAMES.get(name, name): value for name, value in conda.items()} == DIRECT
    assert CONDA["channels"] == ["conda-forge"]


def test_every_pin_lies_in_its_range():
    assert set(DIRECT) <= set(PINS)
    outside = {name for name, allowed in DIRECT.items() if PINS[name] not in allowed}
    assert outside == set()


def closure(names):
    """All distributions that ``names`` need, found in this environment's own metadata."""
    found, waiting = set(), [(name, frozenset()) for name in names]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        for line in distribution(name).requires or []:
            need = Requirement(line)
            wanted = [{"extra": extra} for extra in ("", *extras)]
            if need.marker is None or any(need.marker.evaluate(each) for each in wanted):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {name for name, _ in found}


def test_all_that_the_project_needs_is_pinned_and_nothing_else():
    needed = closure(DIRECT)
    on_this_platform = {name for name in PINS if _is_installed(name)}
    assert needed - set(PINS) == set()
    assert on_this_platform - needed == set(WEIGHTS)


@pytest.mark.slow
def test_all_that_the_package_imports_is_asked_for():
    names = packages_distributions()
    imported = {module for path in PACKAGE.rglob("*.py") for module in third_party(path)}
    distributions = {module: set(map(canonicalize_name, names[module])) for module in imported}
    assert {module for module, names in distributions.items() if not names & set(DIRECT)} == set()


def third_party(path):
    """The modules that a file imports anywhere, beside Python's and ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        found = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from {name.partition(".")[0] for name in found} - sys.stdlib_module_names - OURS


def _is_installed(name):
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def test_the_tested_versions_are_the_pinned_ones():
    installed = {name: distribution(name).version for name in PINS if _is_installed(name)}
    different = {name: v for name, v in installed.items() if Version(v).public != PINS[name]}
    assert different == {}


def test_weight_packages_are_those_that_the_roster_names():
    specs = [s for variant in catalog.roster().values() for s in variant.sources]
    named = {s.options["name"]: s.options["version"] for s in specs if s.kind == "package"}
    assert named.items() <= WEIGHTS.items()
    assert WEIGHTS.items() <= PINS.items()
    assert {name: distribution(name).version for name in WEIGHTS} == WEIGHTS


def test_files_name_no_registry():
    for name in ("constraints.txt", "requirements-weights.txt", "environment.yml", "Makefile"):
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links", "\n".join(lines(name)))
