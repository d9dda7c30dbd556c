"""A conversation in a terminal: what was said, within what the model can read, and who answers."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmkg_lab import artifact as artifacts
from llmkg_lab.base.errors import LabError
from llmkg_lab.runtime.abilities import GENERATES
from llmkg_lab.runtime.selection import open_backend
from llmkg_lab.runtime.text.generate import GenerationConfig, Speed
from llmkg_lab.runtime.text.tokenizer import Message

ROOM = 4  # one part in so many of the context is left for the answer
OURS = "llmkg-lab"  # in a server's list of models: who owns them
CONTEXT = "context_length_exceeded"  # a server's word for a conversation that is too long


class TooLongError(LabError):
    """The conversation does not fit the model's context."""


class Partner(Protocol):
    """Who answers: an artifact here, or a server."""

    name: str
    speed: Speed | None  # of the last answer
    cut: bool  # whether it was as long as it may be, and would have gone on

    def answer(self, messages: Sequence[Message]) -> Iterator[str]:
        """Answer piece by piece. Raises TooLongError before the first."""

    def others(self) -> list[str]:
        """The models that ``change`` takes, where they are known."""

    def change(self, name: str) -> None:
        """Let another model answer. Raises LabError where there is none of that name."""

    def close(self) -> None:
        """Let go of what is held."""


@dataclass
class Artifact:
    """An artifact that runs in this process."""

    name: str
    config: GenerationConfig
    runtime: str | None = None
    speed: Speed | None = None
    cut: bool = False

    def __post_init__(self) -> None:
        self._open(self.name)

    def answer(self, messages: Sequence[Message]) -> Iterator[str]:
        tokenizer = self._backend.tokenizer
        count = len(tokenizer.encode(tokenizer.chat(messages), special=False))
        if count > self._context - self._context // ROOM:
            raise TooLongError(f"the conversation has {count} tokens, and the context is "
                               f"{self._context}", "say it in fewer words, or /reset")  # fmt: skip
        stream = self._backend.stream_text(messages, self.config)
        try:
            yield from stream
        finally:
            stream.close()
            self.speed = stream.speed
            self.cut = stream.tokens >= min(self.config.max_tokens, self._context - count)

    def others(self) -> list[str]:
        beside = sorted(Path(self.name).resolve().parent.glob(f"*/{artifacts.MANIFEST}"))
        return [path.parent.name for path in beside if _generates(path.parent)]

    def change(self, name: str) -> None:
        """Let another artifact answer: a path, or the name of one beside this."""
        beside = Path(self.name).resolve().parent / name
        before = self._backend
        self._open(str(beside) if beside.is_dir() and not Path(name).is_dir() else name)
        before.close()

    def _open(self, name: str) -> None:
        # a conversation begins as it did before: its beginning is not read again
        backend = open_backend(name, self.runtime, reuse_prompts=True)
        if not backend.tokenizer.chats:
            backend.close()
            raise LabError(
                f"{name} has no chat template: it was not taught to answer",
                "take an -Instruct or -Chat variant; generate --raw continues a text",
            )
        self._backend, self.name = backend, name
        self._context = backend.metadata().context_length

    def close(self) -> None:
        self._backend.close()


