"""Errors as OpenAI's server words them: a status, and JSON with message, type, param and code."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from llmkg_lab.artifact import ArtifactError
from llmkg_lab.base.errors import LabError
from llmkg_lab.llmkg import LoadingError
from llmkg_lab.llmkg.pool import MemoryBudgetError
from llmkg_lab.runtime import BackendError
from llmkg_lab.serve.engine.generation import LateError
from llmkg_lab.serve.engine.scheduler import FullError, StoppedError
from llmkg_lab.serve.engine.store import UnknownModelError, WrongModelError

log = logging.getLogger(__name__)

INVALID, SERVER, BUSY = "invalid_request_error", "server_error", "overloaded_error"


class ApiError(Exception):
    """A request that is answered by an error.

    Args:
        status: Of HTTP.
        param: The field of the request that is at fault.
        code: A word for programs.
        retry: Seconds after which to ask again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry = param, code, retry

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """What the client reads, in a response or as an event of a stream."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        """The response to a request that this error ends."""
        more = {"Retry-After": str(self.retry)} if self.retry is not None else {}
        if self.status == 401:
            more["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, {**(headers or {}), **more})


def of(error: Exception) -> ApiError:
    """What a client is told of an error; what went wrong within is in the log alone."""
    match error:
        case ApiError():
            return error
        case UnknownModelError():
            return ApiError(404, error.message, param="model", code="model_not_found")
        case WrongModelError():
            return ApiError(400, error.message, param="model", code="wrong_model")
        case FullError():
            return ApiError(429, error.message, kind=BUSY, code="queue_full", retry=error.retry)
        case MemoryBudgetError() | StoppedError():
            return ApiError(503, error.message, kind=BUSY, code="unavailable", retry=5)
        case LateError():
            return ApiError(504, error.message, kind=SERVER, code="timeout")
        case ArtifactError() | BackendError() | LoadingError():
            log.error("a model failed", exc_info=error)
        case LabError():  # what the runtime refuses is the request's fault; the hint helps here too
            return ApiError(400, f"{error.message} ({error.hint})" if error.hint else error.message)
        case _:
            log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed; its log says why", kind=SERVER, code="internal_error")


def of_validation(found: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of what is wrong with a request's fields."""
    first = found[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    if first["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"Unrecognized request argument supplied: {'.'.join(place)}")
    param = ".".join(place) or None
    where = f"'{param}': " if param else ""
    return ApiError(400, f"{where}{first['msg']}", param=param, code="invalid_value")


def of_http(error: HTTPException, request: Request) -> ApiError:
    """What the framework itself refuses: unknown paths, wrong methods, broken bodies."""
    if error.status_code == 404:
        return ApiError(404, f"there is no {request.method} {request.url.path}", code="not_found")
    return ApiError(error.status_code, str(error.detail))
