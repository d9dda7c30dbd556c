"""`llmkg-lab chat` in a process of its own, with an artifact and with a server; and `top`."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest
from rich.cells import cell_len
from support.terminal import without_escapes

from llmkg_lab.cli.conversation import Artifact, History, Server, TooLongError
from llmkg_lab.cli.wrapped import Wrapped
from llmkg_lab.runtime.ort.decoder import Decoder
from llmkg_lab.runtime.text.generate import GenerationConfig
from llmkg_lab.serve import watch

COMMAND = [sys.executable, "-W", "error", "-m", "llmkg_lab.cli"]
CONFIG = GenerationConfig(max_tokens=12, seed=3)


def call(*arguments, typed=""):
    """Run a command with lines for its input: (exit code, stdout, stderr)."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], input=typed, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def partners(server, artifacts):
    """The same model here and behind a server."""
    made = [Artifact(str(artifacts["text"].folder), CONFIG), Server(server.url, CONFIG, "text")]
    yield made
    for partner in made:
        partner.close()


def test_an_artifact_and_a_server_answer_alike_and_remember(partners):
    answers = []
    for partner in partners:
        history = History("You answer.")
        answers.append(["".join(history.ask(partner, q, list)) for q in ("Who?", "Why? 🙂")])
        assert [turn["role"] for turn in history.turns] == ["user", "assistant"] * 2
        assert history.turns[3]["content"] == answers[-1][1]
        assert 0 < partner.speed.tokens <= 12
        assert partner.speed.tokens_per_second > 0
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_what_no_longer_fits_is_forgotten_the_oldest_first(partners):
    """The server has 512 tokens; the artifact leaves a quarter of its 8,192 for the answer."""
    for partner, words in zip(partners, (2500, 200), strict=True):
        history, forgotten = History("Be brief."), []
        for i in range(3):
            list(history.ask(partner, f"{i} " + "word " * words, forgotten.append))
        assert sum(forgotten) > 0
        assert sum(forgotten) % 2 == 0
        assert len(history.turns) == 6 - sum(forgotten)
        assert history.turns[-2]["content"].startswith("2 ")
        before = list(history.turns)
        with pytest.raises(TooLongError):
            list(history.ask(partner, "word " * 9000, forgotten.append))
        assert history.turns == before


@pytest.mark.slow
def test_a_conversation_is_not_read_again_from_its_beginning(partners, monkeypatch):
    """Nor where it was too long: as much is forgotten as leaves room for questions to come."""
    runs, start = [], Decoder.start

    def started(decoder, prompt):
        left = start(decoder, prompt)
        runs.append((len(prompt), len(left)))
        return left

    monkeypatch.setattr(Decoder, "start", started)
    history, forgotten = History(), []
    for i in range(9):
        list(history.ask(partners[0], f"{i} " + "word " * 1000, forgotten.append))
    assert len(forgotten) in (1, 2)
    whole = [left for prompt, left in runs if left > 2000]
    assert len(whole) == len(forgotten)
    assert sum(prompt for prompt, _ in runs) > 2 * sum(left for _, left in runs)


def test_lines_break_between_words():
    wrapped = Wrapped(10)
    pieces = [
        "The qu",
        "ick  br",
        "own fox\n",
        "  jumps",
        " supercalifragilistic",
        " 日本語日本語",
        "!",
    ]
    text = "".join(map(wrapped.push, pieces)) + wrapped.flush()
    lines = text.split("\n")
    assert max(map(cell_len, lines)) <= 10
    assert lines[:4] == ["The quick ", "brown fox", "  jumps ", "supercalif"]
    assert re.sub(r"\s", "", text) == re.sub(r"\s", "", "".join(pieces))
    assert Wrapped(10).push("two") == ""  # not yet whole


@pytest.mark.slow
def test_a_conversation_by_lines(artifacts, server):
    lines = "Hello\n/model\n/model nobody\n/model text\n/reset\n/system Be brief.\nHello\n"
    lines += "/what\n/exit\nHello\n"
    folder = artifacts["text"].folder
    for target in ((folder,), (server.url, "--model", "text")):
        options = ("--max-tokens", "8", "--seed", "1")
        code, stdout, stderr = call("chat", *target, *options, typed=lines)
        assert code == 0, stderr
        assert stdout.strip()
        assert len(re.findall(r"^\[\d+ tokens?, the first after", stderr, re.M)) == 2
        assert "what was said is forgotten" in stderr
        assert stderr.count("error: ") == 1
        assert "text answers from now on" in stderr  # by its name alone
        assert "cut off there" in stderr
        assert "/system TEXT" in stderr
        assert "Traceback" not in stderr
    code, _, stderr = call("chat", artifacts["embed"].folder, typed="Hello\n")
    assert (code, "Traceback" in stderr) == (2, False)
    code, _, stderr = call("chat", "http://127.0.0.1:1")
    assert code == 2
    assert "cannot be reached" in stderr


@pytest.mark.slow
def test_on_a_terminal_ctrl_c_ends_an_answer_and_the_talk_goes_on(artifacts):
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "chat", str(artifacts["text"].folder), "--max-tokens", "8000"],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()

    def read():
        while True:
            try:
                seen.extend(os.read(mine, 4096))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()

    def until(text, count=1):
        deadline = time.monotonic() + 60
        while without_escapes(seen.decode(errors="replace")).count(text) < count:
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)

    until("> ")
    os.write(mine, b"Tell me everything\n")
    until("everything")
    before = len(seen)
    deadline = time.monotonic() + 60
    while len(seen) < before + 60:  # it answers by now
        assert time.monotonic() < deadline, seen
        time.sleep(0.01)
    os.write(mine, b"\x03")  # as a person presses it
    until("tokens/s]")
    until("> ", 2)
    os.write(mine, b"not this\x03")
    until("/exit ends")
    os.write(mine, b"/reset\n")
    until("is forgotten")
    os.write(mine, b"\x04")
    assert process.wait(30) == 0
    reader.join(10)
    os.close(mine)


def test_quantiles_are_prometheus_estimates():
    buckets = [(0.1, 2.0), (0.2, 6.0), (0.4, 8.0), (float("inf"), 10.0)]
    assert watch.quantile(buckets, 0.5) == pytest.approx(0.1 + 0.1 * 3 / 4)
    assert watch.quantile(buckets, 0.1) == pytest.approx(0.05)
    assert watch.quantile(buckets, 0.95) == pytest.approx(0.4)
    assert watch.quantile([], 0.5) is None
    assert watch.quantile([(1.0, 0.0)], 0.5) is None


@pytest.mark.slow
def test_top_tells_what_a_server_does(server):
    body = {"model": "text", "prompt": "a", "max_tokens": 30, "logit_bias": {"0": -100}}
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            server.json("/v1/completions", body)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        code, stdout, stderr = call("top", server.url, "--interval", "1.5", "--json")
    finally:
        stop.set()
        asking.join()
    assert code == 0, stderr
    load = json.loads(stdout)
    by_name = {model["name"]: model for model in load["models"]}
    assert by_name["text"]["token_rate"] > 1
    assert by_name["text"]["nbytes"] > 1e6
    assert 0 < by_name["text"]["first_token"] <= by_name["text"]["first_token_95"]
    assert load["request_rate"] > 0
    assert load["resident"] > 50e6
    code, stdout, _ = call("top", server.url, "--once", "--interval", "0.2")
    assert code == 0
    assert "tokens/s" in stdout
    assert "MB resident" in stdout
    assert call("top", "http://127.0.0.1:1", "--once")[0] == 2
