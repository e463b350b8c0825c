"""The way to the KMS: what the enclave asks for goes on with the host's credentials, nothing else.

The host sees a wrapped key go and one encrypted for the enclave come back. It
adds credentials and the endpoint; which keys may be asked at all is its own
configuration (nitro-platform section 7).
"""

import base64
import binascii
import json
import logging
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from ephemeralml.errors import EphemeralError, MalformedError
from ephemeralml.keyrelease.aws import Released
from ephemeralml.keyrelease.faults import NOT_CONFIGURED, wire_code
from ephemeralml.keyrelease.uris import KeyUri

log = logging.getLogger(__name__)

AT_ONCE = 8
_FIELDS = frozenset({"key", "ciphertext", "context", "document"})
_MAX_CONTEXT_PAIRS = 8


class Releaser(Protocol):
    """A KMS, asked with the host's credentials for one key."""

    def release(self, ciphertext: bytes, context: Mapping[str, str], document: bytes) -> Released:
        """Ask the KMS; errors are those of key-release.md section 1."""


class KeyDesk:
    """``POST /kms/decrypt``.

    Args:
        keys: The keys of the host's configuration, by URI.
    """

    def __init__(self, keys: Mapping[str, Releaser]) -> None:
        self._keys = keys
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def handle(self, body: bytes) -> tuple[int, bytes]:
        """Return status and JSON of the answer to *body*."""
        try:
            key, ciphertext, context, document = _request(body)
        except MalformedError as error:
            log.warning("a key release was asked for in a form that is none: %s", error.message)
            return _answer(400, {"error": "MalformedRequest"})
        releaser = self._keys.get(key)
        if releaser is None:
            log.warning("a key release was asked for under %s, which this host was not given with --key", _shown(key))
            return _answer(403, {"error": NOT_CONFIGURED})
        if not self._turns.acquire(blocking=False):
            return _answer(503, {"error": "ThrottlingException"})
        try:
            released = releaser.release(ciphertext, context, document)
        except EphemeralError as error:
            log.warning("%s was not released: %s", key, error.message)
            return _answer(200, {"error": wire_code(error)})
        finally:
            self._turns.release()
        log.info("%s was released, request %s", key, released.request_id)
        sealed = base64.b64encode(released.ciphertext_for_recipient).decode()
        return _answer(
            200, {"ciphertext_for_recipient": sealed, "key_id": released.key_id, "request_id": released.request_id}
        )


def _shown(key: str) -> str:
    """Return a key's URI for the log; what is none came from the enclave and stays out of it."""
    try:
        return str(KeyUri.parse(key))
    except MalformedError:
        return "something that is no key"


def _answer(status: int, document: Mapping[str, Any]) -> tuple[int, bytes]:
    return status, json.dumps(document).encode()


def _request(body: bytes) -> tuple[str, bytes, dict[str, str], bytes]:
    """Read a request; every name once, and no other names.

    Raises:
        MalformedError: It is none.
    """
    try:
        document = json.loads(body.decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise MalformedError("no JSON") from error
    if type(document) is not dict or document.keys() != _FIELDS:
        raise MalformedError("other fields than key, ciphertext, context and document")
    key, context = document["key"], document["context"]
    if type(key) is not str:
        raise MalformedError("key is no text")
    if type(context) is not dict or len(context) > _MAX_CONTEXT_PAIRS:
        raise MalformedError("context is no small object")
    if not all(type(value) is str for value in context.values()):
        raise MalformedError("a value of context is no text")
    return key, _bytes(document["ciphertext"]), context, _bytes(document["document"])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a repeated name")
    return found


def _bytes(value: object) -> bytes:
    try:
        if type(value) is str:
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError("a field is no base64") from error
    raise MalformedError("a field is no text")
