"""The answers to a request, as a program of asyncio waits for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from llmkg_lab.base.errors import LabError
from llmkg_lab.serve.engine.continuation import Piece, Plan
from llmkg_lab.serve.engine.scheduler import Job, Scheduler


class LateError(LabError):
    """A request took longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request took more than {seconds:g} s")


class Generation:
    """Some prompts being continued, each by as many plans.

    seconds: that all answers may take, waiting included.
    Raises FullError where too many sequences wait; nothing of the request runs then.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        client: str,
        prompts: Sequence[Sequence[int]],
        plans: Sequence[Plan],
        seconds: float,
    ) -> None:
        self._scheduler, self._seconds = scheduler, seconds
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._news: asyncio.Queue[list[Piece] | Exception] = asyncio.Queue()
        self._left = len(prompts) * len(plans)
        self._jobs: list[Job] = []
        try:
            for i, prompt in enumerate(prompts):
                job = Job(client, prompt, plans, i * len(plans), self._deliver)
                scheduler.submit(job)
                self._jobs.append(job)
        except BaseException:
            self.cancel()
            raise

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What is new, until every answer has finished.

        Raises what a job failed by, and LateError at the end of the time.

        However it is left, what has not finished is given up.
        """
        try:
            while self._left:
                news = await self._next()
                if isinstance(news, Exception):
                    raise news
                self._left -= sum(piece.finish is not None for piece in news)
                yield news
        finally:
            if self._left:
                self.cancel()

    async def _next(self) -> list[Piece] | Exception:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._news.get()
        except TimeoutError:
            raise LateError(self._seconds) from None

    def cancel(self) -> None:
        """Give up what has not finished."""
        for job in self._jobs:
            self._scheduler.cancel(job)

    def _deliver(self, news: list[Piece] | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the model did
            self._loop.call_soon_threadsafe(self._news.put_nowait, news)
