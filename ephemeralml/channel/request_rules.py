"""Rules about what a request and a response may say (channel section 7).

A request that breaks one concerns only itself: it is answered with a status on
its own stream, and the channel goes on.
"""

import re
from collections.abc import Mapping

from ephemeralml.channel.messages import Request

MAX_PATH_BYTES = 8 << 10
MAX_HEADER_BYTES = 16 << 10
"""Names and values of all headers together; no budget counts them while a request is open."""
MIN_NONCE_BYTES = 8
MAX_NONCE_BYTES = 64

_METHOD = re.compile(r"[A-Z]{1,16}")
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]{1,256}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def request_fault(request: Request) -> str | None:
    """Return what is wrong with a request (status 400), or None."""
    if not _METHOD.fullmatch(request.method):
        return "the method is not 1 to 16 upper-case letters"
    return path_fault(request.path) or headers_fault(request.headers) or nonce_fault(request.nonce)


def path_fault(path: str) -> str | None:
    """Return what is wrong with a request's path, or None."""
    if not path.startswith("/"):
        return "the path does not start with /"
    if len(path) > MAX_PATH_BYTES or len(path.encode()) > MAX_PATH_BYTES:
        return f"the path is longer than {MAX_PATH_BYTES} bytes"
    if _CONTROL.search(path):
        return "the path holds control characters"
    return None


def headers_fault(headers: Mapping[str, str]) -> str | None:
    """Return what is wrong with a header, or None."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            return "a header's name is not a lower-case token"
        if _CONTROL.search(value):
            return "a header's value holds control characters"
    if sum(len(name.encode()) + len(value.encode()) for name, value in headers.items()) > MAX_HEADER_BYTES:
        return f"the headers are longer than {MAX_HEADER_BYTES} bytes together"
    return None


def nonce_fault(nonce: bytes | None) -> str | None:
    """Return what is wrong with a request's nonce, or None."""
    if nonce is not None and not MIN_NONCE_BYTES <= len(nonce) <= MAX_NONCE_BYTES:
        return f"the nonce has {len(nonce)} bytes, not {MIN_NONCE_BYTES} to {MAX_NONCE_BYTES}"
    return None
