"""The MCP server before judges that are not ours: the conformance suite, the inspector, an old SDK.

In environments of their own, made by `make test-services`.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.server import serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OLD = os.environ.get("LLMKG_LAB_OLD_MCP", str(ROOT / ".venv-clients" / "bin" / "python"))
BIN = Path(os.environ.get("LLMKG_LAB_NODE_BIN", ROOT / ".node-clients" / "node_modules" / ".bin"))
TOKEN = "a-token-of-the-judges"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
needs_node = pytest.mark.skipif(not (BIN / "node").exists(), reason="npm was not there")


def command(folder):
    options = ["--knowledge", folder, "--embedder", "none", "--writer", "none", "--out", folder]
    return [sys.executable, "-m", "llmkg_lab.cli", "mcp", *map(str, options)]


@contextlib.contextmanager
def printing_its_port(*arguments):
    """A process that prints its port when it is ready."""
    with subprocess.Popen(
        [*map(str, arguments)], stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as process:
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@pytest.fixture(scope="module")
def ours(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    tokens = folder / "tokens.txt"
    tokens.write_text(TOKEN)
    options = ["--knowledge", folder / "graph", "--embedder", "none", "--tokens", tokens]
    with serving(folder, *models, *options, "--out", folder) as server:
        yield server


def conformance(port, *options):
    with printing_its_port(BIN / "node", HERE / "token_proxy.js", port, TOKEN) as proxied:
        done = subprocess.run(
            [BIN / "node", BIN / "conformance", "server", "--url",
             f"http://127.0.0.1:{proxied}/mcp", *map(str, options)],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    total = re.search(r"Total: (\d+) passed, (\d+) failed", done.stdout)
    assert total, done.stdout + done.stderr
    return done.returncode, int(total[1]), int(total[2]), done.stdout


@needs_node
def test_the_conformance_suite_finds_nothing_on_a_fixture_behind_our_checks():
    with printing_its_port(sys.executable, HERE / "mcp_fixture.py", TOKEN) as port:
        code, passed, failed, said = conformance(port)
    assert (code, failed) == (0, 0), said
    assert passed >= 40


@needs_node
def test_the_conformance_suite_finds_on_ours_what_is_expected_and_nothing_else(ours):
    baseline = HERE / "expected-failures.yml"
    code, passed, _, said = conformance(ours.port, "--expected-failures", baseline)
    assert code == 0, said  # the suite fails on what is missing in the list, and on what passes
    assert passed >= 11


@needs_node
def test_the_inspector_lists_and_calls_tools(tmp_path):
    def inspect(*arguments):
        done = subprocess.run(
            [BIN / "node", BIN / "mcp-inspector", "--cli", *command(tmp_path),
             "--connect-timeout", "100000", *arguments],
            capture_output=True, text=True, timeout=120, env=ENVIRONMENT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    tools = inspect("--method", "tools/list")["tools"]
    assert {"store_fact", "ask_question", "conversion_report"} <= {tool["name"] for tool in tools}
    given = ("subject=Ada", "predicate=knows", "object=Bob")
    called = inspect(
        "--method", "tools/call", "--tool-name", "store_fact",
        *(part for pair in given for part in ("--tool-arg", pair)),
    )  # fmt: skip
    assert called["structuredContent"]["outcome"] == "added"


def old_client(*arguments):
    done = subprocess.run(
        [OLD, HERE / "old_mcp_client.py", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(seen):
    assert seen["sdk"].startswith("1.")
    assert seen["protocol"] < "2026"
    assert len(seen["tools"]) == 19
    assert (seen["stored"], seen["answer"]) == ("added", "Oslo")
    assert seen["refused"][0] is True
    assert "the query has no field" in seen["refused"][1]


def test_a_client_of_the_old_sdk_over_stdio(tmp_path):
    check(old_client("stdio", *command(tmp_path)))


def test_a_client_of_the_old_sdk_over_http(ours):
    check(old_client("http", f"{ours.url}/mcp", TOKEN))
