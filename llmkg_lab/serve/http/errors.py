"""Errors as OpenAI's server words them: a status, and JSON with message, type, param and code."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from llmkg_lab.base.errors import LabError

INVALID, SERVER = "invalid_request_error", "server_error"


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


def of_lab_error(error: LabError) -> ApiError:
    """What the runtime refuses is the request's fault, and the hint helps here too."""
    hint = f" ({error.hint})" if error.hint else ""
    return ApiError(400, f"{error.message}{hint}")


def internal() -> ApiError:
    """What went wrong within is in the log alone."""
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
