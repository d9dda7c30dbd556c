"""Who is told of each call of a tool: its name, how it ended, how long it took."""

import time
from collections.abc import Callable, Collection
from typing import Any

from mcp.server import ServerRequestContext
from mcp.server.context import CallNext
from pydantic import BaseModel

Observe = Callable[[str, str, float], None]  # tool, outcome (ok, error, cancelled), seconds
UNKNOWN = "unknown"  # for all tools that do not exist: a client may ask for any number of names


class Watched:
    """Middleware that tells ``observe``; nobody, until an application sets it."""

    def __init__(self) -> None:
        self.observe: Observe | None = None
        self.tools: Collection[str] = ()

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> Any:
        if ctx.method != "tools/call" or self.observe is None:
            return await call_next(ctx)
        name, began = str((ctx.params or {}).get("name")), time.perf_counter()
        outcome = "cancelled"
        try:
            result = await call_next(ctx)
            outcome = "error" if _failed(result) else "ok"
            return result
        except Exception:
            outcome = "error"
            raise
        finally:
            tool = name if name in self.tools else UNKNOWN
            self.observe(tool, outcome, time.perf_counter() - began)


def _failed(result: BaseModel | dict[str, Any] | None) -> bool:
    if isinstance(result, dict):
        return bool(result.get("isError"))
    return bool(getattr(result, "is_error", False))
