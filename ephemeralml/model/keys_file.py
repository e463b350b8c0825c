"""``keys.json``: a package's data key, wrapped for one or more KMS keys (model-package.md section 6).

The file is unsigned on purpose. What it says is used only where the signed
manifest or measured configuration says the same, and a wrong data key opens
nothing.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.crypto.data_key import MAX_CONTEXT_PAIRS, WrappedKey
from ephemeralml.errors import MalformedError

MAX_KEYS_BYTES = 64 << 10
MAX_ENTRIES = 16
MAX_CIPHERTEXT_CHARACTERS = 8_192
MAX_CONTEXT_CHARACTERS = 8_192
"""Of all names and values together; KMS's own limit."""
MAX_URI_CHARACTERS = 2_048
PROVIDERS = ("aws-kms", "gcp-kms", "local")


def parse_keys(data: bytes) -> tuple[WrappedKey, ...]:
    """Read ``keys.json``; fields that are not known are ignored.

    Whether a key may be used and the context holds is not checked here: the
    first is measured configuration's to say, the second `expected_context`'s.

    Raises:
        MalformedError: Not such a list, or over a limit.
    """
    try:
        return _entries(strict_json.parse(data, max_bytes=MAX_KEYS_BYTES))
    except MalformedError as error:
        raise MalformedError(f"keys.json: {error.message}") from error


def encode_keys(entries: Sequence[WrappedKey]) -> bytes:
    """Return *entries* as ``keys.json``; `parse_keys` reads the same back.

    Raises:
        MalformedError: They are none, too many or too large.
    """
    document = [
        {
            "provider": entry.provider,
            "key": entry.key,
            "ciphertext": base64.b64encode(entry.ciphertext).decode(),
            "context": dict(entry.context),
        }
        for entry in entries
    ]
    data = json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
    parse_keys(data)
    return data


def _entries(document: Any) -> tuple[WrappedKey, ...]:
    if type(document) is not list or not 0 < len(document) <= MAX_ENTRIES:
        raise MalformedError(f"a list of 1 to {MAX_ENTRIES} wrapped keys was expected")
    return tuple(map(_entry, document))


def _entry(entry: Any) -> WrappedKey:
    if type(entry) is not dict:
        raise MalformedError("a wrapped key is not an object")
    provider, key = entry.get("provider"), entry.get("key")
    if type(provider) is not str or provider not in PROVIDERS:
        raise MalformedError(f"provider is {ascii(provider)[:64]}, known are {', '.join(PROVIDERS)}")
    return WrappedKey(provider, _uri(key, provider), _ciphertext(entry.get("ciphertext")), _context(entry))


def _uri(key: Any, provider: str) -> str:
    if type(key) is not str or not key.startswith(f"{provider}:") or len(key) > MAX_URI_CHARACTERS:
        raise MalformedError(f"key is no URI of {provider} of at most {MAX_URI_CHARACTERS} characters")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise MalformedError("key has a space or a character that no key URI has")
    return key


def _ciphertext(text: Any) -> bytes:
    if type(text) is not str or not 0 < len(text) <= MAX_CIPHERTEXT_CHARACTERS:
        raise MalformedError(f"ciphertext is no text of 1 to {MAX_CIPHERTEXT_CHARACTERS} characters")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("ciphertext is not base64") from error
    if base64.b64encode(raw).decode() != text:
        raise MalformedError("ciphertext is not canonical base64")
    return raw


def _context(entry: dict[str, Any]) -> dict[str, str]:
    context = entry.get("context")
    if type(context) is not dict or len(context) > MAX_CONTEXT_PAIRS:
        raise MalformedError(f"context is no object of at most {MAX_CONTEXT_PAIRS} pairs")
    if any(type(value) is not str for value in context.values()):
        raise MalformedError("a value of the context is not text")
    if sum(len(name) + len(value) for name, value in context.items()) > MAX_CONTEXT_CHARACTERS:
        raise MalformedError(f"the context has more than {MAX_CONTEXT_CHARACTERS} characters")
    return context
