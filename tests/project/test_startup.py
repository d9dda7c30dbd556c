"""What the command line imports before it answers; `python -m benchmarks.startup` has the times."""

import os
import subprocess
import sys

import pytest

HEAVY = {
    "IPython",
    "datasets",
    "evaluate",
    "httpx2",
    "huggingface_hub.hf_api",
    "ipywidgets",
    "jinja2",
    "matplotlib",
    "numba",
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "papermill",
    "scipy",
    "snakemake",
    "tokenizers",
    "torch",
    "transformers",
}
CODE = """
import sys
from llmkg_lab.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "also"),
    [
        (["--help"], {"yaml", "psutil", "importlib.metadata", "pydantic"}),
        (["convert", "--help"], {"yaml", "psutil"}),
        (["list"], set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_heavy_waits_until_it_is_needed(arguments, also, tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path), "LLMKG_LAB_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", CODE, *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0
    assert (HEAVY | also) & set(ended.stderr.split()) == set()
