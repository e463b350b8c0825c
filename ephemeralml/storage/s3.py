"""Objects in an S3 bucket, through boto3.

boto3 finds credentials, endpoint and proxies in the environment and its own files,
signs, and keeps connections; its retries and response checksums are off, because
`retry` and the signed digests of a package stand in their place.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.progress import Progress
from ephemeralml.storage.base import SILENT, ByteSource, Closing
from ephemeralml.storage.blocks import DIGEST_METADATA, checked, digest_in, equal, joined, occupied, settle
from ephemeralml.storage.keys import check_key
from ephemeralml.storage.missing import NoBucketError, NoObjectError
from ephemeralml.storage.pins import Pins, Version
from ephemeralml.storage.ranges import EMPTY_PAGES, check_bounds, check_content_range, fill, header, unreadable
from ephemeralml.storage.retry import Deadline, Retries, RetryPolicy
from ephemeralml.storage.s3_faults import explained
from ephemeralml.storage.s3_upload import PART, Multipart, Target, correct_digest, part_size
from ephemeralml.storage.urllib3_body import read_body

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECTIONS = 64
"""Connections kept, as many as ranges may be in flight."""
_NEW = {"IfNoneMatch": "*"}
"""Only where nothing lies yet."""


def connect(policy: RetryPolicy) -> "S3Client":
    """Return a client whose endpoint, region and credentials are the environment's.

    Raises:
        UnavailableError: boto3 is not installed, or its configuration is unusable.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise UnavailableError("S3 needs boto3", hint="pip install 'ephemeralml[aws]'") from error
    config = Config(
        connect_timeout=min(10.0, policy.stall),
        read_timeout=policy.stall,
        max_pool_connections=CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        response_checksum_validation="when_required",
        request_checksum_calculation="when_required",
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise UnavailableError(f"boto3 cannot be set up: {type(error).__name__}: {error}") from error


class S3Storage(Closing):
    """A `Storage` over the objects of *bucket* below *prefix*.

    Args:
        bucket: The bucket.
        prefix: What each key is preceded by, without slashes at its ends; may be empty.
        client: From `connect`, which is called if it is not given.
        retries: How patient to be, and the deadline of the whole.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, client: "S3Client | None" = None, retries: Retries | None = None
    ) -> None:
        self._retries = retries or Retries()
        self._client = client or connect(self._retries.policy)
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._pins = Pins()

    def size(self, key: str) -> int:
        """Return the length of object *key*."""
        return self._pins.note(key, self._head("read", key)[0]).size

    def exists(self, key: str) -> bool:
        """Tell whether there is an object *key*."""
        full = self._full(key)
        # A HEAD cannot tell "no such bucket" from "no such key"; a listing can.
        found = self._request(
            "look for", full, lambda: self._client.list_objects_v2(Bucket=self._bucket, Prefix=full, MaxKeys=1)
        )
        return any(entry.get("Key") == full for entry in found.get("Contents", []))

    def digest(self, key: str) -> bytes | None:
        """Return the SHA-256 kept in the metadata of object *key*."""
        version, metadata = self._head("read", key)
        self._pins.note(key, version)
        return digest_in(metadata)

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of *key* from *start* up to *end*."""
        pinned = self._pins.get(key)
        check_bounds(key, start, end, pinned.size if pinned else self.size(key))
        data = bytearray(end - start)
        self.read_into(key, start, memoryview(data))
        return bytes(data)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *key* from *start*."""
        full = self._full(key)
        fill(
            self._retries,
            f"read {self._place(full)}",
            start,
            buffer,
            lambda offset, view, limit: self._fetch(key, offset, view, limit),
        )

    def write(self, key: str, stream: Iterable[bytes]) -> None:
        """Store the bytes of *stream* as the new object *key*, complete or not at all."""
        target = self._target(key)
        if self.exists(key):
            raise UnavailableError(f"cannot write {self._place(target.key)}: it exists already")
        blocks = joined(stream, PART, f"cannot write {self._place(target.key)}")
        first = next(blocks, b"")
        second = next(blocks, b"")
        if not second:
            target.put(first, {DIGEST_METADATA: hashlib.sha256(first).hexdigest()}, _NEW)
            return
        upload = Multipart.begin(target, {})
        try:
            upload.complete(upload.send(chain((first, second), blocks), lambda _: None), _NEW)
        except BaseException:
            upload.abort()
            raise

    def put(
        self, key: str, source: ByteSource, *, sha256: bytes, force: bool = False, progress: Progress = SILENT
    ) -> int | None:
        """Store *source*, whose digest is *sha256*, as *key*, complete or not at all."""
        target = self._target(key)
        if self.exists(key):
            if equal(self, key, source, sha256):
                return None
            if not force:
                raise occupied(self._place(target.key))
        self._pins.forget(key)
        try:
            sent = self._send(target, source, sha256, {} if force else _NEW, progress)
        except UnavailableError as error:
            settle(self, key, sha256, self._place(target.key), error, force=force)
            sent = source.size
        self._pins.forget(key)
        return sent

    def _send(
        self, target: Target, source: ByteSource, sha256: bytes, condition: Mapping[str, str], progress: Progress
    ) -> int:
        metadata = {DIGEST_METADATA: sha256.hex()}
        length = part_size(source.size)
        blocks = checked(target.key, source, sha256, length)
        if source.size <= length:
            target.put(b"".join(blocks), metadata, condition)
            progress.advance(source.size, source.size)
            return source.size
        upload = Multipart.unfinished(target, source.read(0, length), source.size) or Multipart.begin(target, metadata)
        done = 0

        def seen(count: int) -> None:
            nonlocal done
            done += count
            progress.advance(done, source.size)

        try:
            parts = upload.send(blocks, seen)
        except RejectedError:
            upload.abort()
            raise
        upload.complete(parts, condition)
        if upload.resumed:
            correct_digest(target, metadata)
        return upload.sent

    def _target(self, key: str) -> Target:
        return Target(self._client, self._bucket, self._full(key), self._retries)

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with *prefix*, in order."""
        full = self._prefix + prefix
        token: dict[str, Any] = {}
        empty = 0
        while empty < EMPTY_PAGES:
            page = self._request(
                "list",
                full,
                lambda token=token: self._client.list_objects_v2(Bucket=self._bucket, Prefix=full, **token),
            )
            keys = [str(entry.get("Key", "")) for entry in page.get("Contents", [])]
            empty = 0 if keys else empty + 1
            yield from (key.removeprefix(self._prefix) for key in keys)
            if not page.get("IsTruncated") or "NextContinuationToken" not in page:
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}
        raise unreadable("list", self._place(full))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _full(self, key: str) -> str:
        return check_key(self._prefix + check_key(key))

    def _place(self, full: str) -> str:
        return f"s3://{self._bucket}/{full}"

    def _request(self, action: str, full: str, send: Any) -> Any:
        def attempt(_limit: Deadline) -> Any:
            with explained(action, self._bucket, full):
                return send()

        return self._retries.call(f"{action} {self._place(full)}", attempt)

    def _head(self, action: str, key: str) -> tuple[Version, dict[str, str]]:
        full = self._full(key)
        try:
            found = self._request(action, full, lambda: self._client.head_object(Bucket=self._bucket, Key=full))
        except NoObjectError as error:
            raise self._absent(action, full, error) from error.__cause__
        return Version(found["ContentLength"], found.get("ETag")), found.get("Metadata", {})

    def _absent(self, action: str, full: str, error: NoObjectError) -> UnavailableError:
        """Return what is missing: the object, or its bucket, of which a HEAD does not tell."""
        try:
            self._request(action, full, lambda: self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1))
        except NoBucketError as missing:
            return missing
        except UnavailableError:
            pass  # who may not list hears of the object
        return error

    def _fetch(self, key: str, start: int, view: memoryview, limit: Deadline) -> None:
        full = self._full(key)
        pinned = self._pins.get(key)
        match: dict[str, Any] = {"IfMatch": pinned.tag} if pinned and pinned.tag else {}
        with explained("read", self._bucket, full, end=start + len(view), pinned=pinned):
            answer = self._client.get_object(Bucket=self._bucket, Key=full, Range=header(start, len(view)), **match)
        body = answer["Body"]
        try:
            total = check_content_range(key, answer.get("ContentRange"), start, len(view))
            self._pins.note(key, Version(total, answer.get("ETag")))
            raw = body._raw_stream  # type: ignore[attr-defined]  # noqa: SLF001 - the response beneath; botocore's wrapper only copies
        except BaseException:
            body.close()
            raise
        read_body(raw, view, limit)
