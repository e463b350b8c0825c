"""What is S3's own: unfinished uploads, long lists, refusals by name."""

import contextlib
import hashlib
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.pins import Version
from ephemeralml.storage.retry import TransientFault
from ephemeralml.storage.s3 import S3Storage
from ephemeralml.storage.s3_faults import explained
from ephemeralml.storage.s3_upload import PART, Part, part_size
from ephemeralml.storage.sources import BytesSource
from tests.fakes.faulty_proxy import Act, faulty_proxy
from tests.fakes.s3_server import BUCKET, S3Server
from tests.storage.conftest import quick, sha256

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LARGE = os.urandom(2 * PART + 5)


@pytest.fixture
def store(moto: S3Server, prefix: str, into_environment: Callable[[dict[str, str]], None]) -> Iterator[S3Storage]:
    into_environment(moto.environment())
    with open_storage(f"s3://{BUCKET}/{prefix}", retries=quick()) as opened:
        assert isinstance(opened, S3Storage)
        yield opened


@pytest.fixture
def outside(moto: S3Server) -> Iterator["S3Client"]:
    """A client of somebody else."""
    with contextlib.closing(moto.client()) as client:
        yield client


def put(store: S3Storage, key: str, data: bytes) -> int | None:
    return store.put(key, BytesSource(data), sha256=sha256(data))


def unfinished(outside: "S3Client", key: str) -> int:
    return len(outside.list_multipart_uploads(Bucket=BUCKET, Prefix=key).get("Uploads", []))


def begun(outside: "S3Client", key: str, *parts: bytes) -> str:
    """Begin an upload of *parts*, as somebody else, with metadata of their own."""
    upload = outside.create_multipart_upload(Bucket=BUCKET, Key=key, Metadata={"sha256": "ab" * 32})["UploadId"]
    for number, part in enumerate(parts, start=1):
        outside.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=part)
    return upload


def test_an_unfinished_upload_of_other_bytes_is_not_continued(
    store: S3Storage, outside: "S3Client", prefix: str
) -> None:
    begun(outside, f"{prefix}/a", os.urandom(PART))
    assert put(store, "a", LARGE)
    assert store.read("a", 0, len(LARGE)) == LARGE
    assert unfinished(outside, f"{prefix}/a") == 1, "it is somebody else's, and left alone"


def test_an_unfinished_upload_that_begins_alike_gets_our_parts_and_our_digest(
    store: S3Storage, outside: "S3Client", prefix: str
) -> None:
    begun(outside, f"{prefix}/a", LARGE[:PART], os.urandom(PART))
    assert put(store, "a", LARGE)
    assert store.read("a", 0, len(LARGE)) == LARGE
    assert store.digest("a") == sha256(LARGE)
    assert unfinished(outside, f"{prefix}/a") == 0


def test_an_upload_of_a_key_that_begins_alike_is_another(store: S3Storage, outside: "S3Client", prefix: str) -> None:
    begun(outside, f"{prefix}/abc", LARGE[:PART])
    assert put(store, "a", LARGE)
    assert unfinished(outside, f"{prefix}/abc") == 1


def test_a_refused_upload_leaves_no_parts(store: S3Storage, outside: "S3Client", prefix: str) -> None:
    with pytest.raises(RejectedError):
        store.put("a", BytesSource(LARGE), sha256=bytes(32))
    assert unfinished(outside, f"{prefix}/a") == 0


def test_a_broken_stream_leaves_no_parts(store: S3Storage, outside: "S3Client", prefix: str) -> None:
    def broken() -> Iterator[bytes]:
        yield LARGE
        raise OSError(5, "Input/output error")

    with pytest.raises(UnavailableError, match="Input/output error"):
        store.write("a", broken())
    assert unfinished(outside, f"{prefix}/a") == 0


def test_no_answer_to_which_uploads_there_are_begins_anew(
    moto: S3Server, prefix: str, into_environment: Callable[[dict[str, str]], None]
) -> None:
    with faulty_proxy(moto.port) as proxy:
        into_environment(moto.environment(proxy.endpoint))
        proxy.break_(Act.STATUS, method="GET", part="uploads", count=403, times=9)
        with open_storage(f"s3://{BUCKET}/{prefix}", retries=quick()) as store:
            assert store.put("a", BytesSource(LARGE), sha256=sha256(LARGE))


