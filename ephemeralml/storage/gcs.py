"""Objects in a Google Cloud Storage bucket.

google-cloud-storage finds credentials and endpoint, lists, and tells of objects; ranges are
asked for over its authorised session, because its downloads copy in small pieces. Each read names
the generation seen first, so that no other one can answer.
"""

import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.progress import Progress
from ephemeralml.storage.base import SILENT, ByteSource, Closing
from ephemeralml.storage.blocks import DIGEST_METADATA, checked, digest_in, equal, joined, occupied, settle
from ephemeralml.storage.gcs_faults import explained, meaning
from ephemeralml.storage.gcs_upload import CHUNK, Note, Session, SessionLostError, open_session
from ephemeralml.storage.keys import check_key
from ephemeralml.storage.missing import NoObjectError, no_bucket, no_object
from ephemeralml.storage.pins import Pins, Version
from ephemeralml.storage.ranges import EMPTY_PAGES, check_bounds, check_content_range, fill, header, unreadable
from ephemeralml.storage.retry import Deadline, Retries
from ephemeralml.storage.urllib3_body import read_body

if TYPE_CHECKING:
    import requests
    from google.cloud.storage import Blob, Client

T = TypeVar("T")
CONNECTIONS = 64
_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


def connect() -> "tuple[Client, requests.Session]":
    """Return a client and its session, with the environment's credentials and endpoint.

    Raises:
        UnavailableError: google-cloud-storage is not installed, or there are no credentials.
    """
    try:
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.auth.transport.requests import AuthorizedSession
        from google.cloud.storage import Client
        from requests.adapters import HTTPAdapter
    except ImportError as error:
        raise UnavailableError("GCS needs google-cloud-storage", hint="pip install 'ephemeralml[gcp]'") from error
    with explained("use", "gs://"):
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            credentials: Any = cast("Any", AnonymousCredentials)()
            project: str | None = "emulator"
        else:
            credentials, project = google.auth.default(scopes=[_SCOPE])
    session: requests.Session = cast("Any", AuthorizedSession)(credentials)
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(pool_connections=4, pool_maxsize=CONNECTIONS, max_retries=0))
    return Client(project=project or "none", credentials=credentials, _http=session), session


