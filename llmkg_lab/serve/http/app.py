"""The application: endpoints, what guards them, and what other rooms mount beside them."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.version import __version__
from llmkg_lab.serve.engine.store import ModelStore
from llmkg_lab.serve.http import encoders, errors, monitor, text
from llmkg_lab.serve.http.context import ClientLeftError, Context
from llmkg_lab.serve.http.errors import ApiError
from llmkg_lab.serve.http.guards import LOOPBACK, BodyGuard, HostGuard, TokenGuard
from llmkg_lab.serve.http.journal import Journal
from llmkg_lab.serve.metrics import Metrics
from llmkg_lab.serve.settings import Settings

log = logging.getLogger(__name__)
CONTEXT = "context"  # in the state that the lifespan gives to every request, and to the server
LOOK = 5.0  # seconds between two looks at memory and caches


@dataclass(frozen=True)
class Extension:
    """What another room adds to the server, behind the same checks of host, token and body.

    Args:
        mount: Adds routes or mounts applications; called once, after our own routes are there.
            The models and the metrics are in the application's ``state.context``.
        lifespan: Entered before the first request, left after the last.
    """

    mount: Callable[[FastAPI], None]
    lifespan: Callable[[], AbstractAsyncContextManager[object]] = contextlib.nullcontext


def create_app(settings: Settings, extensions: Sequence[Extension] = ()) -> ASGIApp:
    """Return the server's ASGI application. Raises LabError where a model is not an artifact."""
    metrics = Metrics()
    context = Context(settings, metrics, ModelStore(settings, metrics.model))
    api = FastAPI(
        title="llmkg-lab",
        description="Small language models, with OpenAI's interface.",
        version=__version__,
        lifespan=_lifespan(context, extensions),
    )
    api.state.context = context
    for module in (text, encoders, monitor):
        api.include_router(module.router(context))
    _handle_errors(api)
    for extension in extensions:
        extension.mount(api)
    _describe(api)
    return _guarded(api, context)


def _guarded(api: ASGIApp, context: Context) -> ASGIApp:
    """The checks around all routes, from the last to the first."""
    settings = context.settings
    app: ASGIApp = BodyGuard(api, settings.body, settings.upload)
    app = TokenGuard(app, settings.tokens)
    if settings.origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after"),
        )
    if settings.loopback:
        app = HostGuard(app, (*LOOPBACK, *settings.hosts))
    return Journal(app, context)


def _lifespan(
    context: Context, extensions: Sequence[Extension]
) -> Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Any]]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(context.store.close)
            for extension in extensions:
                await stack.enter_async_context(extension.lifespan())
            tasks = [asyncio.create_task(work(context)) for work in (_preload, _look)]
            yield {CONTEXT: context}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return lifespan


async def _preload(context: Context) -> None:
    """Open the models, so that the first request need not wait; probes are answered meanwhile."""
    try:
        if context.settings.preload:
            await context.store.preload()
        context.ready = True
        log.info("ready", extra={"models": list(context.store.loaded)})
    except Exception as error:
        context.failed = f"a model cannot be loaded: {error}"
        log.exception("a model cannot be loaded")


async def _look(context: Context) -> None:
    while True:
        monitor.measure(context)
        await asyncio.sleep(LOOK)


def _handle_errors(api: FastAPI) -> None:
    """Answer every error in OpenAI's words."""

    async def answered(_request: Request, error: Exception) -> Response:
        return errors.of(error).response()

    for kind in (ApiError, LabError, Exception):
        api.add_exception_handler(kind, answered)

    @api.exception_handler(ClientLeftError)
    async def left(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)

    @api.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return errors.of_validation(error.errors()).response()

    @api.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        return errors.of_http(error, request).response(error.headers)


def _describe(api: FastAPI) -> None:
    """Take the framework's own status for bad requests, which is 400 here, off the description."""
    described = api.openapi()
    for path in described["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        described["components"]["schemas"].pop(name, None)
