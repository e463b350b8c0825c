"""Uploads to S3: in parts, several at once, and going on where an earlier one stopped.

S3 keeps the parts of an unfinished upload and lists them with sizes and checksums. What
is listed and equals the bytes at hand is not sent again. No object is seen before the
last step, which S3 does whole.

Bodies are handed on as files: the libraries send bytes in one call, all of which has to be
done within the timeout, and files in small blocks, each of which has. A slow line is no stall.
"""

import hashlib
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from ephemeralml.daemon_pool import DaemonPool
from ephemeralml.errors import EphemeralError, UnavailableError
from ephemeralml.storage.blocks import DIGEST_METADATA
from ephemeralml.storage.retry import Retries
from ephemeralml.storage.s3_faults import explained

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

PART = 8 << 20
"""Bytes of a part; an object no longer than one goes in a single request. What an interruption costs is parts."""
_MOST_PARTS = 10_000
_IN_FLIGHT = 4
_CONTENT_TYPE = "application/octet-stream"


def part_size(size: int) -> int:
    """Return the length of the parts of an object of *size* bytes; the same again when it is resumed."""
    least = -(-size // _MOST_PARTS)
    return max(PART, -(-least // (1 << 20)) << 20)


@dataclass(frozen=True, slots=True)
class Part:
    """One part that S3 holds."""

    number: int
    size: int
    etag: str
    sha256: str | None
    """Its SHA-256 in base64, where the server keeps one."""

    def holds(self, data: bytes) -> bool:
        """Tell whether the part is *data*, as far as the server's checksums say."""
        if self.size != len(data):
            return False
        if self.sha256:
            return self.sha256 == _base64_digest(data)
        return self.etag.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Target:
    """Where an upload goes, and how patient to be."""

    client: "S3Client"
    bucket: str
    key: str
    """The whole key in the bucket."""
    retries: Retries

    def request(self, action: str, send: Callable[[], T]) -> T:
        """Return what one request of boto3 returns, tried again as the policy says."""

        def attempt(_limit: object) -> T:
            with explained(action, self.bucket, self.key):
                return send()

        return self.retries.call(f"{action} s3://{self.bucket}/{self.key}", attempt)

    def put(self, data: bytes, metadata: Mapping[str, str], condition: Mapping[str, Any]) -> None:
        """Store *data* in one request."""
        self.request(
            "write",
            lambda: self.client.put_object(
                Bucket=self.bucket,
                Key=self.key,
                Body=BytesIO(data),
                ContentType=_CONTENT_TYPE,
                ChecksumSHA256=_base64_digest(data),
                Metadata=metadata,
                **condition,
            ),
        )


class Multipart:
    """One upload in parts to *target*, new or found unfinished."""

    def __init__(self, target: Target, upload_id: str, held: Mapping[int, Part]) -> None:
        self._target = target
        self._id = upload_id
        self._held = held
        self.resumed = bool(held)
        """Whether parts of an earlier run are there."""
        self.sent = 0
        """Bytes of the parts that this run sent."""

    @classmethod
    def begin(cls, target: Target, metadata: Mapping[str, str]) -> "Multipart":
        """Begin a new upload."""
        answer = target.request(
            "write",
            lambda: target.client.create_multipart_upload(
                Bucket=target.bucket,
                Key=target.key,
                ContentType=_CONTENT_TYPE,
                ChecksumAlgorithm="SHA256",
                Metadata=metadata,
            ),
        )
        return cls(target, answer["UploadId"], {})

    @classmethod
    def unfinished(cls, target: Target, first: bytes, size: int) -> "Multipart | None":
        """Return an unfinished upload of what begins with the part *first*, or None.

        A server that lists no uploads, or does not let us, has none: the upload begins anew.
        """
        with suppress(UnavailableError):
            for upload_id in _uploads(target):
                held = {part.number: part for part in _parts(target, upload_id)}
                lengths = part_size(size)
                if 1 in held and held[1].holds(first) and all(part.size <= lengths for part in held.values()):
                    return cls(target, upload_id, held)
        return None

    def send(self, blocks: Iterable[bytes], seen: Callable[[int], None]) -> list[Part]:
        """Send *blocks* as parts, several at once, and return them in order; *seen* is told their lengths."""
        sent: list[Part] = []
        flying: deque[Future[Part]] = deque()

        def landed(future: Future[Part]) -> None:
            part = future.result()
            sent.append(part)
            self.sent += 0 if self._held.get(part.number) is part else part.size
            seen(part.size)

        with DaemonPool(_IN_FLIGHT, "s3-upload") as pool:
            for number, data in enumerate(blocks, start=1):
                flying.append(pool.submit(partial(self._part, number, data)))
                while len(flying) > _IN_FLIGHT or (flying and flying[0].done()):
                    landed(flying.popleft())
            for future in flying:
                landed(future)
        return sent

    def complete(self, parts: Iterable[Part], condition: Mapping[str, Any]) -> None:
        """Make the object of *parts*."""
        listed: list[Any] = [
            {"PartNumber": part.number, "ETag": part.etag} | ({"ChecksumSHA256": part.sha256} if part.sha256 else {})
            for part in parts
        ]
        where: dict[str, Any] = {"Bucket": self._target.bucket, "Key": self._target.key, "UploadId": self._id}
        self._target.request(
            "write",
            lambda: self._target.client.complete_multipart_upload(
                **where, MultipartUpload={"Parts": listed}, **condition
            ),
        )

    def abort(self) -> None:
        """Let S3 forget the parts; a failure to say so costs space, nothing else."""
        client, bucket, key = self._target.client, self._target.bucket, self._target.key
        with suppress(EphemeralError):
            self._target.request(
                "abort the upload of",
                lambda: client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=self._id),
            )

    def _part(self, number: int, data: bytes) -> Part:
        held = self._held.get(number)
        if held and held.holds(data):
            return held
        digest = _base64_digest(data)
        answer = self._target.request(
            "write",
            lambda: self._target.client.upload_part(
                Bucket=self._target.bucket,
                Key=self._target.key,
                UploadId=self._id,
                PartNumber=number,
                Body=BytesIO(data),
                ChecksumSHA256=digest,
            ),
        )
        return Part(number, len(data), answer["ETag"], digest)


def correct_digest(target: Target, metadata: Mapping[str, str]) -> None:
    """Give the object of a resumed upload our *metadata*, if it was begun for other bytes with the same start.

    S3 does not tell an unfinished upload's metadata, and takes it from the beginning.
    """
    client, bucket, key = target.client, target.bucket, target.key
    found = target.request("read", lambda: client.head_object(Bucket=bucket, Key=key))
    if found.get("Metadata", {}).get(DIGEST_METADATA) == metadata[DIGEST_METADATA]:
        return
    target.request(
        "write",
        lambda: client.copy_object(
            Bucket=bucket,
            Key=key,
            CopySource={"Bucket": bucket, "Key": key},
            CopySourceIfMatch=found["ETag"],
            Metadata=metadata,
            MetadataDirective="REPLACE",
            ContentType=_CONTENT_TYPE,
        ),
    )


def _uploads(target: Target) -> Iterator[str]:
    """Yield the unfinished uploads of the key, newest first."""
    found = target.request(
        "list the uploads of",
        lambda: target.client.list_multipart_uploads(Bucket=target.bucket, Prefix=target.key),
    )
    uploads = [upload for upload in found.get("Uploads", []) if upload.get("Key") == target.key]
    uploads.sort(key=lambda upload: str(upload.get("Initiated", "")), reverse=True)
    yield from (upload["UploadId"] for upload in uploads)


def _parts(target: Target, upload_id: str) -> Iterator[Part]:
    marker = 0
    while True:
        ask: dict[str, Any] = {"Bucket": target.bucket, "Key": target.key, "UploadId": upload_id}
        if marker:
            ask["PartNumberMarker"] = marker
        page = target.request("list the parts of", partial(target.client.list_parts, **ask))
        for part in page.get("Parts", []):
            yield Part(part["PartNumber"], part["Size"], part["ETag"], part.get("ChecksumSHA256"))
        following = int(page.get("NextPartNumberMarker") or 0)
        if not page.get("IsTruncated") or not marker < following <= _MOST_PARTS:
            return
        marker = following


def _base64_digest(data: bytes) -> str:
    return b64encode(hashlib.sha256(data).digest()).decode()
