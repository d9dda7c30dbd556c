"""The outermost layer: every request gets an id, an answer, a line in the log, and is counted."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmkg_lab.serve.http import errors
from llmkg_lab.serve.http.context import LEFT, NOTES, Context
from llmkg_lab.serve.http.errors import ApiError
from llmkg_lab.serve.http.guards import CLIENT, OPEN

log = logging.getLogger("llmkg_lab.serve.requests")
ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
HEADER = "x-request-id"
QUIET = (*OPEN, "/metrics")  # what is asked every few seconds is logged where it fails


class Journal:
    """Logs and counts requests; refuses them while the server ends."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app, self._context = app, context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        named = Headers(scope=scope).get(HEADER, "")
        name = named if ID.fullmatch(named) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        started, status = time.perf_counter(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        self._count(1)
        try:
            if self._context.draining and scope["path"] not in QUIET:
                ending = ApiError(
                    503, "the server ends", kind=errors.BUSY, code="draining", retry=5
                )
                await ending.response({"Connection": "close"})(scope, receive, told)
            else:
                await self._app(scope, receive, told)
        except Exception as error:  # what was not answered by a handler
            if not status:
                await errors.of(error).response()(scope, receive, told)
        finally:
            self._count(-1)
            self._write(scope, name, 499 if state.get(LEFT) else status, started)

    def _count(self, change: int) -> None:
        self._context.in_flight += change
        self._context.metrics.connections.inc(change)

    def _write(self, scope: Scope, name: str, status: int, started: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        metrics = self._context.metrics
        metrics.http.labels(route, str(status)).inc()
        if status == 499:
            metrics.cancelled.labels(route).inc()
        if scope["path"] in QUIET and status < 500:
            return
        entry = {
            "request_id": name,
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * (time.perf_counter() - started), 1),
            "client": scope["state"].get(CLIENT, ""),
            **scope["state"].get(NOTES, {}),
        }
        log.info("request", extra=entry)
