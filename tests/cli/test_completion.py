"""What the shell offers after a tab: commands, options, and the roster's names."""

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("llmkg-lab gen", ["generate"]),
        ("llmkg-lab run --fam", ["--family"]),
        ("llmkg-lab run smollm2_1", ["smollm2_135m", "smollm2_135m_instruct", "smollm2_1_7b"]),
        ("llmkg-lab list --family o", ["openelm"]),
    ],
)
def test_a_tab_completes(line, offered):
    words = line.split()
    asked = {
        "_LLMKG_LAB_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    command = [sys.executable, "-m", "llmkg_lab.cli"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True)
    assert done.stdout.split() == offered
