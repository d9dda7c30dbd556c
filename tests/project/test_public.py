"""The public face: what ``from llmkg_lab import …`` gives, in every order, and what it costs."""

import subprocess
import sys

import pytest

import llmkg_lab

FUNCTION = "from llmkg_lab import convert, open_backend; print(convert.__name__, open_backend)"


def run(code):
    """What a program of its own prints."""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    ["", "import llmkg_lab.conversion.to_onnx", "import llmkg_lab.runtime.selection, llmkg_lab"],
)
def test_names_are_the_same_whatever_was_imported_before(before):
    assert run(f"{before}\n{FUNCTION}").startswith("convert <function open_backend ")
    after = "import llmkg_lab.conversion.to_onnx, llmkg_lab.checkpoint, llmkg_lab.scheme"
    assert run(f"{before}\n{FUNCTION}\n{after}\n{FUNCTION}").count("convert <function") == 2


def test_every_name_is_there_and_is_what_its_home_has():
    from llmkg_lab.base.errors import LabError
    from llmkg_lab.checkpoint import open_checkpoint
    from llmkg_lab.results.registry import Registry
    from llmkg_lab.scheme import Scheme

    assert set(llmkg_lab.__all__) <= set(dir(llmkg_lab))
    assert all(getattr(llmkg_lab, name) for name in llmkg_lab.__all__)
    assert (llmkg_lab.LabError, llmkg_lab.Registry) == (LabError, Registry)
    assert (llmkg_lab.Scheme, llmkg_lab.open_checkpoint) == (Scheme, open_checkpoint)
    with pytest.raises(AttributeError, match="no attribute 'converts'"):
        _ = llmkg_lab.converts


def test_the_package_alone_imports_its_version_and_nothing_else():
    code = "import sys; before = {*sys.modules}; import llmkg_lab; print(*{*sys.modules} - before)"
    own = {"llmkg_lab", "llmkg_lab.base", "llmkg_lab.base.version"}
    assert set(run(code).split()) == own
