"""From a place's name to the adapter that reads it.

Endpoints, regions and credentials come from the environment and the cloud's own
configuration (``AWS_ENDPOINT_URL_S3``, ``STORAGE_EMULATOR_HOST``), never from the name:
a name that somebody hands over cannot send credentials to a host of theirs.
"""

import os
import re
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from ephemeralml.errors import MalformedError
from ephemeralml.storage.base import Storage
from ephemeralml.storage.keys import check_key
from ephemeralml.storage.retry import Retries

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", re.ASCII)
_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,252}[a-z0-9])?|[0-9a-f:.]{2,45}", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:", re.ASCII)
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def open_storage(uri: str, *, retries: Retries | None = None, state: Path | None = None) -> Storage:
    """Return the `Storage` called *uri*; close it in the end.

    Args:
        uri: ``file:///folder``, a path, ``s3://bucket/prefix``, ``gs://bucket/prefix``, or, to read,
            ``https://host/path``.
        retries: How patient to be, and the deadline of everything done with it.
        state: A private folder where unfinished uploads to GCS are noted, to go on after a restart;
            ``ephemeralml/uploads`` below ``XDG_STATE_HOME`` if it is not given.

    Raises:
        MalformedError: *uri* is no such name.
        UnavailableError: The cloud's library is missing or cannot be set up.
    """
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    if not scheme and _SCHEME.match(uri):
        raise _half_a_name(uri)
    match scheme:
        case "":
            return _folder(uri)
        case "file":
            return _folder(_file_path(uri))
        case "s3":
            from ephemeralml.storage.s3 import S3Storage

            return S3Storage(*_bucket(uri), retries=retries)
        case "gs":
            from ephemeralml.storage.gcs import GcsStorage

            return GcsStorage(*_bucket(uri), retries=retries, state=state or _state_folder())
        case "http" | "https":
            return _server(uri, retries)
        case _:
            raise MalformedError(f"{_shown(uri)} names no place", hint="use a path, file://, s3://, gs:// or https://")


def _half_a_name(uri: str) -> MalformedError:
    """Return the error for what begins as a URI does and is none; a folder of that name is not meant, or rarely."""
    name, _, rest = uri.partition(":")
    known = name.lower() in {"s3", "gs", "file", "http", "https"}
    slashes = "///" if name.lower() == "file" else "//"
    right = f"{name.lower()}:{slashes}{rest.lstrip('/')}" if known else "s3://, gs://, file:// or https://"
    return MalformedError(
        f"{_shown(uri)} names no place", hint=f"write {_shown(right) if known else right}, or for a folder ./{name}:…"
    )


def _shown(uri: str) -> str:
    """Return *uri* for a message: without what may be a password or a signature."""
    before, mark, after = uri.partition("@")
    plain = f"{before.partition('://')[0]}://…@{after}" if mark else uri
    return ascii(plain.partition("?")[0])[:96]


def _state_folder() -> Path | None:
    try:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # a user without a home
        return None
    return base / "ephemeralml" / "uploads"


def _folder(path: str) -> Storage:
    from ephemeralml.storage.file import FileStorage

    if not path or "\0" in path:
        raise MalformedError(f"{ascii(path)[:96]} names no folder")
    return FileStorage(Path(path))


def _split(uri: str) -> SplitResult:
    """Split *uri*; what `urlsplit` would leave out in silence is refused."""
    if not uri.isprintable():
        raise MalformedError(f"{_shown(uri)} names no place")
    try:
        parts = urlsplit(uri)
        _ = parts.port  # a property, which raises
    except ValueError as error:
        raise MalformedError(f"{_shown(uri)} names no place") from error
    return parts


def _file_path(uri: str) -> str:
    parts = _split(uri)
    if parts.netloc or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise MalformedError(f"{_shown(uri)} names no folder", hint="write file:///absolute/path")
    return unquote(parts.path)


def _bucket(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    prefix = prefix.rstrip("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise MalformedError(f"{_shown(uri)} names no bucket")
    if prefix:
        check_key(prefix)
    return bucket, prefix


def _server(uri: str, retries: Retries | None) -> Storage:
    from ephemeralml.storage.http import HttpStorage

    parts = _split(uri)
    host = parts.hostname or ""
    if not _HOST.fullmatch(host) or "@" in parts.netloc or parts.query or parts.fragment:
        raise MalformedError(f"{_shown(uri)} is no https URL of a folder")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise MalformedError(f"{_shown(uri)}: http works on this machine only", hint="use https")
    path = parts.path.strip("/")
    if path:
        check_key(unquote(path))
    plain = parts.scheme == "http"
    kind = HTTPConnection if plain else HTTPSConnection
    port = parts.port or (80 if plain else 443)
    return HttpStorage(lambda: kind(host, port), quote(unquote(path), safe="/"), name=uri, retries=retries)
