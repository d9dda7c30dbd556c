"""One computation at a time, and clients take turns: for encoders, which have no slots."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from llmkg_lab.serve.engine.queue import FairQueue
from llmkg_lab.serve.engine.scheduler import FullError

T = TypeVar("T")


class Turns:
    """Runs functions in a thread of its own, one after the other.

    bound: calls that may wait.
    """

    def __init__(self, name: str, bound: int) -> None:
        self._executor = ThreadPoolExecutor(1, f"encode {name}")
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()
        self._bound, self._busy = bound, False
        self._pace = 0.1  # seconds of a call, a moving average

    def load(self) -> tuple[int, int]:
        """How many calls wait and run."""
        return len(self._waiting), int(self._busy)

    async def run(self, client: str, function: Callable[[], T]) -> T:
        """What ``function`` returns, run when it is its client's turn. Raises FullError."""
        await self._turn(client)
        loop = asyncio.get_running_loop()
        started = loop.time()
        running = loop.run_in_executor(self._executor, function)
        # a thread cannot be stopped: who gives up goes, and the turn ends when the thread is done
        running.add_done_callback(lambda _: self._pass_on(loop.time() - started))
        return await asyncio.shield(running)

    def close(self) -> None:
        """Let the call at hand end; take no others."""
        self._executor.shutdown()

    async def _turn(self, client: str) -> None:
        if not self._busy:
            self._busy = True
            return
        if len(self._waiting) >= self._bound:
            retry = min(60, int(self._pace * len(self._waiting)) + 1)
            raise FullError(len(self._waiting), retry)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.put(client, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not self._waiting.remove(client, turn) and not turn.cancelled():
                self._next()  # it was given the turn at that moment
            raise

    def _pass_on(self, seconds: float) -> None:
        self._pace += 0.1 * (seconds - self._pace)
        self._next()

    def _next(self) -> None:
        self._busy = False
        while len(self._waiting):
            turn = self._waiting.pop()
            if not turn.done():
                self._busy = True
                turn.set_result(None)
                return
