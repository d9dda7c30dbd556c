"""Our server beside llama.cpp's, and beside our library: first token, tokens, eight chats at once.

A chat asks for 64 tokens of SmolLM2-135M at temperature 0.7, streamed; one client, then eight at
once. No user's turn begins as another, so that none is cached. What the library takes without a
server is a row: it generates the same in one process. With a seed our server computes an even
number of rows, so that others change nothing: a column has what that costs. Embeddings are of 256
sentences by all-MiniLM-L6-v2 in requests of 64. Servers are processes of their own, in turn, asked
over HTTP on loopback by clients that share the cores with them.
"""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from benchmarks.common import Runner, arguments, high_water, peer_python, run, start
from benchmarks.decoders import gguf_model, our_models
from benchmarks.embedders import our_embedders, sentences
from benchmarks.measure import Benchmark
from llmkg_lab.runtime.ort.packed import prepare

QUESTION = "{} times: write a long story about a lighthouse keeper and the sea."
TOKENS, CHATS, REPEATS, GROUP = 64, 8, 3, 64
TEMPERATURE = 0.7
numbers = count(100)
METRICS = {
    "first_ms": "first token, ms",
    "token_ms": "a token, ms",
    "seeded_ms": "a token with a seed, ms",
    "one_tps": "one chat, tokens/s",
    "eight_tps": "eight chats, tokens/s",
    "eight_first_ms": "first token of eight, ms",
    "embed_per_second": "texts embedded per second",
    "peak_mb": "peak memory, MB",
}
BENCHMARK = Benchmark("server", "Chats and embeddings over HTTP", METRICS)


def main(options: Namespace) -> None:
    threads, conditions = options.threads, {"threads": options.threads, "tokens": TOKENS}
    decoder, embedder = our_models()["int4-rtn"], our_embedders()["int8-rtn"]
    prepare(embedder)
    contestants = {
        "library": library(decoder.folder, embedder.folder, threads),
        "llmkg-lab serve": server(
            [
                *(sys.executable, "-m", "llmkg_lab.cli", "serve"),
                *(f"chat={decoder.folder}", f"embed={embedder.folder}", "--log-level", "error"),
                *("--threads", str(threads), "--context", "1024"),
            ],
            "/ready",
            embeds=True,
        ),
        "llama_cpp.server": server(
            [
                *(peer_python(), "-m", "llama_cpp.server", "--model", str(gguf_model("Q4_0"))),
                *("--n_threads", str(threads), "--n_threads_batch", str(threads)),
                *("--n_ctx", "1024", "--interrupt_requests", "False"),
            ],
            "/v1/models",
        ),
    }
    samples = BENCHMARK.alternate(contestants, options.rounds, conditions, options.again)
    note = f"{threads} threads; ours at int4, llama.cpp at Q4_0, which decodes one chat at a time."
    BENCHMARK.publish(samples, conditions, note, ("one_tps", "eight_tps"))


def server(command: list[str], probe: str, embeds: bool = False) -> Runner:
    """A contestant: a server, started, asked and ended."""

    def measure() -> dict:
        with _serving(command, probe) as (port, pid):
            chat = "chat" if embeds else "model"
            stream(port, chat)  # warms up
            single = [stream(port, chat) for _ in range(REPEATS)]
            eight_tps, eight_first = at_once(port, chat)  # repeated by the rounds
            figures = _singles(single)
            figures |= {"eight_tps": eight_tps, "eight_first_ms": eight_first}
            if embeds:
                seeded = [stream(port, chat, seed=1) for _ in range(REPEATS)]
                figures["seeded_ms"] = median(turn.token_ms for turn in seeded)
                figures["embed_per_second"] = _per_second(lambda texts: _embed(port, texts))
            return {**figures, "peak_mb": high_water(pid) / 1e6}

    return measure


