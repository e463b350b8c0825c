"""Run AI models inside hardware TEEs, with a signed receipt for every inference.

The public API is `connect` (one attested session), `httpx_client` and
`async_httpx_client` (the same below an ordinary HTTP client or SDK) and `Policy`
(what they accept)::

    from pathlib import Path
    from ephemeralml import Policy, connect

    with connect("tcp://127.0.0.1:7443", policy=Policy.load(Path("policy.json"))) as session:
        reply = session.post("/v1/embeddings", json={"model": "minilm-l6-v2", "input": "hello"})
        reply.json(), reply.receipt  # verified before it was returned

Each name is imported on first use, so that ``import ephemeralml`` alone loads
nothing else.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Policy", "__version__", "async_httpx_client", "connect", "httpx_client"]

if TYPE_CHECKING:
    from ephemeralml.attestation.policy import Policy
    from ephemeralml.client import async_httpx_client, connect, httpx_client

_PUBLIC = {
    "Policy": "ephemeralml.attestation.policy",
    "async_httpx_client": "ephemeralml.client",
    "connect": "ephemeralml.client",
    "httpx_client": "ephemeralml.client",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
