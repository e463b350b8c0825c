"""Errors in OpenAI's envelope.

Their messages go to the caller through the channel and nowhere else, so they
may name the caller's own parameters; they never quote a prompt.
"""

from collections.abc import Mapping

import orjson

from ephemeralml.attestation.verdict import printable
from ephemeralml.enclave.api.messages import JSON_HEADERS, ApiResponse
from ephemeralml.errors import EphemeralError

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
}


class ApiError(EphemeralError):
    """A request that is answered with an error body.

    Args:
        status: The HTTP status, 4xx or 5xx.
        message: What is wrong, for people.
        param: The request's parameter at fault, or None.
        code: A short name for programs, or None.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status."""
        self.param = None if param is None else printable(param)
        """The parameter at fault, or None."""
        self.code = code
        """A short name for programs, or None."""
        self.headers = dict(headers or {})
        """Further response headers."""

    def response(self) -> ApiResponse:
        """Return the error as OpenAI's clients expect it."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        body = {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, default),
                "param": self.param,
                "code": self.code,
            }
        }
        return ApiResponse(self.status, orjson.dumps(body), {**JSON_HEADERS, **self.headers})


def bad_parameter(name: str, message: str, *, code: str = "invalid_value") -> ApiError:
    """Return the 400 that names a parameter."""
    return ApiError(400, message, param=name, code=code)


def unsupported_parameter(name: str) -> ApiError:
    """Return the 400 for a parameter that this runtime does not have."""
    return ApiError(
        400, f"the parameter {printable(name)!r} is not supported", param=name, code="unsupported_parameter"
    )


def not_found(path: str) -> ApiError:
    """Return the 404 for a path that nobody serves."""
    return ApiError(404, f"there is no {printable(path, 128)}", code="unknown_url")


def method_not_allowed(method: str, allowed: str) -> ApiError:
    """Return the 405 that says which method the path takes."""
    return ApiError(
        405,
        f"the method {printable(method, 16)} is not allowed here, use {allowed}",
        code="method_not_allowed",
        headers={"allow": allowed},
    )


def model_not_found(name: str) -> ApiError:
    """Return the 404 for a model that is not loaded."""
    return ApiError(
        404, f"the model {printable(name, 128)!r} is not served here", param="model", code="model_not_found"
    )


def unauthorized() -> ApiError:
    """Return the 401 for a missing or unknown bearer token."""
    return ApiError(401, "no valid bearer token in the authorization header", code="invalid_api_key")


def overloaded(retry_after: int = 1) -> ApiError:
    """Return the 429 of a full queue."""
    return ApiError(
        429,
        "too many requests are waiting for this model",
        code="queue_full",
        headers={"retry-after": str(retry_after)},
    )


def unavailable(message: str, code: str) -> ApiError:
    """Return a 503."""
    return ApiError(503, message, code=code, headers={"retry-after": "1"})


def internal() -> ApiError:
    """Return the 500 that says nothing about its cause."""
    return ApiError(500, "the request failed inside the runtime", code="internal_error")
