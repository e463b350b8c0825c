"""Stores that answer what no store answers: our errors, and an end to it."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")
pytest.importorskip("google.cloud.storage", reason="google-cloud-storage is not installed")

from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.storage import gcs, s3, s3_upload
from ephemeralml.storage.base import Storage
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.sources import BytesSource
from tests.fakes import http_thread
from tests.fakes.http_thread import QuietHandler
from tests.storage.conftest import quick, sha256

# The libraries leave a connection whose answer they could not read to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

Answer = Callable[[QuietHandler], None]
XML, JSON = "application/xml", "application/json"


def answer(status: int, body: bytes = b"", kind: str = XML, **headers: str) -> Answer:
    def send(handler: QuietHandler) -> None:
        handler.body()
        fields = {"Content-Type": kind, "Content-Length": str(len(body))}
        handler.send_response(status)
        for name, value in {**fields, **{key.replace("_", "-"): value for key, value in headers.items()}}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    return send


@contextlib.contextmanager
def store_at(uri: str, said: Answer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    class Handler(QuietHandler):
        def post(self) -> None:
            said(self)

        do_GET = do_HEAD = do_PUT = post  # noqa: N815 - names of the standard library

    with http_thread.serving(Handler) as place:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{place}")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{place}")
        with open_storage(uri, retries=quick(10)) as store:
            yield store
    gc.collect()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


CALLS: dict[str, Callable[[Storage], Any]] = {
    "size": lambda store: store.size("k"),
    "exists": lambda store: store.exists("k"),
    "read": lambda store: store.read_into("k", 0, memoryview(bytearray(4))),
    "list": lambda store: list(store.list("")),
    "put": lambda store: store.put("k", BytesSource(b"abcd"), sha256=sha256(b"abcd")),
}
S3_ANSWERS = {
    "no XML": answer(200, b"\xff garbage"),
    "no length": answer(200, Content_Length="abc", Connection="close"),
    "no time": answer(206, b"abcd", Last_Modified="99999999999999999999", Content_Range="bytes 0-3/4"),
    "no name for an error": answer(400, b"<Error><Code><X>1</X></Code></Error>"),
    "no size": answer(200, b"<R><Contents><Size>abc</Size><Key>k</Key></Contents></R>"),
    "no key": answer(200, b"<R><Contents></Contents></R>"),
    "redirected for ever": answer(301, b"<Error><Code>PermanentRedirect</Code></Error>"),
}
GCS_ANSWERS = {
    "no JSON": answer(200, b"garbage", JSON),
    "no object": answer(200, b"[]", JSON),
    "no numbers": answer(200, b'{"size": "abc", "generation": [1]}', JSON),
    "no metadata": answer(200, b'{"size": "4", "generation": "1", "metadata": 5}', JSON),
    "no digest": answer(200, b'{"size": "4", "generation": "1", "metadata": {"sha256": 5}}', JSON),
    "no generation": answer(200, b'{"size": "4", "generation": "x/../y"}', JSON),
    "no items": answer(200, b'{"items": 5}', JSON),
    "no name": answer(200, b'{"items": [{}]}', JSON),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        *(pytest.param("s3://bucket/p", said, id=f"s3 {name}") for name, said in S3_ANSWERS.items()),
        *(pytest.param("gs://bucket/p", said, id=f"gs {name}") for name, said in GCS_ANSWERS.items()),
    ],
)
def test_only_our_errors_leave(uri: str, said: Answer, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with store_at(uri, said, monkeypatch) as store, contextlib.suppress(EphemeralError):
        CALLS[call](store)


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        ("s3://b-b/p", b"<R><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></R>"),
        ("gs://b-b/p", b'{"items": [], "nextPageToken": "t"}'),
    ],
)
def test_a_list_of_nothing_ends(uri: str, page: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    say = answer(200, page, XML if uri.startswith("s3") else JSON)

    def said(handler: QuietHandler) -> None:
        asked.append(1)
        say(handler)

    monkeypatch.setattr(s3, "EMPTY_PAGES", 7)
    monkeypatch.setattr(gcs, "EMPTY_PAGES", 7)
    with (
        store_at(uri, said, monkeypatch) as store,
        pytest.raises(UnavailableError, match=r"cannot list .*no such store"),
    ):
        list(store.list(""))
    assert 7 <= len(asked) <= 8


def test_parts_without_an_end_are_not_asked_for_for_ever() -> None:
    asked: list[int] = []

    class Endless:
        def list_parts(self, **ask: Any) -> dict[str, Any]:
            asked.append(ask.get("PartNumberMarker", 0))
            return {"IsTruncated": True, "NextPartNumberMarker": asked[-1] + 1_000, "Parts": []}

    target = s3_upload.Target(Endless(), "bucket", "key", quick())  # type: ignore[arg-type]
    assert list(s3_upload._parts(target, "upload")) == []
    assert len(asked) == 11
