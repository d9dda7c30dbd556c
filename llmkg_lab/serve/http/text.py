"""/v1/completions and /v1/chat/completions."""

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from llmkg_lab.serve.engine.continuation import Piece, Plan, Score
from llmkg_lab.serve.engine.generation import Generation
from llmkg_lab.serve.engine.models import TextModel
from llmkg_lab.serve.http import errors, replies
from llmkg_lab.serve.http.context import Context, client_of, note, too_long, while_connected
from llmkg_lab.serve.http.errors import ApiError
from llmkg_lab.serve.http.requests import ChatRequest, CompletionRequest, Sampled
from llmkg_lab.serve.http.scores import TokenTexts
from llmkg_lab.serve.http.stream import DONE, EventStream, event

CHAT_TOKENS, COMPLETION_TOKENS = 1024, 16  # where a request names no number


@dataclass
class Said:
    """An answer as far as it has come."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    scores: list[Score] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        """Add a piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish
        self.scores += piece.scores


class Form(ABC):
    """What chats and completions differ by. ``prompts``: the tokens of each prompt."""

    kind: str  # of the whole answer
    chunk_kind: str
    prefix: str  # of ids
    prompts: list[list[int]]
    param: str  # the field that is too long, where a prompt is
    default_tokens: int

    def __init__(self, model: TextModel) -> None:
        self.model, self.texts = model, TokenTexts(model.tokenizer)

    @property
    @abstractmethod
    def scores(self) -> int | None:
        """Of how many tokens log-probabilities are wanted."""

    @property
    @abstractmethod
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""

    @property
    def max_tokens(self) -> int | None:
        """How long an answer may be at most, where the request says it."""
        return None

    @abstractmethod
    def choice(self, index: int, said: Said) -> dict[str, Any]:
        """A whole answer."""

    @abstractmethod
    def first(self, index: int) -> dict[str, Any] | None:
        """What a stream says of an answer before its text."""

    @abstractmethod
    def delta(self, piece: Piece, before: Said) -> list[dict[str, Any]]:
        """What a stream says more, in one or two chunks; ``before`` of the answer without it."""


class ChatForm(Form):
    """A conversation and an answer to it."""

    kind, chunk_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl-"
    param, default_tokens = "messages", CHAT_TOKENS

    def __init__(self, body: ChatRequest, model: TextModel) -> None:
        super().__init__(model)
        self._body = body
        if body.top_logprobs is not None and not body.logprobs:
            raise ApiError(400, "'top_logprobs' needs 'logprobs' to be true", param="top_logprobs")
        prompt = model.tokenizer.chat([message.plain() for message in body.messages])
        self.prompts = [model.tokenizer.encode(prompt, special=False)]

    @property
    def scores(self) -> int | None:
        return (self._body.top_logprobs or 0) if self._body.logprobs else None

    @property
    def ends(self) -> frozenset[int]:
        return self.model.turn_ends

    @property
    def max_tokens(self) -> int | None:
        return self._body.max_completion_tokens

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": said.text,
            "refusal": None,
            "annotations": [],
        }
        return {
            "index": index,
            "message": message,
            "logprobs": self._logprobs(said.scores),
            "finish_reason": said.finish,
        }

    def first(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, piece: Piece, before: Said) -> list[dict[str, Any]]:
        said = {
            "index": piece.choice,
            "delta": {"content": piece.text},
            "logprobs": self._logprobs(piece.scores),
            "finish_reason": None,
        }
        end = {**said, "delta": {}, "logprobs": None, "finish_reason": piece.finish}
        chunks = [said] if piece.text or piece.scores else []
        return [*chunks, end] if piece.finish else chunks

    def _logprobs(self, scores: Sequence[Score]) -> dict[str, Any] | None:
        return None if self.scores is None else self.texts.chat(scores)


