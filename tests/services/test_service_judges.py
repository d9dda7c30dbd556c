"""Judges that take long, or environments of their own: `make test-services`."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.judges import PROGRAMS, schemathesis
from support.server import serving

HERE = Path(__file__).parent
CLIENTS, NODE = (HERE.parents[1] / name for name in (".venv-clients", ".node-clients"))


def test_schemathesis_breaks_nothing_in_two_thousand_requests(server, tmp_path):
    options = ("--phases", "coverage,fuzzing", "--max-examples", "300")
    requests = schemathesis(server.url, tmp_path, *options)
    print(f"{requests} requests, none answered by 5xx")
    assert requests >= 2000
    assert server.metric("llmkg_http_requests_total", status="500") == 0
    assert server.json("/health") == {"status": "ok"}


@pytest.fixture(scope="module")
def answering(make_artifact, tmp_path_factory):
    """A server with SmolLM2's real weights, whose answers end by themselves."""
    folder = make_artifact("smollm2", "int8-rtn").folder
    with serving(tmp_path_factory.mktemp("real"), f"smollm2={folder}", "--context", 1024) as server:
        yield server


def test_llm_comply_is_satisfied_but_for_what_is_refused_by_name(answering):
    done = subprocess.run(
        [
            PROGRAMS / "llm-comply", "-u", f"{answering.url}/v1", "-m", "smollm2", "-k", "none",
            "--format", "openai-chat", "--timeout", "300", "--json",
        ],
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    results = json.loads(done.stdout)["results"]
    failed = {result["id"] for result in results if result["status"] == "failed"}
    assert failed == {"chat-tool-calling", "chat-image-input"}, done.stdout
    assert sum(result["status"] == "passed" for result in results) == 6


@pytest.mark.skipif(not CLIENTS.exists(), reason="`make test-services` installs it")
def test_langchain_talks_and_embeds(server):
    command = [CLIENTS / "bin" / "python", HERE / "langchain_client.py", f"{server.url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    direct = server.json("/v1/embeddings", {"model": "embed", "input": ["A cat.", "A dog."]})
    assert told["vectors"] == [entry["embedding"] for entry in direct["data"]]
    asked = {"model": "text", "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 8}
    asked |= {"temperature": 0, "seed": 1}
    (choice,) = server.json("/v1/chat/completions", asked)["choices"]
    assert told["answer"] == told["streamed"] == choice["message"]["content"]
    assert told["tokens"] > 0


@pytest.mark.skipif(not NODE.exists(), reason="`make test-services` installs it")
def test_the_client_of_node_agrees(server):
    environment = {**os.environ, "NODE_PATH": str(NODE / "node_modules")}
    command = ["node", HERE / "node_client.js", f"{server.url}/v1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    direct = server.json("/v1/embeddings", {"model": "embed", "input": ["A cat.", "A dog."]})
    assert told["vectors"] == [entry["embedding"] for entry in direct["data"]]
    assert told["streamed"] == told["answer"] != ""
    assert told["models"] == ["embed", "rank", "text"]
    assert told["unknown"] == {"status": 404, "code": "model_not_found"}
    assert told["long"]["code"] == "context_length_exceeded"
    assert told["usage"] == told["streamed_usage"]
