"""Programs that judge a server."""

import os
import re
import subprocess
import sys
from pathlib import Path

PROGRAMS = Path(sys.executable).parent
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance",
          "response_schema_conformance")  # fmt: skip


def schemathesis(url, folder, *options):
    """Its verdict: how many requests there were, none of which broke a check."""
    done = subprocess.run(
        [
            PROGRAMS / "schemathesis", "run", f"{url}/openapi.json", "--workers", "2",
            "--checks", ",".join(CHECKS), "--generation-database", "none",
            "--request-timeout", "120", *options,
        ],
        capture_output=True, text=True, timeout=900, cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HOOKS)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return int(re.search(r"(\d+) generated, \1 passed", done.stdout)[1])
