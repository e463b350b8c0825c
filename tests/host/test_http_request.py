"""The strict reader of request heads (nitro-platform section 7)."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.host.http_request import MAX_HEAD_BYTES, ByteRange, RequestError, parse_head, parse_range

GET = b"GET /healthz HTTP/1.1\r\nhost: services"


def test_a_request() -> None:
    request = parse_head(b"POST /kms/decrypt HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\nX-More: \t a b \r\nempty:")
    assert (request.method, request.target, request.length) == ("POST", "/kms/decrypt", 12)
    assert request.fields == {"host": "x", "content-length": "12", "x-more": "a b", "empty": ""}
    assert request.keep_alive


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (GET, True),
        (GET + b"\r\nconnection: close", False),
        (GET + b"\r\nconnection: x, Close", False),
        (b"GET / HTTP/1.0", False),
    ],
)
def test_whether_another_may_follow(head: bytes, keep: bool) -> None:
    assert parse_head(head).keep_alive is keep


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET", 400),
        (b"GET  / HTTP/1.1\r\nhost: x", 400),
        (b"GET / HTTP/2.0\r\nhost: x", 400),
        (b"get / HTTP/1.1\r\nhost: x", 400),
        (b"GET http://x/ HTTP/1.1\r\nhost: x", 400),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nhost: x", 400),
        (b"GET / HTTP/1.1", 400),
        (GET + b"\r\nHost: y", 400),
        (GET + b"\r\n folded", 400),
        (GET + b"\r\nname : x", 400),
        (GET + b"\r\nx: a\x00b", 400),
        (GET + b"\r\nx: a\nb", 400),
        (GET + b"\r\ncontent-length: -1", 400),
        (GET + b"\r\ncontent-length: 01", 400),
        (GET + b"\r\ncontent-length: 1, 1", 400),
        (GET + b"\r\ncontent-length: 9223372036854775808", 400),
        (GET + b"\r\ntransfer-encoding: chunked", 501),
        (GET + b"\r\nexpect: 100-continue", 417),
        (GET + b"\r\nx: y" * 65, 431),
        (GET + b"\r\nx: " + b"y" * MAX_HEAD_BYTES, 431),
    ],
)
def test_what_is_refused(head: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        parse_head(head)
    assert caught.value.status == status


@pytest.mark.parametrize("end", [b"", b"\x01"])
def test_spaces_cost_no_time(end: bytes) -> None:
    head = GET + b"\r\nx:" + b" " * 4_000 + end
    begun = time.process_time()
    with contextlib.suppress(RequestError):
        assert parse_head(head).fields["x"] == ""
    assert time.process_time() - begun < 1.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes=0-0", ByteRange(0, 1)),
        ("bytes=2-", ByteRange(2, 10)),
        ("bytes=2-99", ByteRange(2, 10)),
        ("bytes=-3", ByteRange(7, 10)),
        ("bytes=-99", ByteRange(0, 10)),
        ("bytes=0-1,3-4", None),
        ("bytes=-", None),
        ("bytes=5-4", None),
        ("bytes=05-6", None),
        ("lines=0-1", None),
        ("", None),
    ],
)
def test_ranges(text: str, found: ByteRange | None) -> None:
    assert parse_range(text, 10) == found


@pytest.mark.parametrize(("text", "size"), [("bytes=10-", 10), ("bytes=10-11", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_a_range_outside(text: str, size: int) -> None:
    with pytest.raises(RequestError) as caught:
        parse_range(text, size)
    assert caught.value.status == 416


@pytest.mark.fuzz
@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: GET + b"\r\n" + tail), st.text(max_size=40))
def test_only_our_errors_leave(head: bytes, text: str) -> None:
    with contextlib.suppress(RequestError):
        parse_head(head)
    with contextlib.suppress(RequestError):
        found = parse_range(text, 1_000)
        assert found is None or 0 <= found.start < found.end <= 1_000
