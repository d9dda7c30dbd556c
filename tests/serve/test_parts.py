"""Parts of the server by themselves: streams, turns of encoders, models within a budget."""

import asyncio
import contextlib
import threading
import time

import pytest
from support.load import TEXT

from llmkg_lab.base.errors import LabError
from llmkg_lab.serve.engine.scheduler import FullError
from llmkg_lab.serve.engine.turns import Turns
from llmkg_lab.serve.http.stream import EventStream
from llmkg_lab.serve.settings import Settings


def streamed(events, leaves_after=None):
    """What a client gets of events, with a comment after 0.05 s of silence; whether it left."""
    sent, closed, scope = [], [], {"type": "http", "state": {}}

    async def receive():
        await asyncio.sleep(leaves_after or 100)
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    async def run():
        stack = contextlib.AsyncExitStack()
        stack.callback(closed.append, True)
        await EventStream(events(), 0.05, stack)(scope, receive, send)

    asyncio.run(run())
    assert closed == [True]
    return b"".join(message.get("body", b"") for message in sent), scope["state"]


def test_silence_is_filled_with_comments():
    async def events():
        yield b"data: 1\n\n"
        await asyncio.sleep(0.18)
        yield b"data: 2\n\n"

    content, state = streamed(events)
    assert content.startswith(b"data: 1\n\n: ")
    assert content.endswith(b"data: 2\n\n")
    assert 2 <= content.count(b"\n: ") <= 4
    assert state == {}


def test_who_leaves_ends_the_events_at_once():
    ended = []

    async def events():
        try:
            yield b"data: 1\n\n"
            await asyncio.sleep(100)
        finally:
            ended.append(time.monotonic())

    start = time.monotonic()
    content, state = streamed(events, leaves_after=0.1)
    assert content.count(b"data: ") == 1
    assert state == {"left": True}
    assert 0.1 <= ended[0] - start < 1


def test_encoders_take_turns_and_what_is_given_up_waits_for_nobody():
    order = []

    async def run():
        turns, gate = Turns("test", 3), threading.Event()

        def work(name):
            order.append(name)
            if name == "first":
                gate.wait(10)

        def ask(client, name):
            return asyncio.create_task(turns.run(client, lambda: work(name)))

        tasks = [ask("a", "first")]
        await asyncio.sleep(0.05)
        tasks += [ask("a", "second"), ask("a", "third"), ask("b", "other")]
        await asyncio.sleep(0.05)
        assert turns.load() == (3, 1)
        with pytest.raises(FullError):
            await turns.run("c", lambda: work("too many"))
        tasks[2].cancel()
        tasks[0].cancel()  # its thread goes on, and its turn is over only then
        await asyncio.sleep(0.05)
        assert turns.load() == (2, 1)
        assert order == ["first"]
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert turns.load() == (0, 0)
        turns.close()

    asyncio.run(run())
    assert order == ["first", "second", "other"]


@pytest.mark.slow
def test_models_leave_for_others_where_memory_is_short(models, start):
    """Each is expected to take over 60 MB, as long as nobody measured it."""
    options = ("--memory", "100MB", "--context", 256, "--slots", 2)
    server = start(*models[:2], *options)
    text = {"model": "text", "prompt": "a", "max_tokens": 4, "seed": 1}
    vectors = {"model": "embed", "input": "a"}
    size = max(server.metric("llmkg_model_bytes", model_name=name) for name in ("text", "embed"))
    assert size < 15e6
    answers = []
    for _ in range(2):
        answers.append(server.json(TEXT, text)["choices"][0]["text"])
        answers.append(server.json("/v1/embeddings", vectors)["data"])
        loaded = {m["id"] for m in server.json("/v1/models")["data"] if m["loaded"]}
        assert loaded == {"embed"}
    assert answers[:2] == answers[2:]
    loads = [entry["model"] for entry in server.logs() if entry["message"] == "model loaded"]
    assert loads[-3:] == ["embed", "text", "embed"]


def test_settings_that_cannot_be_are_refused():
    assert Settings(host="::1").loopback
    assert Settings(host="localhost").loopback
    for wrong in ({"host": "192.0.2.1"}, {"host": "example.org"}, {"slots": 0}, {"timeout": -1}):
        with pytest.raises(LabError):
            Settings(**wrong)
