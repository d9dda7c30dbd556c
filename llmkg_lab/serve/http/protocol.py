"""HTTP/1.1 as uvicorn speaks it, with a bound on the time of a request's head.

Before an application hears of a request there is only a connection. A client that sends nothing
on it, or its head a byte at a time, would keep it, and its file handle, for ever.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from llmkg_lab.serve.http.errors import ApiError


class BoundedProtocol(H11Protocol):
    """A connection that is closed where a head takes longer than ``timeout_keep_alive``.

    What is not HTTP is refused in JSON, as everything else is.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._await_head()
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._end(ApiError(400, msg, code="invalid_http"))

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        self._late = None
        if self.conn.trailing_data[0]:
            late = f"the head did not come within {self.timeout_keep_alive:.0f} s"
            self._end(ApiError(408, late, code="head_timeout"))
        else:
            self.transport.close()

    def _end(self, error: ApiError) -> None:
        """Answer without the application, and close."""
        response = error.response({"Connection": "close"})
        head = h11.Response(status_code=error.status, headers=response.raw_headers)
        events: tuple[Any, ...] = (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage())
        for event in events:
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
