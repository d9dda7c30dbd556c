"""Clients that ask a server for everything at once, and what became of it."""

import json
import random
import socket
import threading
import time

import psutil

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
EMBED, RANK = "/v1/embeddings", "/v1/rerank"


def send(server, path, body, timeout=30):
    """A request on a connection of its own, of which the answer is not read yet."""
    content = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=timeout)
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    connection.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return connection


class Client(threading.Thread):
    """Asks for chats, streams, vectors and ranks; leaves early, reads slowly, sends rubbish."""

    def __init__(self, server, seed, until):
        super().__init__()
        self.server, self.random, self.until = server, random.Random(seed), until
        self.failures, self.latencies = [], {}

    def run(self):
        kinds = [self.chat, self.stream, self.embed, self.rank, self.leave, self.slow, self.rubbish]
        while time.monotonic() < self.until:
            kind = self.random.choice(kinds)
            start = time.monotonic()
            try:
                kind()
            except Exception as error:
                self.failures.append(f"{kind.__name__}: {error!r}")
            else:
                taken = self.latencies.setdefault(kind.__name__, [])
                taken.append(time.monotonic() - start)

    def asked(self):
        content = "word " * self.random.randrange(1, 150)
        messages = [{"role": "user", "content": content}]
        return {"model": "text", "messages": messages, "max_tokens": self.random.randrange(1, 40)}

    def chat(self):
        answer = self.server.json(CHAT, self.asked())
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")

    def stream(self):
        status, _, content = self.server.ask("POST", CHAT, self.asked() | {"stream": True})
        assert status == 200
        assert content.endswith(b"data: [DONE]\n\n")

    def embed(self):
        texts = ["word " * self.random.randrange(1, 80)] * self.random.randrange(1, 70)
        answer = self.server.json(EMBED, {"model": "embed", "input": texts})
        assert len(answer["data"]) == len(texts)

    def rank(self):
        passages = ["word " * self.random.randrange(1, 80) for _ in range(20)]
        asked = {"model": "rank", "query": "word", "documents": passages}
        assert len(self.server.json(RANK, asked)["results"]) == 20

    def leave(self):
        path = self.random.choice((CHAT, CHAT, EMBED))
        body = self.asked() | {"stream": self.random.random() < 0.5, "max_tokens": 400}
        if path == EMBED:
            body = {"model": "embed", "input": ["word " * 80] * 200}
        with send(self.server, path, body):
            time.sleep(self.random.random() / 5)

    def slow(self):
        with send(self.server, CHAT, self.asked() | {"stream": True}) as connection:
            content = b""
            while not content.endswith(b"0\r\n\r\n"):
                part = connection.recv(200)
                assert part
                content += part
                time.sleep(0.002)
        assert b"data: [DONE]" in content

    def rubbish(self):
        content = self.random.randbytes(self.random.randrange(1, 2000))
        with self.server.connect() as connection:
            connection.sendall(content)
        assert self.server.ask("POST", CHAT, content)[0] == 400


def loaded(server, clients, seconds):
    """What so many clients saw of so long a load: failures, latencies by kind, and the growth."""
    process = psutil.Process(server.process.pid)
    until = time.monotonic() + seconds
    threads = [Client(server, seed, until) for seed in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 3)  # all caches and slots have been used by now
    before = process.memory_info().rss
    for thread in threads:
        thread.join()
    server.until(lambda: server.metric("vllm:num_requests_running") == 0)
    server.until(lambda: server.metric("llmkg_http_requests_in_flight") == 1)  # this question
    growth = process.memory_info().rss - before
    latencies = {}
    for thread in threads:
        for kind, taken in thread.latencies.items():
            latencies.setdefault(kind, []).extend(taken)
    return [f for thread in threads for f in thread.failures], latencies, growth
