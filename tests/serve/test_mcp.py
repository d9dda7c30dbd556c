"""The MCP server, by the SDK's own client: in this process, and over stdio as assistants do."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import httpx2
import numpy as np
import pytest
from knowledge.hashed import HASHED, embed
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from support.server import serving

from llmkg_lab.knowledge.knowledge import EMBEDDED_AT_ONCE, Knowledge
from llmkg_lab.knowledge.models import Models
from llmkg_lab.knowledge.vectors import Embedder
from llmkg_lab.serve.mcp.desk import Desk
from llmkg_lab.serve.mcp.server import create_server

ROOT = Path(__file__).parents[2]
KNOWLEDGE = (
    "store_fact", "store_knowledge", "find_facts", "ask_question", "hybrid_search",
    "get_suggestions", "get_stats", "generate_graph_query", "validate_knowledge",
    "neural_importance_scoring", "divergent_thinking_engine", "time_travel_query",
)  # fmt: skip
MODELS = (
    "list_models", "recommend_models", "load_model", "generate_text", "embed_texts",
    "rerank_passages", "conversion_report",
)  # fmt: skip
TEXT = "Oslo is the capital of Norway. Acme was founded by Alice Smith in 1999."
WALK = [  # each tool once: its arguments, and what its result has
    ("store_fact", {"subject": "Ada", "predicate": "knows", "object": "Bob"}, "outcome"),
    ("store_knowledge", {"content": TEXT, "title": "Norway"}, "facts"),
    ("find_facts", {"query": {"subject": "Oslo"}}, "facts"),
    ("ask_question", {"question": "Who founded Acme?"}, "answer"),
    ("hybrid_search", {"query": "capital", "search_type": "keyword"}, "hits"),
    ("get_suggestions", {"suggestion_type": "questions"}, "suggestions"),
    ("get_stats", {"include_details": True}, "details"),
    ("generate_graph_query", {"natural_query": "Who founded Acme?"}, "rows"),
    ("validate_knowledge", {"validation_type": "all"}, "issues"),
    ("neural_importance_scoring", {"text": "Quarks."}, "novelty"),
    ("divergent_thinking_engine", {"seed_concept": "Acme"}, "ideas"),
    ("time_travel_query", {"query_type": "snapshot", "timestamp": "2020"}, "facts"),
    ("list_models", {"only_loadable": False}, "models"),
    ("recommend_models", {}, "recommended"),
]


@pytest.fixture
def desk(tmp_path):
    opened = Desk(tmp_path / "outputs", embedder="none", writer="none")
    opened.knowledge.close()
    opened.knowledge = Knowledge(tmp_path / "graph", Models(HASHED))
    with opened:
        yield opened


def in_loop(work):
    return asyncio.run(work())


def test_every_tool_of_the_contract_answers_with_structure(desk):
    async def work():
        async with Client(create_server(desk)) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {*KNOWLEDGE, *MODELS}
            for name, tool in tools.items():
                assert tool.output_schema, name
                assert tool.description.endswith((".", "…")), name
            for name, arguments, key in WALK:
                result = await client.call_tool(name, arguments)  # checked against the schema
                assert not result.is_error, result
                assert key in result.structured_content, name
                assert json.loads(result.content[0].text) == result.structured_content
            asked = await client.call_tool("ask_question", {"question": "Who founded Acme?"})
            return asked.structured_content

    assert in_loop(work)["answer"] == "Alice Smith"


def test_what_is_refused_is_an_error_with_its_hint_and_no_traceback(desk):
    refused = [
        ("store_fact", {"subject": "x" * 129, "predicate": "p", "object": "o"},
         "subject has 129 characters, at most 128 are taken\n→ shorten it"),
        ("store_knowledge", {"content": "y" * 50_001, "title": "t"}, "50,001 characters"),
        ("find_facts", {"query": {}}, "the query has no field"),
        ("find_facts", {"query": {"colour": "red"}}, "validation error"),
        ("find_facts", {}, "validation error"),
        ("hybrid_search", {"query": "q", "search_type": "psychic"}, "validation error"),
        ("load_model", {"model": "/etc"}, "/etc"),
        ("generate_text", {"prompt": "p"}, "no model of this kind"),
        ("conversion_report", {"model": "no/such"}, "no/such"),
    ]  # fmt: skip

    async def work():
        async with Client(create_server(desk)) as client:
            for name, arguments, message in refused:
                result = await client.call_tool(name, arguments)
                assert result.is_error, name
                text = result.content[0].text
                if message != "validation error":
                    assert message in text, text
                assert "Traceback" not in text
                assert len(text) < 3000

    in_loop(work)


@pytest.mark.slow
def test_progress_is_told_and_a_cancelled_call_stops(desk, tmp_path):
    calls, go_on = [], threading.Event()

    def slow(texts):
        calls.append(len(texts))
        go_on.wait(10)
        return embed(texts)

    desk.knowledge.close()
    desk.knowledge = Knowledge(tmp_path / "slow", Models(Embedder("slow", slow)))
    content = " ".join(f"Sentence number {i} says that something happened." for i in range(800))
    told = []

    async def progress(done, total, message):
        told.append((done, total, message))
        if done:
            go_on.set()

    async def work():
        async with Client(create_server(desk)) as client:
            with anyio.move_on_after(0.3) as scope:
                await client.call_tool("store_knowledge", {"content": content, "title": "a"})
            assert scope.cancelled_caught
            await anyio.sleep(0.1)  # the server learns of it
            go_on.set()
            before = len(calls)
            stats = (await client.call_tool("get_stats", {})).structured_content
            assert stats["documents"] == 0  # nothing half-stored
            await anyio.sleep(0.3)
            # no batch follows the one at work: its vectors, and one search for each of its parts
            assert len(calls) <= before + 1 + EMBEDDED_AT_ONCE < 30
            arguments = {"content": content, "title": "b"}
            result = await client.call_tool(
                "store_knowledge", arguments, progress_callback=progress
            )
            return result.structured_content

    stored = in_loop(work)
    assert stored["chunks"] > 80
    done = [d for d, _, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1] == len(done) - 1 > 4


def command(folder, *more):
    options = ["--knowledge", str(folder), "--embedder", "none", "--writer", "none"]
    return [sys.executable, "-m", "llmkg_lab.cli", "mcp", *options, "--out", str(folder), *more]


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}


@pytest.mark.slow
def test_over_stdio_there_is_nothing_but_protocol(tmp_path):
    process = subprocess.Popen(
        command(tmp_path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(), text=True,
    )  # fmt: skip

    def ask(method, params, number=None):
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        process.stdin.write(json.dumps(message | ({"id": number} if number else {})) + "\n")
        process.stdin.flush()

    info = {"name": "by hand", "version": "1"}
    ask("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info}, 1)
    hello = json.loads(process.stdout.readline())
    assert hello["result"]["serverInfo"]["name"] == "llmkg-lab"
    ask("notifications/initialized", {})
    facts = [("Ünï", "knows", "日本"), ("a" * 128, "p", "b\u2029"), ("x", "y", "z")]
    for number, (subject, predicate, value) in enumerate(facts, 2):
        given = {"subject": subject, "predicate": predicate, "object": value}
        ask("tools/call", {"name": "store_fact", "arguments": given}, number)
    process.stdin.write("this is no JSON\n")
    process.stdin.flush()
    lines = []

    def read_until_answered(numbers):
        while not numbers <= {line.get("id") for line in lines}:
            lines.append(json.loads(process.stdout.readline()))  # raises on anything else

    read_until_answered({2, 3, 4})
    ask("tools/call", {"name": "get_stats", "arguments": {}}, 9)
    read_until_answered({9})
    for number in range(10, 16):  # at work when the client goes
        search = {"name": "hybrid_search", "arguments": {"query": "knows"}}
        ask("tools/call", search, number)
    process.stdin.close()
    assert process.wait(20) == 0
    rest = process.stdout.read()
    assert rest == "" or all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
    answers = {line["id"]: line for line in lines if "id" in line}
    assert answers[2]["result"]["structuredContent"]["fact"]["object"] == "日本"
    assert answers[3]["result"]["isError"] is True
    assert answers[9]["result"]["structuredContent"]["facts"] == 2
    assert "Traceback" not in process.stderr.read()
    for stream in (process.stdout, process.stderr):
        stream.close()


@pytest.mark.slow
def test_two_clients_with_a_server_each_share_one_graph(tmp_path):
    async def write(client, name):
        for i in range(10):
            given = {"subject": f"{name} {i}", "predicate": "wrote", "object": f"line {i}"}
            assert not (await client.call_tool("store_fact", given)).is_error

    async def work():
        python, *arguments = command(tmp_path)
        server = StdioServerParameters(command=python, args=arguments, env=environment())
        async with Client(server) as one, Client(server) as two:
            await asyncio.gather(write(one, "one"), write(two, "two"))
            found = await one.call_tool(
                "find_facts", {"query": {"predicate": "wrote"}, "limit": 50}
            )
            assert found.structured_content["count"] == 20
            hits = await two.call_tool("hybrid_search", {"query": "one 7 line", "limit": 100})
            return [hit["text"] for hit in hits.structured_content["hits"]]

    assert "one 7 wrote line 7." in in_loop(work)


@pytest.mark.slow
def test_models_embed_rank_write_and_stop(make_artifact, tmp_path):
    minilm, smollm2 = make_artifact("minilm", "int8-rtn"), make_artifact("smollm2", "int4-rtn")
    pieces = []

    async def progress(done, total, message):
        pieces.append((done, total, message))

    async def work():
        async with Client(create_server(desk)) as client:
            ask = client.call_tool
            vectors = await ask("embed_texts", {"texts": ["a cat", "a kitten", "a bond"]})
            ranked = (await ask("rerank_passages", {
                "query": "Where does the cat sleep?",
                "passages": ["Bonds fell on Monday.", "The cat sleeps on the sofa."],
            })).structured_content  # fmt: skip
            arguments = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
            text = await ask("generate_text", arguments, progress_callback=progress)
            begin = time.monotonic()
            with anyio.move_on_after(0.2):
                await ask("generate_text", {"prompt": "Once", "max_tokens": 4000})
            plain = await ask("neural_importance_scoring", {"text": "The cat sat on the mat."})
            odd = await ask("neural_importance_scoring", {"text": "Mat the on sat quark cat soup."})
            took = time.monotonic() - begin
            await ask("store_knowledge", {"content": "Felines nap all day.", "title": "t"})
            hits = await ask("hybrid_search", {"query": "cats sleep", "search_type": "semantic"})
            return vectors, ranked, text, plain, odd, took, hits

    with Desk(tmp_path, embedder=str(minilm.folder), writer=str(smollm2.folder)) as desk:
        vectors, ranked, text, plain, odd, took, hits = in_loop(work)
    cat, kitten, bond = np.array(vectors.structured_content["embeddings"])
    assert cat @ kitten > cat @ bond
    assert vectors.structured_content["dimensions"] == 384
    assert (ranked["method"], ranked["results"][0]["index"]) == ("embeddings", 1)
    assert "Paris" in text.structured_content["text"]
    assert pieces[0][1] == 8
    surprises = [result.structured_content["surprise"] for result in (plain, odd)]
    assert 1 < surprises[0] < surprises[1]
    assert took < 15  # 4,000 tokens would take far longer: the generation ended
    assert hits.structured_content["hits"][0]["text"] == "Felines nap all day."


@pytest.fixture(scope="module")
def over_http(models, tmp_path_factory):
    """A server of models with a graph at /mcp, and a token."""
    folder = tmp_path_factory.mktemp("http")
    tokens = folder / "tokens.txt"
    tokens.write_text(TOKEN)
    options = ["--knowledge", folder / "graph", "--embedder", "none", "--out", folder]
    with serving(folder, *models, *options, "--tokens", tokens) as server:
        yield server


TOKEN = "a token of the tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {},
               "clientInfo": {"name": "by hand", "version": "1"}},
}  # fmt: skip


@pytest.mark.slow
def test_over_http_the_same_tools_behind_the_same_checks(over_http):
    url = f"{over_http.url}/mcp"
    accept = {"Accept": "application/json, text/event-stream"}

    async def work():
        async with httpx2.AsyncClient(headers=HEADERS) as http:
            async with Client(streamable_http_client(url, http_client=http)) as client:
                names = {tool.name for tool in (await client.list_tools()).tools}
                told = []

                async def progress(done, total, message):
                    told.append(done)

                given = {"subject": "Ada", "predicate": "knows", "object": "Bob"}
                stored = await client.call_tool("store_fact", given)
                text = " ".join(f"Fact {i} follows here." for i in range(40))
                arguments = {"content": text, "title": "t"}
                await client.call_tool("store_knowledge", arguments, progress_callback=progress)
                found = await client.call_tool("find_facts", {"query": {"subject": "Ada"}})
                await client.call_tool("find_facts", {"query": {}})
                for name in ("no_such_tool", "nor_this"):
                    with contextlib.suppress(MCPError):
                        await client.call_tool(name, {})
            statuses = []
            for headers, body in (
                ({"Authorization": "Bearer wrong"}, INITIALIZE),
                ({"Host": "evil.example"}, INITIALIZE),
                ({"Mcp-Session-Id": "0" * 32}, {**INITIALIZE, "method": "tools/list"}),
                ({}, INITIALIZE),
            ):
                answer = await http.post(url, json=body, headers={**accept, **headers})
                statuses.append(answer.status_code)
            other = await http.get(f"{over_http.url}/no-such-path")
            models = await http.get(f"{over_http.url}/v1/models")
            metrics = await http.get(f"{over_http.url}/metrics")
        return names, stored, found, statuses, other, models, metrics.text

    names, stored, found, statuses, other, models, metrics = in_loop(work)
    for tool, outcome, count in (
        ("store_fact", "ok", 1), ("store_knowledge", "ok", 1), ("find_facts", "ok", 1),
        ("find_facts", "error", 1), ("unknown", "error", 2),
    ):  # fmt: skip
        line = f'llmkg_tool_calls_total{{outcome="{outcome}",tool="{tool}"}} {count}.0'
        assert line in metrics
    assert 'llmkg_tool_seconds_count{tool="find_facts"} 2.0' in metrics
    assert "nor_this" not in metrics
    assert names == {*KNOWLEDGE, *MODELS}
    assert stored.structured_content["outcome"] == "added"
    assert found.structured_content["facts"][0]["object"] == "Bob"
    assert statuses == [401, 421, 404, 200]
    assert other.status_code == 404
    assert "error" in other.json()  # in the words of the server's own interface
    assert len(models.json()["data"]) == 3
