"""Key release from inside an enclave, through the host's services (nitro-platform.md section 7).

The host adds credentials and the endpoint, nothing else. It sees the wrapped
key, the document and the sealed answer; it can refuse, replay or lie, and none
of that yields a key that opens a package.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from ephemeralml import clock
from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, MalformedError
from ephemeralml.keyrelease import faults, records
from ephemeralml.keyrelease.base import MAX_WRAPPED_BYTES, ReleaseAttester, checked_context
from ephemeralml.keyrelease.faults import Asked, Fault, KeyUnavailableError
from ephemeralml.keyrelease.recipient import RecipientKey
from ephemeralml.keyrelease.records import RELEASED, ReleaseRecord
from ephemeralml.keyrelease.uris import KeyUri, Provider

Post = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Sends one JSON object to ``/kms/decrypt`` and returns the one that answers it, within its own deadline."""

MAX_REQUEST_BYTES = 65_536
"""Of ``POST /kms/decrypt``; a document and a wrapped key of the greatest size fit."""

_ENVELOPE_CHARACTERS = 4 * 16_384 // 3
_ANSWER = frozenset({"ciphertext_for_recipient", "key_id", "request_id"})


class RelayedKms:
    """What releases keys to a runtime: the host asks, this boot's recipient key opens.

    Args:
        post: Brings a request to the host services.
        recipient: This boot's key; the caller drops it after the last package.
        now: Clock of the records.
        observer: Is told of every try.
    """

    def __init__(
        self,
        post: Post,
        recipient: RecipientKey,
        *,
        now: Callable[[], datetime] = clock.now,
        observer: Callable[[ReleaseRecord], None] = lambda _: None,
    ) -> None:
        self._post = post
        self._recipient = recipient
        self._now = now
        self._observer = observer

    def unwrap(self, wrapped: WrappedKey, *, attester: ReleaseAttester) -> SecretBytes:
        """Have a package's key released to this boot.

        That the key was allowed by measured configuration and that the context
        is the manifest's own, the caller has checked; that the key fits the
        package, the signed chunk roots tell.

        Raises:
            MalformedError: The entry or the answer does not parse.
            RejectedError: Refused, another key's answer, plaintext in the
                answer (KEY_PLAINTEXT_RETURNED), or it does not open.
            UnavailableError: The host, key or service does not serve.
        """
        key, pairs = _entry(wrapped), checked_context(wrapped.context)
        document = attester.attest_release(self._recipient.spki)
        asked = Asked("Decrypt", str(key), True, records.document_pcr0(document), pairs)
        answer: Mapping[str, Any] = {}
        try:
            answer = self._post(
                {
                    "key": str(key),
                    "ciphertext": base64.b64encode(wrapped.ciphertext).decode(),
                    "context": pairs,
                    "document": base64.b64encode(document).decode(),
                }
            )
            secret = self._recipient.open(_envelope(answer, key, asked))
        except EphemeralError as error:
            self._record(wrapped, document, answer, records.outcome_of(error))
            raise
        self._record(wrapped, document, answer, RELEASED)
        return secret

    def _record(self, wrapped: WrappedKey, document: bytes, answer: Mapping[str, Any], outcome: str) -> None:
        self._observer(
            records.record(
                wrapped, at=self._now(), document=document, request_id=answer.get("request_id"), outcome=outcome
            )
        )


def _entry(wrapped: WrappedKey) -> KeyUri:
    key = KeyUri.parse(wrapped.key)
    if wrapped.provider != key.provider:
        raise MalformedError(f"an entry of {wrapped.provider[:32]!a} that names {key}")
    if key.provider is Provider.GCP_KMS:
        # Cloud KMS answers in the clear: its TLS must end inside the TEE.
        raise KeyUnavailableError(f"{key} is not released through a relay")
    if not 1 <= len(wrapped.ciphertext) <= MAX_WRAPPED_BYTES:
        raise MalformedError(f"a wrapped key of {len(wrapped.ciphertext)} bytes")
    return key


def _envelope(answer: Mapping[str, Any], key: KeyUri, asked: Asked) -> bytes:
    if any(name.lower() == "plaintext" and answer[name] for name in answer):
        raise faults.plaintext_returned(asked)
    if "error" in answer:
        raise faults.from_wire(answer["error"], asked)
    if set(answer) != _ANSWER:
        raise _malformed("other fields than the three it has")
    if answer["key_id"] != key.resource:
        raise faults.response_invalid("it names another key than the one asked for")
    text = answer["ciphertext_for_recipient"]
    if not isinstance(text, str) or not 1 <= len(text) <= _ENVELOPE_CHARACTERS:
        raise _malformed("no ciphertext for the recipient")
    try:
        envelope = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _malformed("a ciphertext that is not base64") from error
    if base64.b64encode(envelope).decode() != text:
        raise _malformed("a ciphertext whose base64 has a second spelling")
    return envelope


def _malformed(what: str) -> MalformedError:
    return MalformedError(f"the host services' answer for a key does not parse: {what}", code=Fault.RESPONSE_INVALID)