def library(decoder: Path, embedder: Path, threads: int) -> Runner:
    """A contestant: the same without a server, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.server", "library"]

    def measure() -> dict:
        done = run([*command, str(decoder), str(embedder), str(threads)])
        return {**json.loads(done.output.splitlines()[-1]), "peak_mb": done.peak_bytes / 1e6}

    return measure


def in_library(decoder: str, embedder: str, threads: str) -> None:
    """Print what the library takes for the same chats and texts."""
    from llmkg_lab.artifact import Artifact
    from llmkg_lab.runtime.ort.decoder import Decoder, Embedder
    from llmkg_lab.runtime.text.generate import GenerationConfig, generate_text
    from llmkg_lab.runtime.text.tokenizer import Tokenizer

    artifact = Artifact.open(decoder)
    model, tokenizer = Decoder(artifact, int(threads)), Tokenizer.from_folder(decoder)
    config = GenerationConfig(temperature=TEMPERATURE, max_tokens=TOKENS)

    def chat() -> Chat:
        asked = [{"role": "user", "content": QUESTION.format(next(numbers))}]
        began = time.perf_counter()
        return _timed(generate_text(model, tokenizer, asked, config), began)

    chat()
    single = [chat() for _ in range(REPEATS)]
    encoder = Embedder(Artifact.open(embedder), int(threads))
    figures = {**_singles(single), "embed_per_second": _per_second(encoder.embed)}
    print(json.dumps(figures))


@dataclass(frozen=True)
class Chat:
    """A chat: when its first text came, ms between texts, their number, seconds in all."""

    first_ms: float
    token_ms: float
    texts: int
    seconds: float


def stream(port: int, model: str, **more: int) -> Chat:
    """Ask for one chat and read it."""
    asked = [{"role": "user", "content": QUESTION.format(next(numbers))}]
    body = {"model": model, "messages": asked, "stream": True, "max_tokens": TOKENS, **more}
    body["temperature"] = TEMPERATURE
    began = time.perf_counter()
    return _timed(_pieces(port, body), began)


def at_once(port: int, model: str) -> tuple[float, float]:
    """Eight chats: texts per second of all together, and the median ms until the first text."""
    chats: list[Chat] = []
    threads = [
        threading.Thread(target=lambda: chats.append(stream(port, model))) for _ in range(CHATS)
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    return sum(chat.texts for chat in chats) / took, median(chat.first_ms for chat in chats)


def _singles(chats: list[Chat]) -> dict[str, float]:
    """The figures of chats one after the other."""
    return {
        "first_ms": median(chat.first_ms for chat in chats),
        "token_ms": median(chat.token_ms for chat in chats),
        "one_tps": median(chat.texts / chat.seconds for chat in chats),
    }


def _timed(pieces: Iterator[str], began: float) -> Chat:
    times = [time.perf_counter() for _ in pieces]
    between = (times[-1] - times[0]) / (len(times) - 1)
    return Chat(1000 * (times[0] - began), 1000 * between, len(times), times[-1] - began)


def _pieces(port: int, body: dict) -> Iterator[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    if piece := choice["delta"].get("content"):
                        yield piece
    finally:
        connection.close()


def _embed(port: int, texts: list[str]) -> None:
    body = {"model": "embed", "input": texts, "encoding_format": "base64"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings", json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=600) as answer:
        json.load(answer)


def _per_second(embed: Callable[[list[str]], object]) -> float:
    texts = sentences()
    embed(texts[:GROUP])  # warms up; what is cached of it is asked for only once more
    began = time.perf_counter()
    for first in range(GROUP, len(texts), GROUP):
        embed(texts[first : first + GROUP])
    return (len(texts) - GROUP) / (time.perf_counter() - began)


@contextmanager
def _serving(command: list[str], probe: str) -> Iterator[tuple[int, int]]:
    """A server that is ready: its port and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = subprocess.DEVNULL
    with subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log) as process:
        try:
            for _ in range(1200):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{probe}", timeout=5).close()
                    break
                except OSError:
                    if process.poll() is not None:
                        raise RuntimeError(f"{command} ended: {process.returncode}") from None
                    time.sleep(0.1)
            yield port, process.pid
        finally:
            process.terminate()


if __name__ == "__main__":
    if sys.argv[1:2] == ["library"]:
        in_library(*sys.argv[2:])
    else:
        start(lambda: main(arguments(__doc__).parse_args()))
