"""What endpoints share: the models, the metrics, and what is noted of a request for the log."""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from llmkg_lab.serve.engine.store import ModelStore
from llmkg_lab.serve.http.errors import ApiError
from llmkg_lab.serve.http.guards import CLIENT
from llmkg_lab.serve.metrics import Metrics
from llmkg_lab.serve.settings import Settings

T = TypeVar("T")
NOTES, LEFT = "notes", "left"  # in the scope's state: for the log; that the client went away


@dataclass
class Context:
    """A running server."""

    settings: Settings
    metrics: Metrics
    store: ModelStore
    ready: bool = False
    draining: bool = False
    failed: str = ""  # what could not be loaded
    in_flight: int = 0  # requests being answered


class ClientLeftError(Exception):
    """The client closed the connection before the answer was there."""


def client_of(request: Request) -> str:
    """Whose turn a request counts as: its token, or its address."""
    return str(request.scope["state"].get(CLIENT, ""))


def note(request: Request, **values: object) -> None:
    """Add to what the log says of a request."""
    request.scope["state"].setdefault(NOTES, {}).update(values)


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """What ``work`` returns. Where the client leaves before, it is cancelled.

    Raises ClientLeftError.
    """
    working = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeftError
        return working.result()
    finally:
        for task in (working, left):
            task.cancel()
        await asyncio.gather(working, left, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def too_long(limit: int, tokens: int, what: str, param: str) -> ApiError:
    """The error of a text that has more tokens than the model takes, with both numbers."""
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens. However, your {what} resulted in "
        f"{tokens} tokens. Please reduce the length of the {what}.",
        param=param,
        code="context_length_exceeded",
    )
