"""The collateral folder: what was fetched once, to verify offline with (attestation section 8).

``index.json`` lists every file with its SHA-256. A file that is not listed, or
not as listed, is refused: collateral is read whole or not at all. What an item
is worth is decided by its vendor's signature, where it is used.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.collateral import MAX_CRL_BYTES, Collateral
from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError

SCHEMA = "ephemeralml.collateral/1"
INDEX = "index.json"
MAX_INDEX_BYTES = 1_048_576
MAX_ITEMS = 1_024
ALTERED = "COLLATERAL_ALTERED"

_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,3}")
_NITRO_CRL = re.compile(r"nitro/([0-9a-f]{64})\.crl")
_FIELDS = {"path", "kind", "sha256", "source", "not_before", "not_after"}


def load_collateral(folder: Path) -> Collateral:
    """Read a collateral folder.

    Raises:
        UnavailableError: It or its index cannot be read.
        MalformedError: The index is not one, or a file is too large.
        RejectedError: A file is missing, not listed, a link, or not as listed.
    """
    digests = _index(folder)
    present = _files(folder)
    if odd := sorted(present ^ (digests.keys() | {INDEX})):
        state = "not listed in the index" if odd[0] in present else "listed and not there"
        raise RejectedError(f"collateral file {odd[0][:200]!a} is {state}", code=ALTERED, hint="fetch it again")
    items = {path: _item(folder, path, digest) for path, digest in digests.items()}
    crls = {bytes.fromhex(found[1]): data for path, data in items.items() if (found := _NITRO_CRL.fullmatch(path))}
    return Collateral(MappingProxyType(crls))


def _index(folder: Path) -> Mapping[str, bytes]:
    document = strict_json.parse_object(_read(folder / INDEX, MAX_INDEX_BYTES), max_bytes=MAX_INDEX_BYTES)
    items = document.get("items")
    if document.keys() != {"schema", "fetched_at", "items"} or document["schema"] != SCHEMA or type(items) is not list:
        raise MalformedError(f"{INDEX} is not a collateral index")
    _instant(document["fetched_at"], "fetched_at")
    if len(items) > MAX_ITEMS:
        raise MalformedError(f"{INDEX} lists {len(items)} items, at most {MAX_ITEMS} are allowed")
    digests: dict[str, bytes] = {}
    for item in items:
        path, digest = _entry(item)
        if path in digests:
            raise MalformedError(f"{INDEX} lists {path!a} twice")
        digests[path] = digest
    return digests


def _entry(item: Any) -> tuple[str, bytes]:
    if type(item) is not dict or not {"path", "kind", "sha256", "source"} <= item.keys() <= _FIELDS:
        raise MalformedError(f"{INDEX} has an item that is none")
    if any(type(item[name]) is not str or len(item[name]) > 1_024 for name in ("path", "kind", "sha256", "source")):
        raise MalformedError(f"{INDEX} has an item that is none")
    path, digest = item["path"], item["sha256"]
    if _PATH.fullmatch(path) is None or path == INDEX:
        raise MalformedError(f"{INDEX} names a path that is none: {path[:200]!a}")
    if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
        raise MalformedError(f"{INDEX} has no SHA-256 for {path!a}")
    for name in ("not_before", "not_after"):
        if item.get(name) is not None:
            _instant(item[name], name)
    return path, bytes.fromhex(digest)


def _instant(value: Any, name: str) -> None:
    try:
        clock.parse_rfc3339(value)
    except (ValueError, TypeError, AttributeError) as error:
        raise MalformedError(f"{INDEX} has a {name} that is no RFC 3339 time") from error


def _files(folder: Path) -> set[str]:
    """Return every file below *folder*; links are named too, so that they count as not listed."""
    found: set[str] = set()
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        found |= {(Path(parent) / name).relative_to(folder).as_posix() for name in (*files, *links)}
        if len(found) > MAX_ITEMS + 1:
            raise MalformedError(f"the collateral folder has more than {MAX_ITEMS} files")
    return found


def _item(folder: Path, path: str, digest: bytes) -> bytes:
    if (folder / path).is_symlink():
        raise RejectedError(f"collateral file {path!a} is a link", code=ALTERED)
    data = _read(folder / path, MAX_CRL_BYTES)
    actual = hashlib.sha256(data)
    if actual.digest() != digest:
        raise RejectedError(
            f"collateral file {path!a} is not as it was fetched",
            code=ALTERED,
            expected=digest.hex(),
            actual=actual.hexdigest(),
            hint="fetch it again",
        )
    return data


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UnavailableError(f"cannot read collateral {path}: {error.strerror}") from error
    if len(data) > limit:
        raise MalformedError(f"collateral {path} has more than {limit} bytes")
    return data
