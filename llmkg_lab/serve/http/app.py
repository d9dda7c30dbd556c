"""The application: endpoints, what guards them, and what other rooms mount beside them."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from llmkg_lab.base.errors import LabError
from llmkg_lab.base.version import __version__
from llmkg_lab.serve.http import errors
from llmkg_lab.serve.http.errors import ApiError
from llmkg_lab.serve.http.guards import LOOPBACK, BodyGuard, HostGuard, TokenGuard
from llmkg_lab.serve.settings import Settings


@dataclass(frozen=True)
class Extension:
    """What another room adds to the server, behind the same checks of host, token and body.

    Args:
        mount: Adds routes or mounts applications; called once, after our own routes are there.
        lifespan: Entered before the first request, left after the last.
    """

    mount: Callable[[FastAPI], None]
    lifespan: Callable[[], AbstractAsyncContextManager[object]] = contextlib.nullcontext


def create_app(settings: Settings, extensions: Sequence[Extension] = ()) -> ASGIApp:
    """Return the server's ASGI application."""
    api = FastAPI(title="llmkg-lab", version=__version__, lifespan=_lifespan(extensions))
    _handle_errors(api)
    for extension in extensions:
        extension.mount(api)
    return _guarded(api, settings)


def _guarded(api: ASGIApp, settings: Settings) -> ASGIApp:
    """The checks around all routes, from the last to the first."""
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
    return app


def _lifespan(
    extensions: Sequence[Extension],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for extension in extensions:
                await stack.enter_async_context(extension.lifespan())
            yield

    return lifespan


def _handle_errors(api: FastAPI) -> None:
    """Answer every error in OpenAI's words."""

    @api.exception_handler(ApiError)
    async def _(_request: Request, error: ApiError) -> Response:
        return error.response()

    @api.exception_handler(LabError)
    async def _(_request: Request, error: LabError) -> Response:
        return errors.of_lab_error(error).response()

    @api.exception_handler(RequestValidationError)
    async def _(_request: Request, error: RequestValidationError) -> Response:
        return errors.of_validation(error.errors()).response()

    @api.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        return errors.of_http(error, request).response(error.headers)
