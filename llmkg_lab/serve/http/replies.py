"""What the server answers, as its OpenAPI description says it.

The answers themselves are built by hand: validating each would cost more than making them.
"""

from typing import Any, Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class Usage(BaseModel):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Top(BaseModel):
    """A token with its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class Scored(Top):
    """A token of an answer, with the likeliest in its place."""

    top_logprobs: list[Top]


class ChatLogprobs(BaseModel):
    """The tokens of an answer."""

    content: list[Scored]
    refusal: None


class Message(BaseModel):
    """An answer."""

    role: Literal["assistant"]
    content: str
    refusal: None
    annotations: list[Any]


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class Made(BaseModel):
    """What all whole answers have."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: Usage


class Chat(Made):
    """The answers to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Logprobs(BaseModel):
    """The tokens of a continuation."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One of the continuations."""

    index: int
    text: str
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Made):
    """The continuations of texts."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]


class InputUsage(BaseModel):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Vector(BaseModel):
    """The embedding of one text: numbers, or the base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(BaseModel):
    """The embeddings of texts."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: InputUsage


class Ranked(BaseModel):
    """A passage; the score is between 0 and 1, the higher the better."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None
    truncated: bool | None = None


class Ranking(BaseModel):
    """Passages, the best first."""

    id: str
    model: str
    results: list[Ranked]
    usage: InputUsage


class Model(BaseModel):
    """A model that may be asked."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    context_length: int
    loaded: bool


class Models(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """How the server is."""

    status: str


STATUSES = {
    400: "The request is wrong, or asks for what is not supported.",
    401: "No valid token.",
    404: "No such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    421: "The Host is not this server's.",
    429: "Too many requests wait; Retry-After says when to ask again.",
    500: "The server failed.",
    503: "The server ends, or has no memory for the model at the moment.",
    504: "The request took longer than it may.",
}


def of(reply: type[BaseModel], stream: bool = False) -> dict[int | str, dict[str, Any]]:
    """The responses of an endpoint, for its description."""
    good: dict[str, Any] = {"model": reply, "description": "The answer."}
    if stream:
        good["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: good, **{s: {"model": Error, "description": d} for s, d in STATUSES.items()}}


def of_health(status: int) -> dict[int | str, dict[str, Any]]:
    """The responses of an endpoint for probes, which is not well at ``status``."""
    return {s: {"model": Health, "description": d} for s, d in ((200, "Yes."), (status, "No."))}