class CompletionForm(Form):
    """Texts and their continuations."""

    kind, chunk_kind, prefix = "text_completion", "text_completion", "cmpl-"
    param, default_tokens = "prompt", COMPLETION_TOKENS

    def __init__(self, body: CompletionRequest, model: TextModel, most: int) -> None:
        super().__init__(model)
        self._body = body
        if body.echo and body.logprobs is not None:
            raise ApiError(400, "'echo' with 'logprobs' is not supported", param="echo",
                           code="unsupported_parameter")  # fmt: skip
        prompts = as_list(body.prompt)
        if len(prompts) > most:
            raise ApiError(400, f"{len(prompts)} prompts, at most {most} at once", param="prompt")
        encode = model.tokenizer.encode
        self.prompts = [encode(p) if isinstance(p, str) else p for p in prompts]
        self._echoes = [
            (p if isinstance(p, str) else model.tokenizer.decode(p)) if body.echo else ""
            for p in prompts
        ]

    @property
    def scores(self) -> int | None:
        return self._body.logprobs

    @property
    def ends(self) -> frozenset[int]:
        return self.model.ends

    def choice(self, index: int, said: Said) -> dict[str, Any]:
        return {
            "index": index,
            "text": self._echo(index) + said.text,
            "logprobs": self._logprobs(said.scores, 0),
            "finish_reason": said.finish,
        }

    def first(self, index: int) -> dict[str, Any] | None:
        if not self._echo(index):
            return None
        text = self._echo(index)
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def delta(self, piece: Piece, before: Said) -> list[dict[str, Any]]:
        said = {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": self._logprobs(piece.scores, len(before.text)),
            "finish_reason": piece.finish,
        }
        return [said]

    def _echo(self, index: int) -> str:
        return self._echoes[index // (self._body.n or 1)]

    def _logprobs(self, scores: Sequence[Score], offset: int) -> dict[str, Any] | None:
        return None if self.scores is None else self.texts.completion(scores, offset)


def as_list(given: Any) -> list[Any]:
    """The texts of a field that may be a text, a list of texts, tokens, or lists of tokens."""
    return given if isinstance(given, list) and not isinstance(given[0], int) else [given]


class Answer:
    """One request being answered, whole or as a stream."""

    def __init__(
        self, context: Context, request: Request, body: Sampled, form: Form, count: int
    ) -> None:
        self._context, self._request, self._body, self._form = context, request, body, form
        card = form.model.card
        self._head = {
            "id": form.prefix + uuid.uuid4().hex[:24],
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": f"fp_{card.fingerprint}",
        }
        self._said = [Said() for _ in range(count)]
        self._prompt_tokens = sum(map(len, form.prompts))
        self._asked = self._last = time.perf_counter()
        self._first_after: float | None = None
        note(request, model=card.id, prompt_tokens=self._prompt_tokens)

    async def whole(self, generation: Generation) -> Response:
        """The answer when it is whole."""
        async for pieces in generation.pieces():
            self._take(pieces)
        self._finish()
        choices = [self._form.choice(i, said) for i, said in enumerate(self._said)]
        content = {**self._head, "object": self._form.kind, "choices": choices}
        return JSONResponse({**content, "usage": self._usage()})

    async def events(self, generation: Generation) -> AsyncGenerator[bytes]:
        """The answer as it grows. A failure is an event, too."""
        begun: set[int] = set()
        try:
            async for pieces in generation.pieces():
                for piece in pieces:
                    if piece.choice not in begun:
                        begun.add(piece.choice)
                        if first := self._form.first(piece.choice):
                            yield self._chunk([first])
                    chunks = self._form.delta(piece, self._said[piece.choice])
                    self._take([piece])
                    for chunk in chunks:
                        yield self._chunk([chunk])
        except Exception as error:
            failure = errors.of(error)
            note(self._request, error=failure.message)
            yield event(failure.body)
            return
        self._finish()
        if self._body.tells_usage:
            yield self._chunk([], self._usage())
        yield DONE

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> bytes:
        chunk = {**self._head, "object": self._form.chunk_kind, "choices": choices}
        if self._body.tells_usage:  # null in all but the last
            chunk["usage"] = usage
        return event(chunk)

    def _take(self, pieces: Sequence[Piece]) -> None:
        metrics, name = self._context.metrics, self._form.model.card.id
        now = time.perf_counter()
        tokens = sum(piece.tokens for piece in pieces)
        if self._first_after is None:
            self._first_after = now - self._asked
            metrics.first_token.labels(name).observe(self._first_after)
        elif tokens:
            metrics.between.labels(name).observe((now - self._last) / tokens)
        self._last = now
        for piece in pieces:
            self._said[piece.choice].take(piece)
            if piece.finish:
                metrics.success.labels(name, piece.finish).inc()

    def _finish(self) -> None:
        metrics, name = self._context.metrics, self._form.model.card.id
        made = sum(said.tokens for said in self._said)
        metrics.whole.labels(name).observe(time.perf_counter() - self._asked)
        metrics.request_prompt.labels(name).observe(self._prompt_tokens)
        metrics.request_new.labels(name).observe(made)
        reasons = sorted({str(said.finish) for said in self._said})
        first = self._first_after and round(1000 * self._first_after, 1)
        note(self._request, new_tokens=made, finish=",".join(reasons), first_ms=first)

    def _usage(self) -> dict[str, Any]:
        made = sum(said.tokens for said in self._said)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self._prompt_tokens + made,
        }


