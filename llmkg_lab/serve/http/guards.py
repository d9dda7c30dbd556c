"""What stands before every endpoint, mounted ones too: host, token and body are checked here.

All of it is plain ASGI. Middleware that wraps responses (BaseHTTPMiddleware) breaks the
cancellation of streams.
"""

import asyncio
import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmkg_lab.serve.http.errors import ApiError

OPEN = ("/health", "/ready")  # what a balancer asks, without a token
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
DRAINED = 64 << 20  # bytes of a body that are read to be able to answer
TOGETHER = 32  # bodies of the largest size that all requests may have together
CLIENT = "client"  # in the scope's state: whose turn a request counts as


class HostGuard:
    """Refuses names that are not this server's: a page that rebinds its own name to loopback."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            named = Headers(scope=scope).get("host", "")
            if _without_port(named).lower() not in self._hosts:
                error = ApiError(421, f"this server is not {named!r}", code="unknown_host")
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


class TokenGuard:
    """Lets requests with a bearer token in; without tokens, all. Clients are told apart here."""

    def __init__(self, app: ASGIApp, tokens: Iterable[str]) -> None:
        self._app = app
        self._digests = [_digest(token.encode()) for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            digest = _digest(token.strip().encode()) if kind.lower() == "bearer" else b""
            # all are compared, so that the time tells nothing
            known = sum(hmac.compare_digest(digest, each) for each in self._digests)
            if self._digests and not known and scope["path"] not in OPEN:
                error = ApiError(401, "a bearer token of this server is needed",
                                 code="invalid_api_key")  # fmt: skip
                await error.response()(scope, receive, send)
                return
            address = (scope.get("client") or ("",))[0]
            scope.setdefault("state", {})[CLIENT] = digest.hex()[:16] if known else address
        await self._app(scope, receive, send)


class BodyGuard:
    """Reads a request's body before its endpoint runs; refuses one too large or too slow.

    The bodies of all requests together have a bound, too.
    """

    def __init__(self, app: ASGIApp, largest: int, seconds: float) -> None:
        self._app, self._largest, self._seconds = app, largest, seconds
        self._room = TOGETHER * largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._seconds):
                body = await self._read(scope, receive)
        except TimeoutError:
            late = f"the body did not come within {self._seconds:.0f} s"
            await _refuse(ApiError(408, late, code="body_timeout"), scope, receive, send)
        except ApiError as error:
            await _refuse(error, scope, receive, send)
        else:
            if body is not None:
                self._room -= len(body)
                try:
                    await self._app(scope, _replayed(body, receive), send)
                finally:
                    self._room += len(body)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, None where the client left. Raises ApiError where it is too large."""
        length = Headers(scope=scope).get("content-length", "0")
        size = int(length) if length.isdecimal() and len(length) < 20 else DRAINED
        parts: list[bytes] = []
        read, more = 0, size <= DRAINED
        while more and read <= DRAINED:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            read += len(message.get("body", b""))
            more = message.get("more_body", False)
            # a client that still sends hears nothing: what is too large is read, and not kept
            parts.append(message.get("body", b"") if read <= self._largest else b"")
        if read > self._largest or size > DRAINED:
            large = f"the body has more than {self._largest:,} bytes"
            raise ApiError(413, large, code="body_too_large")
        if read > self._room:
            raise ApiError(429, "other requests are too large", code="bodies_too_large", retry=5)
        return b"".join(parts)


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, and close: what was not read would be taken for the next request."""
    await error.response({"Connection": "close"})(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, as one message; then what comes behind it: the end alone."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
