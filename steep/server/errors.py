"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`."""

from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, headers: Mapping[str, str] | None = None) -> JSONResponse:
        retry = {"retry-after": "1"} if self.status in (429, 503) else {}
        return JSONResponse(self.body, self.status, retry | dict(headers or {}))


def refused(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that cannot be carried out as it was asked."""
    return ApiError(400, message, param, code)


def invalid(error: RequestValidationError) -> ApiError:
    """The first of the fields that are wrong. What they hold is not repeated."""
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    match first["type"]:
        case "extra_forbidden":
            return refused(f"the field {param!r} is not known here", param, "unknown_parameter")
        case "missing":
            return refused(
                f"the field {param!r} is missing" if param else "there is no body", param, "missing_required_parameter"
            )
        case "json_invalid":
            return refused(f"the body is not JSON: {first['ctx']['error']}", None, "invalid_json")
        case _:
            return refused(f"{param or 'the body'}: {first['msg']}", param, "invalid_value")
