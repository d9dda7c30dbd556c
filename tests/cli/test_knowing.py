"""The commands on the knowledge graph, and what its guide tells readers to paste."""

import json
import os
import re
import subprocess
import sys

import pytest

from llmkg_lab.base import paths

pytestmark = pytest.mark.slow
GUIDE = paths.ROOT / "docs" / "guide" / "knowledge.md"


def llmkg(folder, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "llmkg_lab.cli", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, timeout=120,
        env={**os.environ, "PYTHONPATH": str(paths.ROOT), "LLMKG_LAB_OUTPUTS": str(folder / "out")},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_facts_are_loaded_asked_and_saved(tmp_path):
    table = tmp_path / "people.csv"
    table.write_text(
        "subject,predicate,object,valid_from\nAlice Smith,founded,Acme,1999\nAda,knows,Bob,\n"
    )
    assert "2 added" in llmkg(tmp_path, "facts", "load", table).stdout
    assert "2 known" in llmkg(tmp_path, "facts", "load", table).stdout
    asked = llmkg(tmp_path, "ask", "Who founded Acme?", "--embedder", "none", "--json").stdout
    assert json.loads(asked)["answer"] == "Alice Smith"
    none = llmkg(tmp_path, "ask", "Who founded Globex?", "--embedder", "none", code=1)
    assert none.stdout.startswith("not known")
    llmkg(tmp_path, "facts", "save", tmp_path / "graph.ttl")
    assert "urn:llmkg:name:Alice%20Smith" in (tmp_path / "graph.ttl").read_text()
    wrong = llmkg(tmp_path, "facts", "load", tmp_path / "people.xls", code=2)
    assert "no known ending" in wrong.stderr
    table.write_text("subject,colour\na,b\n")
    assert "there is no column colour" in llmkg(tmp_path, "facts", "load", table, code=2).stderr


def test_what_the_guide_has_to_paste_works(tmp_path):
    guide = GUIDE.read_text()
    program = re.search(r"```python\n(.*?)```", guide, re.DOTALL)[1]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
        env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("Alice Smith\n", "")


def test_the_settings_that_assistants_get_start_a_server_from_anywhere(tmp_path):
    printed = llmkg(
        tmp_path, "mcp", "--config", "--embedder", "none", "--knowledge", "notes"
    ).stdout
    entry = json.loads(printed)["mcpServers"]["llmkg-lab"]
    assert str(tmp_path / "notes") in entry["args"]
    hello = {
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {},
                   "clientInfo": {"name": "pasted", "version": "1"}},
    }  # fmt: skip
    served = subprocess.run(
        [entry["command"], *entry["args"]], cwd="/",
        input=json.dumps(hello) + "\n", capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(paths.ROOT)},
    )  # fmt: skip
    assert json.loads(served.stdout)["result"]["serverInfo"]["name"] == "llmkg-lab"
    assert (tmp_path / "notes").is_dir()
