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
    """Reads a request's body before its endpoint runs; refuses one too large or too slow."""

    def __init__(self, app: ASGIApp, largest: int, seconds: float) -> None:
        self._app, self._largest, self._seconds = app, largest, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._read(scope, receive)
        except ApiError as error:  # what was not read would be taken for the next request
            await error.response({"Connection": "close"})(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, None where the client left. Raises ApiError."""
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._largest:
            raise self._too_large()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    more = message.get("more_body", False)
                    if sum(map(len, parts)) > self._largest:
                        raise self._too_large()
        except TimeoutError:
            late = f"the body did not come within {self._seconds:.0f} s"
            raise ApiError(408, late, code="body_timeout") from None
        return b"".join(parts)

    def _too_large(self) -> ApiError:
        message = f"the body has more than {self._largest:,} bytes"
        return ApiError(413, message, code="body_too_large")


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