def plans_of(body: Sampled, form: Form) -> list[Plan]:
    """One plan for each answer to a prompt. Raises ApiError on what the model cannot do."""
    model, count = form.model, body.n or 1
    slots = model.scheduler.decoder.slots
    if count > slots:
        raise ApiError(400, f"'n' is {count}, this server answers {slots} at once", param="n")
    for prompt in form.prompts:
        if len(prompt) >= model.context:
            raise too_long(model.context, len(prompt), form.param, form.param)
    asked = form.max_tokens or body.max_tokens or form.default_tokens
    named = {name: value for name in ("temperature", "top_k", "top_p", "repetition_penalty",
             "presence_penalty", "frequency_penalty")
             if (value := getattr(body, name)) is not None}  # fmt: skip
    stops = (model.tokenizer.token_id(stop) for stop in body.stops)
    ends = form.ends | {
        stop for stop in stops if stop is not None and model.tokenizer.is_special(stop)
    }
    return [
        Plan(
            min(asked, model.context),
            **named,
            bias=_bias(body, model.vocab),
            seed=None if body.seed is None else (body.seed + i) % (1 << 64),
            stop=body.stops,
            ends=frozenset(ends),
            scores=form.scores,
        )
        for i in range(count)
    ]


def _bias(body: Sampled, vocab: int) -> tuple[tuple[int, float], ...]:
    biases = []
    for name, bias in (body.logit_bias or {}).items():
        if not (name.isascii() and name.isdecimal() and int(name[:12]) < vocab and len(name) < 12):
            message = f"logit_bias names {name[:40]!r}, which is not a token below {vocab}"
            raise ApiError(400, message, param="logit_bias", code="invalid_value")
        biases.append((int(name), bias))
    return tuple(biases)


def router(context: Context) -> APIRouter:
    """The endpoints that make text."""
    routes = APIRouter(tags=["text"])
    settings = context.settings

    async def answer(request: Request, body: Sampled, make: Any) -> Response:
        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(context.store.lease(body.model, TextModel))
            model.scheduler.check_room(body.n or 1)  # before work is done for nothing

            def prepared() -> tuple[Form, list[Plan]]:
                form = make(model)
                return form, plans_of(body, form)

            # a template waits for its process, and long texts take long
            form, plans = await asyncio.to_thread(prepared)
            answered = Answer(context, request, body, form, len(plans) * len(form.prompts))
            generation = Generation(
                model.scheduler, client_of(request), form.prompts, plans, settings.timeout
            )
            stack.callback(generation.cancel)
            if body.stream:
                return EventStream(answered.events(generation), settings.ping, stack.pop_all())
            return await while_connected(request, answered.whole(generation))

    @routes.post("/v1/chat/completions", responses=replies.of(replies.Chat, stream=True))
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation, by the model's chat template."""
        return await answer(request, body, lambda model: ChatForm(body, model))

    @routes.post("/v1/completions", responses=replies.of(replies.Completion, stream=True))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """Continue texts."""
        return await answer(
            request, body, lambda model: CompletionForm(body, model, settings.inputs)
        )

    return routes
