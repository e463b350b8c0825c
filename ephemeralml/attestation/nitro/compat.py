"""The older binding of a receipt key: inside `user_data` (air-v1 section 7).

Earlier deployments put a map there, as JSON or CBOR. It binds offline, with a
warning, and never satisfies a live session.
"""

from typing import Any, NamedTuple

from ephemeralml.crypto import cbor, strict_json
from ephemeralml.errors import MalformedError

FORM_JSON = "nitro-user-data-json"
FORM_CBOR = "nitro-user-data-cbor"

_MAX_BYTES = 512
_REQUIRED = frozenset({"receipt_signing_key", "protocol_version", "supported_features"})
_OPTIONAL = frozenset({"hpke_public_key", "kms_public_key", "platform_evidence_hash"})


class CompatKey(NamedTuple):
    """A receipt key found in `user_data`."""

    form: str
    key: bytes


def receipt_key(user_data: bytes) -> CompatKey | None:
    """Return the key that *user_data* carries, JSON tried first, or None where it is no such map."""
    try:
        value: Any = strict_json.parse(user_data, max_bytes=_MAX_BYTES)
        form = FORM_JSON
    except MalformedError:
        try:
            item = cbor.decode_wellformed(user_data, max_bytes=_MAX_BYTES, max_depth=4)
            value = item.unique() if isinstance(item, cbor.Pairs) else None
        except MalformedError:
            return None
        form = FORM_CBOR
    key = _key_of(value, binary=form == FORM_CBOR)
    return CompatKey(form, key) if key is not None else None


def _key_of(value: Any, *, binary: bool) -> bytes | None:
    if type(value) is not dict or not _REQUIRED <= value.keys() <= _REQUIRED | _OPTIONAL:
        return None
    version, features = value["protocol_version"], value["supported_features"]
    if type(version) is not int or version != 1 or type(features) not in (list, tuple):
        return None
    if any(type(feature) is not str for feature in features):
        return None
    return _key_bytes(value["receipt_signing_key"], binary=binary)


def _key_bytes(key: Any, *, binary: bool) -> bytes | None:
    if binary and type(key) is bytes:
        return key if len(key) == 32 else None
    if type(key) not in (list, tuple) or len(key) != 32:
        return None
    # Booleans are integers to Python and no bytes to anybody.
    if any(type(item) is not int or not 0 <= item <= 255 for item in key):
        return None
    return bytes(key)
