"""Many clients at once: turns, cancelled requests, mixed load, a thousand connections, the end."""

import contextlib
import json
import resource
import signal
import time

import psutil
import pytest
from support.load import TEXT, loaded, send
from support.server import serving

from llmkg_lab.serve.engine.queue import FairQueue

ENDLESS = {"model": "text", "prompt": "a", "max_tokens": 5000, "logit_bias": {"0": -100}}


def running(server):
    return server.metric("vllm:num_requests_running", model_name="text")


def received(connection):
    """All until the other side closes or the answer is whole."""
    content = b""
    while not content.endswith((b"0\r\n\r\n", b"}")):
        if not (part := connection.recv(65536)):
            break
        content += part
    return content


@pytest.fixture(scope="module")
def long(models, tmp_path_factory):
    """A server whose sequences may be long, so that there is time to give them up."""
    folder = tmp_path_factory.mktemp("long")
    options = ("--slots", 2, "--context", 8192, "--queue", 8)
    with serving(folder, *models, *options) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_slot_within_a_token(long, stream):
    connections = [send(long, TEXT, ENDLESS | {"stream": stream}) for _ in range(2)]
    long.until(lambda: running(long) == 2)
    before = long.metric("llmkg_requests_cancelled_total")
    for connection in connections:
        connection.close()
    took = long.until(lambda: running(long) == 0)
    assert took < 0.5  # a look at the metrics takes some hundredths
    assert long.metric("llmkg_requests_cancelled_total") == before + 2


@pytest.mark.slow
def test_who_leaves_while_the_prompt_runs_or_waits_frees_the_place_too(long):
    """8,000 tokens are 63 chunks; after the one at hand the next request begins."""
    prompt = ENDLESS | {"prompt": [7] * 8000, "max_tokens": 1}
    whole = time.monotonic()
    long.json(TEXT, prompt)
    whole = time.monotonic() - whole
    connections = [send(long, TEXT, prompt) for _ in range(6)]
    time.sleep(0.1)
    for connection in connections:
        connection.close()
    start = time.monotonic()
    long.json(TEXT, ENDLESS | {"max_tokens": 1})
    assert time.monotonic() - start < whole / 2
    waiting = long.metric("vllm:num_requests_waiting", model_name="text")
    assert (waiting, running(long)) == (0, 0)


def test_clients_take_turns():
    queue = FairQueue()
    for client, item in (("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)):
        queue.put(client, item)
    assert queue.remove("a", 2)
    assert not queue.remove("a", 2)
    assert [queue.pop() for _ in range(len(queue))] == [1, 4, 5, 3, 6]


def test_a_stream_whose_reader_is_slow_stops_nobody(long):
    slow = send(long, TEXT, ENDLESS | {"stream": True})
    start = time.monotonic()
    long.json(TEXT, ENDLESS | {"max_tokens": 5})
    assert time.monotonic() - start < 5
    slow.close()
    long.until(lambda: running(long) == 0)


@pytest.mark.slow
def test_under_mixed_load_nothing_is_lost_and_nothing_leaks(models, start):
    """`make test-services` does the same for ten minutes."""
    server = start(*models, "--slots", 4, "--context", 512)
    process = psutil.Process(server.process.pid)
    handles = process.num_fds()
    failures, latencies, growth = loaded(server, 8, 9)
    assert failures == []
    assert set(latencies) == {"chat", "stream", "embed", "rank", "leave", "slow", "rubbish"}
    server.until(lambda: process.num_fds() <= handles + 3)
    assert growth < 60e6
    assert server.metric("llmkg_http_requests_total", status="500") == 0
    assert server.end() == 0


@pytest.mark.slow
def test_a_thousand_connections_at_once(server):
    """Each is answered: by a vector, or by when to come again; probes answer meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    body = {"model": "text", "prompt": "a", "max_tokens": 1}
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(1000)]
        assert server.json("/health") == {"status": "ok"}
        content = json.dumps(body).encode()
        head = f"POST {TEXT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        for connection in connections:
            connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        assert server.json("/health") == {"status": "ok"}
        statuses = [received(connection).split(b" ", 2)[1] for connection in connections]
    assert set(statuses) <= {b"200", b"429"}
    assert statuses.count(b"200") > 16
    assert server.json(TEXT, body)["choices"]


@pytest.mark.slow
def test_at_sigterm_streams_are_finished_and_what_takes_too_long_gets_an_error(models, start):
    server = start(*models[:1], "--slots", 4, "--context", 8192, "--grace", 1)
    with (
        send(server, TEXT, ENDLESS | {"stream": True, "max_tokens": 40}) as short,
        send(server, TEXT, ENDLESS | {"stream": True, "max_tokens": 8000}) as endless,
        send(server, TEXT, ENDLESS | {"max_tokens": 8000}) as whole,
    ):
        server.until(lambda: running(server) == 3)
        server.process.send_signal(signal.SIGTERM)
        assert received(short).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        answer = received(endless)
        assert b'"code":"unavailable"' in answer
        assert answer.endswith(b"0\r\n\r\n")
        assert b" 503 " in received(whole)[:20]
    with pytest.raises(OSError, match="refused"):
        server.connect()
    assert server.end() == 0


@pytest.mark.slow
def test_workers_share_the_port_and_the_metrics(models, start):
    server = start(*models[:1], "--workers", 2, "--context", 512)
    server.until(lambda: [e["message"] for e in server.logs()].count("ready") == 2, 60)
    for _ in range(12):
        server.json(TEXT, ENDLESS | {"max_tokens": 2})
    server.until(lambda: server.metric("vllm:generation_tokens_total") == 24)  # after the answer
    children = psutil.Process(server.process.pid).children()
    assert len(children) == 2
    time.sleep(0.3)
    assert server.end() == 0, server.text()
    assert not any(child.is_running() for child in children)
    assert "Traceback" not in server.text()