@dataclass
class Server:
    """A model behind OpenAI's interface.

    url: of the server, with or without /v1.
    name: of the model; by default the first that generates text.
    """

    url: str
    config: GenerationConfig
    name: str = ""
    token: str = ""
    speed: Speed | None = None
    cut: bool = False
    _models: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        import httpx2

        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        base = self.url.rstrip("/").removesuffix("/v1") + "/v1/"
        self._client = httpx2.Client(base_url=base, headers=headers, timeout=600)
        with self._reached():
            answer = self._client.get("models")
        if answer.status_code != 200:
            raise _refusal(answer.content)
        models = answer.json()["data"]
        self._models = [m for m in models if m.get("task", "text-generation") == "text-generation"]
        if not self._models:
            raise LabError(f"{self.url} has no model that generates text")
        self.change(self.name or self._models[0]["id"])

    def answer(self, messages: Sequence[Message]) -> Iterator[str]:
        body = {
            "model": self.name,
            "messages": list(messages),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self.config.max_tokens,
            "temperature": self.config.temperature,
            "top_p": self.config.top_p,
            **({} if self.config.seed is None else {"seed": self.config.seed}),
            **self._own_options(),
            **({"stop": list(self.config.stop_tokens)} if self.config.stop_tokens else {}),
        }
        started, first, tokens = time.perf_counter(), 0.0, 0
        self.speed, self.cut = None, False
        with self._reached(), self._client.stream("POST", "chat/completions", json=body) as answer:
            if answer.status_code != 200:
                raise _refusal(answer.read())
            for line in answer.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise LabError(f"{self.url}: {event['error']['message']}")
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
                for choice in event["choices"]:
                    self.cut = choice.get("finish_reason") == "length"
                    if piece := choice["delta"].get("content"):
                        first = first or time.perf_counter()
                        yield piece
        after = time.perf_counter() - first
        rate = (tokens - 1) / after if tokens > 1 and first else None
        self.speed = Speed(tokens, first - started if first else 0.0, rate)

    def _own_options(self) -> dict[str, float]:
        """What OpenAI's interface has no word for, and our server understands."""
        is_ours = any(m["id"] == self.name and m.get("owned_by") == OURS for m in self._models)
        return {"repetition_penalty": self.config.repetition_penalty} if is_ours else {}

    def others(self) -> list[str]:
        return [model["id"] for model in self._models]

    def change(self, name: str) -> None:
        if name not in self.others():
            raise LabError(f"{self.url} has no {name}", f"it has {', '.join(self.others())}")
        self.name = name

    def close(self) -> None:
        self._client.close()

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except httpx2.TransportError as error:
            raise LabError(f"{self.url} cannot be reached: {error}", "is it running?") from error


@dataclass
class History:
    """What was said. What no longer fits the context is left out, the oldest first."""

    system: str = ""
    turns: list[Message] = field(default_factory=list)

    def reset(self) -> None:
        """Forget all but the system's message."""
        self.turns.clear()

    def ask(self, partner: Partner, question: str, forgot: Callable[[int], None]) -> Iterator[str]:
        """The answer to a question, piece by piece, which is kept as far as it came.

        forgot: told how many messages were left out, where some were.
        Raises TooLongError where the question alone is too long; nothing of it is kept then.
        """
        asked = {"role": "user", "content": question}
        head = [{"role": "system", "content": self.system}] if self.system else []
        turns, said = [*self.turns, asked], ""
        pieces, first = self._begun(partner, head, turns)
        if left_out := len(self.turns) + 1 - len(turns):
            forgot(left_out)
        self.turns = turns
        try:
            said = first
            yield first
            for piece in pieces:
                said += piece
                yield piece
        finally:
            self.turns.append({"role": "assistant", "content": said})

    @staticmethod
    def _begun(
        partner: Partner, head: list[Message], turns: list[Message]
    ) -> tuple[Iterator[str], str]:
        """An answer and its first piece; ``turns`` that are too many are taken out."""
        while True:
            pieces = partner.answer([*head, *turns])
            try:
                return pieces, next(pieces, "")
            except TooLongError:
                if len(turns) < 3:
                    raise
                _forget(turns)


def _forget(turns: list[Message]) -> None:
    """Take the oldest questions with their answers out, until half of the text is left.

    If it were only as much as has to go, the next question would begin another conversation again,
    which the model reads from its beginning.
    """
    left = sum(len(turn["content"]) for turn in turns)
    half = left / 2
    while len(turns) > 2 and left > half:
        left -= sum(len(turn["content"]) for turn in turns[:2])
        del turns[:2]


def _generates(folder: Path) -> bool:
    try:
        return artifacts.Artifact.open(folder).task == GENERATES
    except LabError:  # of another program, or half written
        return False


def _refusal(content: bytes) -> LabError:
    """What a server says it refuses a request for."""
    try:
        error = json.loads(content)["error"]
        message, code = error["message"], error.get("code")
    except (ValueError, KeyError, TypeError):
        return LabError(f"the server answers in other words: {content[:200]!r}")
    return TooLongError(message) if code == CONTEXT else LabError(message)