def test_a_long_list_is_read_to_its_end(store: S3Storage, outside: "S3Client", prefix: str) -> None:
    names = [f"{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: outside.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b""), names))
    assert list(store.list("")) == names


def test_a_digest_that_nobody_kept_is_made(store: S3Storage, outside: "S3Client", prefix: str) -> None:
    outside.put_object(Bucket=BUCKET, Key=f"{prefix}/a", Body=b"same")
    assert store.digest("a") is None
    assert not put(store, "a", b"same")
    with pytest.raises(RejectedError):
        put(store, "a", b"diff")


@pytest.mark.parametrize("kept", ["", "xyz", "AB" * 32, "ab" * 31, "ab" * 33, " " + "ab" * 32])
def test_a_kept_digest_that_is_none_counts_as_none(
    store: S3Storage, outside: "S3Client", prefix: str, kept: str
) -> None:
    outside.put_object(Bucket=BUCKET, Key=f"{prefix}/a", Body=b"same", Metadata={"sha256": kept})
    assert store.digest("a") is None or kept.strip() == "ab" * 32


def test_a_missing_bucket_is_named(moto: S3Server, into_environment: Callable[[dict[str, str]], None]) -> None:
    into_environment(moto.environment())
    with open_storage("s3://no-such-bucket/a", retries=quick()) as store:
        for ask in (
            lambda: store.exists("k"),
            lambda: list(store.list("")),
            lambda: store.put("k", BytesSource(b"x"), sha256=sha256(b"x")),
            lambda: store.read_into("k", 0, memoryview(bytearray(1))),
        ):
            with pytest.raises(UnavailableError, match=r"s3://no-such-bucket/a.*there is no such bucket"):
                ask()


@pytest.mark.parametrize(
    ("code", "status", "kind", "message"),
    [
        ("AccessDenied", 403, UnavailableError, "not allowed to read s3://b/k: AccessDenied"),
        ("403", 403, UnavailableError, "not allowed to read s3://b/k"),
        ("ExpiredToken", 400, UnavailableError, "not allowed to read s3://b/k: ExpiredToken"),
        ("SignatureDoesNotMatch", 403, UnavailableError, "not allowed"),
        ("NoSuchKey", 404, UnavailableError, "there is no object s3://b/k"),
        ("NoSuchBucket", 404, UnavailableError, "no such bucket"),
        ("PermanentRedirect", 301, UnavailableError, "PermanentRedirect"),
        ("NotImplemented", 501, UnavailableError, "NotImplemented"),
        ("PreconditionFailed", 412, RejectedError, "changed"),
        ("InvalidRange", 416, RejectedError, "ends before byte 9"),
        ("SlowDown", 503, TransientFault, "SlowDown"),
        ("RequestTimeout", 400, TransientFault, "RequestTimeout"),
        ("InternalError", 200, TransientFault, "InternalError"),
        ("429", 429, TransientFault, "429"),
    ],
)
def test_what_the_store_says_has_one_meaning(code: str, status: int, kind: type[Exception], message: str) -> None:
    from botocore.exceptions import ClientError

    answer = {"Error": {"Code": code, "Message": "secret"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(kind, match=message) as caught, explained("read", "b", "k", end=9, pinned=Version(1, "t")):
        raise ClientError(answer, "GetObject")  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, EphemeralError | TransientFault)


@pytest.mark.parametrize(
    ("size", "part"),
    [(0, PART), (PART, PART), (10_000 * PART, PART), (10_000 * PART + 1, PART + (1 << 20)), (5 << 40, 525 << 20)],
)
def test_parts_are_few_enough(size: int, part: int) -> None:
    assert part_size(size) == part
    assert -(-size // part) <= 10_000


def test_a_part_is_known_by_the_servers_checksum() -> None:
    data = b"part"
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    digest, other = (b64encode(sha256(content)).decode() for content in (data, b"trap"))
    assert Part(1, 4, etag, None).holds(data)
    assert Part(1, 4, '"of-a-kms-key"', digest).holds(data)
    assert not Part(1, 4, etag, None).holds(b"trap")
    assert not Part(1, 4, etag, other).holds(data)
    assert not Part(1, 5, etag, digest).holds(data)
