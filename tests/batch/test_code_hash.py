"""Which edits make reports stale: those of code that notebooks import, and no others."""

import shutil
import subprocess
import sys

import nbformat
import pytest
from support.imports import PACKAGE, behind, file_of

from llmkg_lab.batch import jobs, notebook
from llmkg_lab.roster import catalog

EXECUTED = "import llmkg_lab.batch.execute"
ELSEWHERE = ("cli", "explorer", "knowledge", "serve")


def templates():
    families = {variant.family for variant in catalog.roster().values()}
    return [notebook.template(family) for family in sorted(families)]


def cells(template):
    return [c.source for c in nbformat.read(template, as_version=4).cells if c.cell_type == "code"]


def hashed():
    return set(jobs._code_behind_reports())


@pytest.mark.slow
def test_all_that_notebooks_import_is_hashed_and_each_entry_is_imported():
    sources = [EXECUTED, *(cell for template in templates() for cell in cells(template))]
    needed = set().union(*map(behind, sources))
    assert needed <= hashed(), f"add to BEHIND_REPORTS: {sorted(needed - hashed())}"
    for entry in jobs.BEHIND_REPORTS:
        place = PACKAGE / entry
        used = any(path == place or place in path.parents for path in needed)
        assert used, f"no notebook imports {entry}: take it out of BEHIND_REPORTS"
    strangers = [path for path in hashed() if path.relative_to(PACKAGE).parts[0] in ELSEWHERE]
    assert strangers == []


@pytest.mark.slow
def test_what_python_really_loads_is_hashed():
    """The imports alone: what each template's cells begin with, run in one process."""
    lines = [
        line for template in templates() for cell in cells(template) for line in cell.split("\n")
    ]
    imports = [line for line in lines if line.startswith(("import ", "from "))]
    assert imports
    program = "\n".join([EXECUTED, *imports, "import sys", "print(*sys.modules)"])
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = [name for name in run.stdout.split() if name.split(".")[0] == PACKAGE.name]
    assert "llmkg_lab.report.steps" in loaded
    files = {path for name in loaded for path in file_of(name)}
    assert files <= hashed()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that may be edited."""
    copy = tmp_path / "llmkg_lab"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jobs, "PACKAGE", copy)
    return copy


@pytest.mark.parametrize(
    ("name", "makes_stale"),
    [
        ("explorer/app.py", False),
        ("cli/console.py", False),
        ("results/registry.py", False),
        ("batch/jobs.py", False),
        ("graph/llama.py", True),
        ("models/published.yaml", True),
        ("report/steps.py", True),
        ("batch/execute.py", True),
        ("graph/__init__.py", True),
    ],
)
def test_an_edit_makes_reports_stale_where_they_depend_on_it(name, makes_stale, package):
    before = jobs._code_hash()
    with (package / name).open("a") as file:
        file.write("\n# edited\n")
    assert (jobs._code_hash() != before) == makes_stale


def test_a_room_to_come_makes_no_report_stale(package):
    before = jobs._code_hash()
    (package / "tomorrow").mkdir()
    (package / "tomorrow" / "__init__.py").write_text("")
    assert jobs._code_hash() == before
