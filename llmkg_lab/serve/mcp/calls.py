"""The work of a tool in a thread: progress told, errors in words, stopped if nobody waits."""

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.progress import Progress, Step

T = TypeVar("T")
AT_ONCE = 4  # threads in which tools work


class StoppedError(BaseException):
    """The client has given up; nothing on the way takes it for a failure of its own."""


class Calls:
    """Runs the work of tools, a few at a time."""

    def __init__(self) -> None:
        self._limiter: anyio.CapacityLimiter | None = None

    async def run(self, context: Context, work: Callable[[Progress], T]) -> T:
        """Return what ``work`` returns. Raises ToolError where it raises LabError.

        Its progress goes to the client. Where the client cancels, the next report of progress
        stops the work; what was committed stays.
        """
        if self._limiter is None:  # belongs to the running loop
            self._limiter = anyio.CapacityLimiter(AT_ONCE)
        stopped = threading.Event()

        def progress(step: Step) -> None:
            if stopped.is_set():
                raise StoppedError
            total = float(step.total) if step.total else None
            try:
                anyio.from_thread.run(context.report_progress, float(step.done), total, step.title)
            except (anyio.get_cancelled_exc_class(), RuntimeError):
                raise StoppedError from None

        def worked() -> T | None:
            try:
                return work(progress)
            except StoppedError:
                return None

        try:
            found = await anyio.to_thread.run_sync(
                worked, abandon_on_cancel=True, limiter=self._limiter
            )
        except LabError as error:
            hint = f"\n→ {error.hint}" if error.hint else ""
            raise ToolError(f"{error.message}{hint}") from error
        finally:
            stopped.set()
        return found  # type: ignore[return-value]  # None only where nobody waits any more