class GcsStorage(Closing):
    """A `Storage` over the objects of *bucket* below *prefix*.

    Args:
        bucket: The bucket.
        prefix: What each key is preceded by, without slashes at its ends; may be empty.
        retries: How patient to be, and the deadline of the whole.
        state: A private folder where unfinished uploads are noted; None notes none.
    """

    def __init__(
        self, bucket: str, prefix: str = "", *, retries: Retries | None = None, state: Path | None = None
    ) -> None:
        self._retries = retries or Retries()
        self._client, self._http = connect()
        self._bucket = self._client.bucket(bucket)
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._pins = Pins()
        self._state = state

    def size(self, key: str) -> int:
        """Return the length of object *key*."""
        return self._look(key)[0].size

    def exists(self, key: str) -> bool:
        """Tell whether there is an object *key*."""
        return self._find("look for", key) is not None

    def digest(self, key: str) -> bytes | None:
        """Return the SHA-256 kept in the metadata of object *key*."""
        return self._look(key)[1]

    def read(self, key: str, start: int, end: int) -> bytes:
        """Return the bytes of *key* from *start* up to *end*."""
        pinned = self._pins.get(key) or self._look(key)[0]
        check_bounds(key, start, end, pinned.size)
        data = bytearray(end - start)
        self.read_into(key, start, memoryview(data))
        return bytes(data)

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        """Fill *buffer* with the bytes of *key* from *start*."""
        pinned = self._pins.get(key) or self._look(key)[0]
        fill(
            self._retries,
            f"read {self._place(key)}",
            start,
            buffer,
            lambda offset, view, limit: self._fetch(key, pinned, offset, view, limit),
        )

    def write(self, key: str, stream: Iterable[bytes]) -> None:
        """Store the bytes of *stream* as the new object *key*, complete or not at all."""
        if self.exists(key):
            raise UnavailableError(f"cannot write {self._place(key)}: it exists already")
        blocks = joined(stream, CHUNK, f"cannot write {self._place(key)}")
        session = self._session(self._begin(key, None, {}, None, new=True), key)
        try:
            base, block = 0, next(blocks, b"")
            for following in blocks:
                session.push(base, block, None)
                base, block = base + len(block), following
            session.push(base, block, base + len(block))
        except SessionLostError as error:
            raise UnavailableError(f"cannot write {self._place(key)}: the store forgot the upload") from error
        except BaseException:
            session.cancel()
            raise

    def put(
        self, key: str, source: ByteSource, *, sha256: bytes, force: bool = False, progress: Progress = SILENT
    ) -> int | None:
        """Store *source*, whose digest is *sha256*, as *key*, complete or not at all."""
        if self.exists(key):
            if equal(self, key, source, sha256):
                return None
            if not force:
                raise occupied(self._place(key))
        self._pins.forget(key)
        crc32c = self._checksum(key, source, sha256)
        note = Note(self._state, f"{self._place(key)} {force}", sha256)

        def begin() -> str:
            return self._begin(key, source.size, {DIGEST_METADATA: sha256.hex()}, crc32c, new=not force)

        try:
            sent = self._send(key, source, note, begin, progress)
        except UnavailableError as error:
            settle(self, key, sha256, self._place(key), error, force=force)
            sent = source.size
        note.drop()
        self._pins.forget(key)
        return sent

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with *prefix*, in order."""
        token: str | None = None
        empty = 0
        while empty < EMPTY_PAGES:
            names, token = self._request("list", prefix, partial(self._page, prefix, token))
            empty = 0 if names else empty + 1
            yield from (name.removeprefix(self._prefix) for name in sorted(names))
            if not token:
                return
        raise unreadable("list", self._place(prefix))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _full(self, key: str) -> str:
        return check_key(self._prefix + check_key(key))

    def _place(self, key: str) -> str:
        return f"gs://{self._bucket.name}/{self._prefix}{key}"

    def _request(self, action: str, key: str, send: Callable[[], T]) -> T:
        def attempt(_limit: Deadline) -> T:
            with explained(action, self._place(key)):
                return send()

        return self._retries.call(f"{action} {self._place(key)}", attempt)

    def _timeout(self, limit: Deadline | None = None) -> tuple[float, float]:
        wait = (limit or self._retries.deadline).timeout(self._retries.policy.stall)
        return wait, wait

    def _page(self, prefix: str, token: str | None) -> tuple[Sequence[str], str | None]:
        pages = self._client.list_blobs(
            self._bucket, prefix=self._prefix + prefix, page_token=token, timeout=self._timeout(), retry=None
        )
        names = [str(blob.name) for blob in next(pages.pages, ())]
        return names, pages.next_page_token

    def _find(self, action: str, key: str) -> "Blob | None":
        full = self._full(key)
        return self._request(action, key, lambda: self._bucket.get_blob(full, timeout=self._timeout(), retry=None))

    def _look(self, key: str) -> tuple[Version, bytes | None]:
        blob = self._find("read", key)
        if blob is None:
            raise self._absent(key)
        with explained("read", self._place(key)):  # the library reads these values only now
            found, kept = Version(int(blob.size or 0), str(blob.generation)), digest_in(blob.metadata or {})
        return self._pins.note(key, found), kept

    def _absent(self, key: str) -> UnavailableError:
        """Return what is missing: the object, or its bucket, which only a listing tells."""
        try:
            self._request("read", key, partial(self._page, key, None))
        except NoObjectError:
            return no_bucket("read", self._place(key))
        except UnavailableError:
            pass  # who may not list hears of the object
        return no_object(self._place(key))

    def _fetch(self, key: str, pinned: Version, start: int, view: memoryview, limit: Deadline) -> None:
        place = self._place(key)
        url = (
            f"{self._client.api_endpoint}/download/storage/v1/b/{quote(self._bucket.name, safe='')}"
            f"/o/{quote(self._full(key), safe='')}?alt=media&generation={pinned.tag}"
        )
        headers = {"Range": header(start, len(view)), "Accept-Encoding": "identity"}
        with explained("read", place):
            answer = self._http.get(
                url, headers=headers, stream=True, timeout=self._timeout(limit), allow_redirects=False
            )
        try:
            if answer.status_code == 200:
                raise MalformedError(f"{place} answers a range with all it has")
            if answer.status_code != 206:
                asked = answer.headers.get("Retry-After")
                raise meaning(answer.status_code, "read", place, end=start + len(view), pinned=pinned, asked=asked)
            total = check_content_range(key, answer.headers.get("Content-Range"), start, len(view))
            self._pins.note(key, Version(total, answer.headers.get("x-goog-generation", pinned.tag)))
            read_body(answer.raw, view, limit)
        finally:
            answer.close()

    def _checksum(self, key: str, source: ByteSource, sha256: bytes) -> str:
        """Return the CRC32C of *source*, in base64, once its SHA-256 is seen to be right."""
        import google_crc32c

        checksum: Any = cast("Any", google_crc32c).Checksum()
        for block in checked(self._place(key), source, sha256, CHUNK):
            checksum.update(block)
        return b64encode(checksum.digest()).decode()

    def _begin(self, key: str, size: int | None, metadata: dict[str, str], crc32c: str | None, *, new: bool) -> str:
        """Return the URL of a new session; GCS refuses bytes whose CRC32C is not *crc32c*."""
        blob = self._bucket.blob(self._full(key))
        blob.metadata = metadata
        if crc32c is not None:
            blob.crc32c = crc32c
        options: dict[str, Any] = {"if_generation_match": 0} if new else {}
        return self._request(
            "write",
            key,
            lambda: str(
                blob.create_resumable_upload_session(
                    content_type="application/octet-stream",
                    size=size,
                    timeout=self._timeout(),
                    checksum=None,
                    retry=None,
                    **options,
                )
            ),
        )

    def _session(self, url: str, key: str) -> Session:
        return Session(self._http, url, self._place(key), self._retries)

    def _send(self, key: str, source: ByteSource, note: Note, begin: Callable[[], str], progress: Progress) -> int:
        session, done = open_session(
            note, self._client.api_endpoint, begin, source.size, lambda url: self._session(url, key)
        )
        held = source.size if session.complete else done
        try:
            while not session.complete:
                end = min(source.size, done + CHUNK)
                session.push(done, source.read(done, end), source.size)
                done = end
                progress.advance(done, source.size)
        except SessionLostError as error:
            note.drop()
            raise UnavailableError(f"cannot write {self._place(key)}: the store forgot the upload") from error
        return source.size - held
