"""Lists in pages: at most so many items, and a mark from which the next page goes on.

A mark is this server's alone: it is authenticated and names its list, so what
a client makes up or takes from another list is refused.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Sequence
from typing import Any

from ephemeralml.crypto.transcript import lp
from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.desk import Desk
from ephemeralml.keyrelease.local.faults import ServiceFault
from ephemeralml.keyrelease.local.state_key import MARK_BYTES


def page(
    desk: Desk,
    call: Call,
    name: str,
    *,
    scope: str,
    default: int,
    after: Callable[[str, int], Sequence[tuple[str, Any]]],
    most: int = 1_000,
) -> dict[str, Any]:
    """Return one page of a list.

    Args:
        desk: The server's state.
        call: The request, with Limit and Marker.
        name: Of the response's list.
        scope: What the list is of; a mark of another one is refused.
        default: Items of a page if the request does not say.
        after: Gives at most so many items behind a place in the order, each with its own place.
        most: Items of the largest page.

    Raises:
        ServiceFault: InvalidMarkerException.
    """
    limit = min(call.get("Limit", default), most)
    marker = call.get("Marker")
    found = after("" if marker is None else _read(desk, scope, marker), limit + 1)
    shown, truncated = found[:limit], len(found) > limit
    response: dict[str, Any] = {name: [item for _, item in shown], "Truncated": truncated}
    if truncated:
        response["NextMarker"] = _write(desk, scope, shown[-1][0])
    return response


def _write(desk: Desk, scope: str, last: str) -> str:
    tag = desk.store.sealer.mark(lp(scope.encode(), last.encode()))
    return base64.urlsafe_b64encode(tag + last.encode()).decode()


def _read(desk: Desk, scope: str, marker: str) -> str:
    try:
        data = base64.b64decode(marker, altchars=b"-_", validate=True)
        last = data[MARK_BYTES:].decode()
    except (binascii.Error, ValueError) as error:
        raise _refused() from error
    if not hmac.compare_digest(data[:MARK_BYTES], desk.store.sealer.mark(lp(scope.encode(), last.encode()))):
        raise _refused()
    return last


def _refused() -> ServiceFault:
    return ServiceFault("InvalidMarkerException", "the marker is none that this list gave")
