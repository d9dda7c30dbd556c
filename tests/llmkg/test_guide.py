"""The program in docs/guide/llmkg.md, pasted and run as it stands."""

import os
import re
import subprocess
import sys

from llmkg_lab.base import paths


def test_the_guides_program_runs(outputs):
    page = (paths.ROOT / "docs" / "guide" / "llmkg.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=os.environ | {"LLMKG_LAB_OUTPUTS": str(outputs)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    *facts, text, metrics = ended.stdout.splitlines()
    assert [line.split()[0] for line in facts] == ["fp32", "int8-rtn"]
    assert len(text.split()) == 20
    assert "inferences=1, units=20" in metrics
