"""Server-sent events, with a comment where nothing is said for long."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from llmkg_lab.serve.http.context import LEFT, ClientLeftError

DONE = b"data: [DONE]\n\n"
PING = b": still here\n\n"
STALLED = 60.0  # seconds for a client to take an event


def event(data: Mapping[str, object]) -> bytes:
    """One event."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


class EventStream(Response):
    """A stream of events, which ends when the client leaves, or takes none for a minute.

    stack: what is closed behind it, however it ends.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes], ping: float, stack: AsyncExitStack) -> None:
        self.status_code, self.background = 200, None
        self._events, self._ping, self._stack = events, ping, stack
        # nginx holds streams back otherwise
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        left = asyncio.ensure_future(_left(receive))
        try:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            async for part in self._paced(left):
                async with asyncio.timeout(STALLED):
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (ClientLeftError, TimeoutError, OSError):
            scope["state"][LEFT] = True  # nobody is there to be told
        finally:
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            await self._stack.aclose()

    async def _paced(self, left: "asyncio.Future[None]") -> AsyncIterator[bytes]:
        """The events and the comments in between. Raises ClientLeftError."""
        coming: asyncio.Future[bytes] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(self._events))
                while not coming.done():
                    waited: set[asyncio.Future[Any]] = {coming, left}
                    await asyncio.wait(
                        waited, timeout=self._ping, return_when=asyncio.FIRST_COMPLETED
                    )
                    if left.done():
                        raise ClientLeftError
                    if not coming.done():
                        yield PING
                try:
                    part = coming.result()
                except StopAsyncIteration:
                    return
                yield part
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)
            await self._events.aclose()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
