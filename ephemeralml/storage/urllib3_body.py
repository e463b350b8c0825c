"""Bodies of urllib3 responses, as boto3 and requests hand them out, read without a copy.

urllib3's own `readinto` reads a new `bytes` object and copies it. Below it lies the
standard library's response, whose `readinto` receives from the socket straight into
our buffer; that is used where it is there. It knows the announced length, so a body
that ends early shows as a short read. Checksums that the store sends beside a body are
not looked at: all that is read here is verified against signed digests by the reader.
"""

import contextlib
import threading
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING

from ephemeralml.storage.http_pool import describe
from ephemeralml.storage.retry import Deadline, TransientFault

if TYPE_CHECKING:
    import urllib3

_PIECE = 1 << 20


def read_body(body: "urllib3.BaseHTTPResponse", view: memoryview, limit: Deadline) -> None:
    """Fill *view* with *body*, and give the connection back or, after a fault, up.

    Raises:
        TransientFault: The body ended before, or the connection did; with the bytes that came.
    """
    import urllib3

    done = 0
    inner = _beneath(body)
    try:
        with _guard(body, limit):
            readinto = inner.readinto if inner else body.readinto
            while done < len(view):
                count = readinto(view[done : done + _PIECE])
                if not count:
                    raise TransientFault(
                        "the server is silent" if limit.left() <= 0 else "the answer broke off", done=done
                    )
                done += count
    except (OSError, HTTPException, urllib3.exceptions.HTTPError) as error:
        raise TransientFault(describe(error), done=done) from error
    finally:
        if inner and inner.isclosed() and done == len(view):
            body.release_conn()
        else:
            body.close()  # what else the server would send is not wanted


def _beneath(body: "urllib3.BaseHTTPResponse") -> HTTPResponse | None:
    inner = getattr(body, "_fp", None)
    if isinstance(inner, HTTPResponse) and not inner.chunked and "Content-Encoding" not in body.headers:
        return inner
    return None


@contextlib.contextmanager
def _guard(body: "urllib3.BaseHTTPResponse", limit: Deadline) -> Iterator[None]:
    """Cut the connection when *limit* passes: the read timeout starts anew with every byte."""

    def cut() -> None:
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it is over already
            body.shutdown()

    timer = threading.Timer(limit.timeout(threading.TIMEOUT_MAX), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
