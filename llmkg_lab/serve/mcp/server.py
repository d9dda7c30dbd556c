"""The server: tools over a desk, on standard input and output or mounted in an application."""

import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from mcp.server import MCPServer, ServerRequestContext
from mcp.server.context import CallNext
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS

from llmkg_lab.base.version import __version__
from llmkg_lab.serve.mcp import knowledge_tools, model_tools
from llmkg_lab.serve.mcp.calls import Calls
from llmkg_lab.serve.mcp.desk import Desk
from llmkg_lab.serve.mcp.watched import Watched

PATH = "/mcp"
INSTRUCTIONS = """\
A knowledge graph that stays between conversations, and small language models on this machine.
Store what is worth keeping with store_fact and store_knowledge; ask with find_facts, hybrid_search
and ask_question, which cites what it answers from and says when it does not know.
"""


def create_server(desk: Desk, watched: Watched | None = None) -> MCPServer:
    """Return a server with all tools, whose calls are ``watched``."""
    server: MCPServer = MCPServer(
        "llmkg-lab",
        instructions=INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
        middleware=[_without_prompts, *([watched] if watched else [])],
    )
    calls = Calls()
    knowledge_tools.register(server, desk, calls)
    model_tools.register(server, desk, calls)
    return server


async def _without_prompts(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> Any:
    """Say that there is no such prompt: the SDK's own answer is a traceback in the log."""
    if ctx.method == "prompts/get":
        raise MCPError(INVALID_PARAMS, "there are no prompts here, only tools")
    return await call_next(ctx)


def serve_stdio(desk: Desk) -> None:
    """Serve one client on standard input and output, until it closes them.

    Nothing but the protocol is on standard output: logs, and whatever a library prints, go to
    standard error.
    """
    import anyio

    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    with desk:
        anyio.run(create_server(desk).run_stdio_async)


def mounted(
    desk: Desk,
) -> tuple[Callable[[Any], None], Callable[[], AbstractAsyncContextManager[object]]]:
    """What an application needs to serve it at ``/mcp``: how to mount it, and its lifespan.

    Whom it answers is the application's to say: hosts and tokens are checked before.
    """
    watched = Watched()
    server = create_server(desk, watched)
    unguarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(streamable_http_path=PATH, transport_security=unguarded)

    def mount(api: Any) -> None:
        watched.observe = api.state.context.metrics.tool
        api.router.routes.extend(app.routes)  # the one path; other unknown ones stay the api's

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        watched.tools = {tool.name for tool in await server.list_tools()}
        with desk:
            async with server.session_manager.run():
                yield

    return mount, lifespan
