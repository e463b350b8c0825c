"""Requests and responses as the API sees them: complete bodies, no channel."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

JSON_HEADERS: Mapping[str, str] = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request whose body has arrived completely."""

    method: str
    path: str
    """The path as sent, query included."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """Real token counts, for the ``end`` message (channel section 4)."""

    prompt_tokens: int
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """What goes back: status, headers, exact body bytes."""

    status: int
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)
    usage: Usage | None = None


def json_response(document: object, *, status: int = 200) -> ApiResponse:
    """Return *document* as a JSON response."""
    return ApiResponse(status, orjson.dumps(document))
