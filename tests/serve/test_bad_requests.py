"""Each bad request has its status, its code and words that help."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import msgspec
import pytest
from support.server import serving

from llmkg_lab.serve import run
from llmkg_lab.serve.settings import Settings

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
EMBED, RANK = "/v1/embeddings", "/v1/rerank"
HELLO = {"model": "text", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
PROMPT = {"model": "text", "prompt": "Hello", "max_tokens": 2}
INPUT = {"model": "embed", "input": "Hello"}
PASSAGES = {"model": "rank", "query": "q", "documents": ["a", "b"]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}

BAD = [
    (CHAT, b"", 400, "required"),
    (CHAT, b"{", 400, "not valid JSON"),
    (CHAT, b"[" * 100_000, 400, "body"),
    (CHAT, b'{"model": "\xff"}', 400, "body"),
    (CHAT, b'{"temperature": NaN}', 400, "required"),
    (CHAT, [], 400, "valid"),
    (CHAT, None, 400, "required"),
    (CHAT, HELLO | {"messages": None}, 400, "'messages'"),
    (CHAT, HELLO | {"messages": []}, 400, "'messages'"),
    (CHAT, HELLO | {"messages": "Hello"}, 400, "'messages'"),
    (CHAT, HELLO | {"messages": [{"role": "tool", "content": "x"}]}, 400, "'messages.0.role'"),
    (CHAT, HELLO | {"messages": [{"role": "user"}]}, 400, "'messages.0.content'"),
    (CHAT, HELLO | {"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "messages.0.content"),
    (CHAT, HELLO | {"messages": [{"role": "user", "content": "\ud800"}]}, 400, "content"),
    (CHAT, HELLO | {"temperature": "0.7"}, 400, "'temperature'"),
    (CHAT, HELLO | {"temperature": 3}, 400, "'temperature'"),
    (CHAT, HELLO | {"top_p": -0.1}, 400, "'top_p'"),
    (CHAT, HELLO | {"repetition_penalty": 5e-324}, 400, "'repetition_penalty'"),
    (CHAT, HELLO | {"max_tokens": 0}, 400, "'max_tokens'"),
    (CHAT, HELLO | {"max_tokens": 1.5}, 400, "'max_tokens'"),
    (CHAT, HELLO | {"max_tokens": True}, 400, "'max_tokens'"),
    (CHAT, HELLO | {"n": 5}, 400, "answers 4 at once"),
    (CHAT, HELLO | {"seed": 1 << 70}, 400, "'seed'"),
    (CHAT, HELLO | {"stop": ["a"] * 5}, 400, "stop"),
    (CHAT, HELLO | {"logit_bias": {"x": 1}}, 400, "logit_bias names 'x'"),
    (CHAT, HELLO | {"logit_bias": {"99999999": 1}}, 400, "not a token below"),
    (CHAT, HELLO | {"top_logprobs": 2}, 400, "'logprobs'"),
    (CHAT, HELLO | {"stream_options": {"usage": True}}, 400, "stream_options.usage"),
    (CHAT, HELLO | {"frobnicate": 1}, 400, "Unrecognized request argument supplied: frobnicate"),
    (CHAT, HELLO | {"tools": [TOOL]}, 400, "'tools' is not supported"),
    (CHAT, HELLO | {"tool_choice": "required"}, 400, "'tool_choice' is not supported"),
    (CHAT, HELLO | {"functions": [{}]}, 400, "'functions' is not supported"),
    (CHAT, HELLO | {"response_format": {"type": "json_schema"}}, 400, "'response_format' is not"),
    (CHAT, HELLO | {"modalities": ["audio"]}, 400, "'modalities' is not supported"),
    (CHAT, HELLO | {"reasoning_effort": "high"}, 400, "'reasoning_effort' is not supported"),
    (CHAT, HELLO | {"model": "nobody"}, 404, "The model `nobody` does not exist"),
    (CHAT, HELLO | {"model": ""}, 404, "does not exist"),
    (CHAT, HELLO | {"model": "embed"}, 400, "is a sentence-embedding model"),
    (CHAT, HELLO | {"model": None}, 400, "'model'"),
    (TEXT, PROMPT | {"prompt": ""}, 400, "no tokens"),
    (TEXT, PROMPT | {"prompt": []}, 400, "prompt"),
    (TEXT, PROMPT | {"prompt": [1 << 30]}, 400, "outside the vocabulary"),
    (TEXT, PROMPT | {"prompt": [-1]}, 400, "prompt"),
    (TEXT, PROMPT | {"prompt": ["a", 1]}, 400, "prompt"),
    (TEXT, PROMPT | {"suffix": "end"}, 400, "'suffix' is not supported"),
    (TEXT, PROMPT | {"best_of": 3}, 400, "'best_of' is not supported"),
    (TEXT, PROMPT | {"echo": True, "logprobs": 1}, 400, "'echo' with 'logprobs'"),
    (TEXT, PROMPT | {"logprobs": 6}, 400, "'logprobs'"),
    (TEXT, PROMPT | {"prompt": "word " * 200_000}, 400, "maximum context length is 512 tokens"),
    (EMBED, INPUT | {"input": ""}, 400, "empty text"),
    (EMBED, INPUT | {"input": []}, 400, "input"),
    (EMBED, INPUT | {"input": ["a", ""]}, 400, "empty text"),
    (EMBED, INPUT | {"input": [["a"]]}, 400, "input"),
    (EMBED, INPUT | {"input": [99_999_999]}, 400, "outside the vocabulary"),
    (EMBED, INPUT | {"input": ["a"] * 513}, 400, "at most 512"),
    (EMBED, INPUT | {"input": "word " * 600}, 400, "maximum context length is"),
    (EMBED, INPUT | {"input": [7] * 600}, 400, "resulted in 600 tokens"),
    (EMBED, INPUT | {"encoding_format": "hex"}, 400, "'encoding_format'"),
    (EMBED, INPUT | {"dimensions": 7}, 400, "128 dimensions, not 7"),
    (EMBED, INPUT | {"model": "text"}, 400, "none that embeds texts"),
    (RANK, PASSAGES | {"documents": []}, 400, "documents"),
    (RANK, PASSAGES | {"documents": [1]}, 400, "documents"),
    (RANK, PASSAGES | {"top_n": 0}, 400, "'top_n'"),
    (RANK, PASSAGES | {"documents": ["w " * 900], "truncate": False}, 400, "maximum context"),
    ("/v1/responses", {"model": "text", "input": "x"}, 400, "Responses API is not supported"),
    ("/v1/nothing", {}, 404, "there is no POST /v1/nothing"),
    ("/v1/models", {}, 405, "Method Not Allowed"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "status", "words"), BAD, ids=[f"{i}{case[0]}" for i, case in enumerate(BAD)]
)
def test_a_bad_request_is_refused_in_words(server, path, body, status, words):
    answered, headers, content = server.ask("POST", path, body)
    assert answered == status, content
    assert headers["content-type"] == "application/json"
    error = json.loads(content)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_what_is_null_or_changes_nothing_is_as_if_absent(server):
    options = ("temperature", "top_p", "n", "stop", "seed", "stream", "stream_options", "logprobs",
               "top_logprobs", "max_completion_tokens", "presence_penalty", "logit_bias", "tools",
               "tool_choice", "response_format", "user", "store", "metadata")  # fmt: skip
    asked = HELLO | dict.fromkeys(options)
    asked |= {"tools": [], "user": "me", "metadata": {"a": "b"}, "parallel_tool_calls": True}
    asked |= {"tool_choice": "none", "response_format": {"type": "text"}, "stop": ["", "zzz"]}
    answer = server.json(CHAT, asked)
    message = answer["choices"][0]["message"]
    again = [*HELLO["messages"], message | {"tool_calls": None}, {"role": "user", "content": "x"}]
    parts = [{"type": "text", "text": "Good "}, {"type": "text", "text": "day"}]
    server.json(CHAT, HELLO | {"messages": again})
    apart = HELLO | {"messages": [{"role": "developer", "content": parts}], "seed": 1}
    whole = HELLO | {"messages": [{"role": "system", "content": "Good day"}], "seed": 1}
    answers = [server.json(CHAT, request)["choices"] for request in (apart, whole)]
    assert answers[0] == answers[1]


def test_a_foreign_host_is_refused_on_loopback(server):
    """A page whose name was rebound to this machine gets nothing, whatever it asks."""
    for path in ("/v1/models", "/health", "/metrics", "/docs"):
        status, _, content = server.ask("GET", path, host="evil.example:80")
        assert (status, json.loads(content)["error"]["code"]) == (421, "unknown_host")
    for host in (f"localhost:{server.port}", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert server.ask("GET", "/v1/models", host=host)[0] == 200
    assert (
        server.ask("GET", "/v1/models", origin="http://evil.example")[1]
        .keys()
        .isdisjoint({"access-control-allow-origin"})
    )


def test_what_is_too_large_or_too_slow_is_refused(server):
    status, _, content = server.ask("POST", CHAT, b"x" * (9 << 20))
    assert (status, json.loads(content)["error"]["code"]) == (413, "body_too_large")
    with server.connect() as connection:  # without a length, in pieces, for ever
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        piece = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        for _ in range(65):
            connection.sendall(piece)
        assert b" 413 " in connection.recv(100)
    with server.connect() as connection:  # one who never sends the rest takes nothing but a socket
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
                           b"content-length: 100\r\n\r\n{")  # fmt: skip
        assert server.json("/health") == {"status": "ok"}


@pytest.fixture
def hasty(tmp_path):
    """How to connect to a server that waits a second for a head, and a second for a body."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = Settings(upload=1, outputs=str(tmp_path))
        given = {run.VARIABLE: msgspec.json.encode((settings, "error")).decode()}
        command = [sys.executable, "-m", "llmkg_lab.serve.run", str(listening.fileno())]
        pipes = {"pass_fds": [listening.fileno()], "env": {**os.environ, **given}}
        with subprocess.Popen(command, **pipes) as process:
            yield lambda: socket.create_connection(listening.getsockname(), timeout=20)
            process.terminate()
    assert process.returncode in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_who_takes_too_long_over_a_head_or_a_body_is_answered_and_closed(hasty):
    def sent(*parts, pause=0.3):
        """All that comes back until the server closes."""
        with hasty() as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    health = b"GET /health HTTP/1.1\r\nhost: localhost\r\n"
    post = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{"
    for parts, status, code in [
        ([b"GET", b" /he"], 408, b"head_timeout"),
        ([health + b"\r\n", health], 408, b"head_timeout"),  # on a connection that was good
        ([post], 408, b"body_timeout"),
        ([b"\0\1\2\r\n\r\n"], 400, b"invalid_http"),
    ]:
        answer = sent(*parts).rpartition(b"HTTP/1.1 ")[2]
        assert answer.startswith(b"%d " % status), parts
        assert b'"code":"' + code in answer
    assert sent(b"") == b""  # who says nothing is told nothing
    began = time.monotonic()  # the time is of the whole head, not between two of its bytes
    assert sent(*(health[i : i + 1] for i in range(9)), pause=0.1)[9:12] == b"408"
    assert time.monotonic() - began < 1.7
    assert b'{"status":"ok"}' in sent(health[:9], health[9:] + b"\r\n")


@pytest.fixture(scope="module")
def guarded(artifacts, tmp_path_factory):
    """A server for other machines too, with short times."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text("# mine\nsecret-1\nsecret-2\n")
    with serving(
        folder, f"text={artifacts['text'].folder}", "--host", "0.0.0.0", "--tokens",
        folder / "tokens", "--origin", "https://page.example", "--slots", 1, "--queue", 1,
        "--timeout", 1, "--context", 8000,
    ) as server:  # fmt: skip
        yield server


@pytest.mark.slow
def test_tokens_are_needed_and_hosts_are_free_where_others_reach_the_port(guarded):
    for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "Basic secret-1"}):
        status, answered, content = guarded.ask("GET", "/v1/models", **headers)
        assert (status, json.loads(content)["error"]["code"]) == (401, "invalid_api_key")
        assert answered["www-authenticate"] == "Bearer"
        assert guarded.ask("GET", "/metrics", **headers)[0] == 401
    for token in ("secret-1", "secret-2"):
        bearer = f"Bearer {token}"
        assert guarded.ask("GET", "/v1/models", authorization=bearer, host="any.example")[0] == 200
    assert guarded.ask("GET", "/health")[0] == guarded.ask("GET", "/ready")[0] == 200
    assert "secret" not in guarded.text()


def test_named_origins_may_ask(guarded):
    asked = {"origin": "https://page.example", "access_control_request_method": "POST",
             "access_control_request_headers": "authorization,content-type"}  # fmt: skip
    status, headers, _ = guarded.ask("OPTIONS", CHAT, **asked)
    assert (status, headers["access-control-allow-origin"]) == (200, "https://page.example")
    status, headers, _ = guarded.ask("OPTIONS", CHAT, **asked | {"origin": "https://evil.example"})
    assert status == 400
    assert "access-control-allow-origin" not in headers


@pytest.mark.slow
def test_a_full_queue_says_when_to_come_again_and_late_answers_end(guarded):
    asked = PROMPT | {"max_tokens": 8000, "logit_bias": {"0": -100}}
    bearer = {"authorization": "Bearer secret-1"}
    answers = []

    def ask():
        answers.append(guarded.ask("POST", TEXT, asked, **bearer))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(status for status, _, _ in answers)
    assert statuses == [429, 429, 504, 504]
    for status, headers, content in answers:
        error = json.loads(content)["error"]
        if status == 429:
            assert 1 <= int(headers["retry-after"]) <= 60
            assert error["code"] == "queue_full"
        else:
            assert error["message"] == "the request took more than 1 s"
    status, _, content = guarded.ask("POST", TEXT, asked | {"stream": True}, **bearer)
    assert status == 200  # it had begun
    *_, last, end = content.decode().split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    assert end == ""
    guarded.until(lambda: guarded.json(TEXT, PROMPT, **bearer))  # the slot is free


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "no token is set"),
        (["--tokens", "/nowhere"], "cannot be read"),
        (["--memory", "much"], "is not a size"),
        (["/nowhere"], "is not an artifact"),
    ],
)
def test_a_server_that_would_be_wrong_does_not_start(arguments, words, models, tmp_path):
    command = [sys.executable, "-m", "llmkg_lab.cli", "serve", "--port", "0"]
    own = models[:1] if arguments[0].startswith("--") else []
    ended = subprocess.run([*command, *own, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_said(server, models):
    command = [sys.executable, "-m", "llmkg_lab.cli", "serve", "--port", str(server.port)]
    ended = subprocess.run([*command, *models[:1]], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "choose another --port" in ended.stderr
