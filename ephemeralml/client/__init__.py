"""Clients of the runtime: attest first, ask then, verify every receipt.

`connect` gives one session; `httpx_client` and `async_httpx_client` put the
same checks below an ordinary HTTP client (serving section 4).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ephemeralml.client.async_session import AsyncSession, async_connect
    from ephemeralml.client.httpx_transport import async_httpx_client, httpx_client
    from ephemeralml.client.reply import Receipted, Reply
    from ephemeralml.client.session import Session, connect

__all__ = [
    "AsyncSession",
    "Receipted",
    "Reply",
    "Session",
    "async_connect",
    "async_httpx_client",
    "connect",
    "httpx_client",
]

_HOMES = {
    "AsyncSession": "async_session",
    "Receipted": "reply",
    "Reply": "reply",
    "Session": "session",
    "async_connect": "async_session",
    "async_httpx_client": "httpx_transport",
    "connect": "session",
    "httpx_client": "httpx_transport",
}


def __getattr__(name: str) -> Any:
    # httpx is an extra: `connect` must not need it, nor pay for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
