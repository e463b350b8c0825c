"""AWS KMS, and whatever speaks its protocol: `kms serve` above all (key-release.md section 1).

The publisher's side generates and wraps; the host's side hands a document on
and hands the sealed answer back. Both always name the key and hold the
answer's key against it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from ephemeralml import clock
from ephemeralml.crypto.data_key import DEK_BYTES, EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import EphemeralError, MalformedError
from ephemeralml.keyrelease import faults, records
from ephemeralml.keyrelease.base import MAX_WRAPPED_BYTES, ReleaseAttester, checked_context, take_secret
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.recipient import RecipientKey
from ephemeralml.keyrelease.records import RELEASED, ReleaseRecord
from ephemeralml.keyrelease.retries import RetryRules
from ephemeralml.keyrelease.uris import KeyUri, Provider

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

ALGORITHM = "RSAES_OAEP_SHA_256"
MAX_DOCUMENT_BYTES = 262_144
MAX_ENVELOPE_BYTES = 16_384

_CONNECT_SECONDS = 3
_READ_SECONDS = 7
# Five tries of ten seconds and the waits between them stay below the sixty in all.
_STATE_UNKNOWN = "KMSInvalidStateException"


@dataclass(frozen=True, slots=True)
class Released:
    """What the host passes back into the enclave; the key is inside, sealed to the recipient."""

    ciphertext_for_recipient: bytes = field(repr=False)
    key_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class KeyDescription:
    """What DescribeKey says of a key."""

    arn: str
    state: str
    """``Enabled``, ``Disabled``, ``PendingDeletion`` …"""
    spec: str
    usage: str
    origin: str
    multi_region: bool


class AwsKms:
    """One key of AWS KMS or of a server with its protocol. May be used from several threads.

    Args:
        uri: The key, or an alias, which is resolved before its first use.
        endpoint: Where the service is; None for what the SDK is configured for.
        client: A boto3 client instead of one made here.
        retries: How often a failing service is asked.
        now: Clock of the records.
        observer: Is told of every release by `unwrap`.
    """

    def __init__(
        self,
        uri: KeyUri,
        *,
        endpoint: str | None = None,
        client: "KMSClient | None" = None,
        retries: RetryRules | None = None,
        now: Callable[[], datetime] = clock.now,
        observer: Callable[[ReleaseRecord], None] = lambda _: None,
    ) -> None:
        if uri.provider is Provider.GCP_KMS:
            raise MalformedError(f"{uri} is no key of an AWS KMS")
        self._uri = uri
        self._endpoint = endpoint
        self._client = client
        self._retries = retries or RetryRules()
        self._now = now
        self._observer = observer
        self._lock = Lock()

    @property
    def uri(self) -> str:
        """The key's full URI; an alias is resolved first."""
        return str(self._key())

    def describe(self) -> KeyDescription:
        """Return what the service says of the key.

        Raises:
            RejectedError: The credentials may not (KEY_RELEASE_DENIED).
            UnavailableError: The key, service or credentials are missing.
        """
        answer = self._call("describe_key", Asked("DescribeKey", str(self._uri)), KeyId=self._uri.resource)
        metadata = answer.get("KeyMetadata")
        if not isinstance(metadata, Mapping):
            raise faults.response_invalid("no key metadata")
        text = {name: str(metadata.get(name, "")) for name in ("Arn", "KeyState", "KeySpec", "KeyUsage", "Origin")}
        return KeyDescription(
            text["Arn"],
            text["KeyState"],
            text["KeySpec"],
            text["KeyUsage"],
            text["Origin"],
            metadata.get("MultiRegion") is True,
        )

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        """Make a data key under *context*; the publisher's side.

        Raises:
            MalformedError: A context that no KMS takes.
            RejectedError: Refused, or the answer must not be used.
            UnavailableError: The key, service or credentials are missing.
        """
        pairs, key = checked_context(context), self._key()
        answer = self._call(
            "generate_data_key",
            Asked("GenerateDataKey", str(key), context=pairs),
            KeyId=key.resource,
            KeySpec="AES_256",
            EncryptionContext=pairs,
        )
        secret = _secret(answer)
        try:
            wrapped = self._wrapped(answer, pairs)
        except EphemeralError:
            secret.wipe()
            raise
        return secret, wrapped

    def wrap(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        """Wrap a data key that exists already; errors as `generate`."""
        pairs, key = checked_context(context), self._key()
        plaintext = bytes(dek.reveal())
        try:
            answer = self._call(
                "encrypt",
                Asked("Encrypt", str(key), context=pairs),
                KeyId=key.resource,
                Plaintext=plaintext,
                EncryptionContext=pairs,
            )
        finally:
            wipe_bytes(plaintext)
        return self._wrapped(answer, pairs)

    def near(self, wrapped: WrappedKey) -> bool:
        """Return whether *wrapped* is of a key that the same service has: what `re_encrypt` takes."""
        try:
            source = KeyUri.parse(wrapped.key)
        except MalformedError:
            return False
        return (source.provider, source.region) == (self._uri.provider, self._uri.region)

    def re_encrypt(self, wrapped: WrappedKey, context: EncryptionContext) -> WrappedKey:
        """Have the service move a data key from its key to this one, under *context*; nobody here sees it.

        Raises:
            MalformedError: An entry of another service, or a context that no KMS takes.
            RejectedError: Refused (KEY_RELEASE_DENIED: ReEncryptFrom on the one key
                and ReEncryptTo on the other are needed), or the answer must not be used.
            UnavailableError: A key, the service or the credentials are missing.
        """
        old, new, key = checked_context(wrapped.context), checked_context(context), self._key()
        source = KeyUri.parse(wrapped.key)
        if not self.near(wrapped) or not 1 <= len(wrapped.ciphertext) <= MAX_WRAPPED_BYTES:
            raise MalformedError(f"a wrapped key of {wrapped.key[:200]!a} cannot be moved to {key}")
        answer = self._call(
            "re_encrypt",
            Asked("ReEncrypt", str(key), context=new),
            CiphertextBlob=wrapped.ciphertext,
            SourceKeyId=source.resource,
            SourceEncryptionContext=old,
            DestinationKeyId=key.resource,
            DestinationEncryptionContext=new,
        )
        if answer.get("SourceKeyId") != source.resource:
            raise faults.response_invalid("it names another source key than the one asked for")
        return self._wrapped(answer, new)

    def decrypt_plain(self, wrapped: WrappedKey) -> SecretBytes:
        """Have the key in the clear, without attestation, where the key's policy lets an operator.

        Raises:
            RejectedError: It does not (KEY_RELEASE_DENIED), or the entry is wrong.
            UnavailableError: The key, service or credentials are missing.
        """
        pairs, key = checked_context(wrapped.context), self._named(wrapped)
        answer = self._call(
            "decrypt",
            Asked("Decrypt", str(key), context=pairs),
            KeyId=key.resource,
            CiphertextBlob=wrapped.ciphertext,
            EncryptionContext=pairs,
        )
        secret = _secret(answer)
        try:
            self._check_key(answer)
        except EphemeralError:
            secret.wipe()
            raise
        return secret

    def release(self, ciphertext: bytes, context: EncryptionContext, document: bytes) -> Released:
        """Ask for the key with an attestation document; what comes back is sealed to its recipient.

        Raises:
            MalformedError: A context or document that no KMS takes.
            RejectedError: Refused, or the answer must not be used; a service
                that sends plaintext all the same has it wiped here
                (KEY_PLAINTEXT_RETURNED).
            UnavailableError: The key, service or credentials are missing.
        """
        pairs, key = checked_context(context), self._key()
        if not 1 <= len(document) <= MAX_DOCUMENT_BYTES:
            raise MalformedError(f"an attestation document of {len(document)} bytes")
        asked = Asked("Decrypt", str(key), True, records.document_pcr0(document), pairs)
        answer = self._call(
            "decrypt",
            asked,
            KeyId=key.resource,
            CiphertextBlob=ciphertext,
            EncryptionContext=pairs,
            Recipient={"KeyEncryptionAlgorithm": ALGORITHM, "AttestationDocument": document},
        )
        plaintext = answer.get("Plaintext")
        if plaintext:
            wipe_bytes(plaintext)
            raise faults.plaintext_returned(asked)
        envelope = answer.get("CiphertextForRecipient")
        if not isinstance(envelope, bytes) or not 1 <= len(envelope) <= MAX_ENVELOPE_BYTES:
            raise faults.response_invalid("no ciphertext for the recipient")
        self._check_key(answer)
        # It comes from the network and goes into logs.
        request_id = records.checked_request_id(answer.get("ResponseMetadata", {}).get("RequestId"))
        return Released(envelope, key.resource, request_id or "")

    def unwrap(self, wrapped: WrappedKey, *, attester: ReleaseAttester) -> SecretBytes:
        """Have the key released to *attester*'s machine, to a recipient key made for this call.

        Raises:
            MalformedError: What came back is no envelope, or the entry is none for a KMS.
            RejectedError: Refused, or the answer must not be used.
            UnavailableError: The key, service or credentials are missing.
        """
        self._named(wrapped)
        recipient = RecipientKey.generate()
        document = attester.attest_release(recipient.spki)
        request_id = None
        try:
            released = self.release(wrapped.ciphertext, wrapped.context, document)
            request_id = released.request_id
            secret = recipient.open(released.ciphertext_for_recipient)
        except EphemeralError as error:
            self._record(wrapped, document, request_id, records.outcome_of(error))
            raise
        finally:
            recipient.drop()
        self._record(wrapped, document, request_id, RELEASED)
        return secret

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _record(self, wrapped: WrappedKey, document: bytes, request_id: str | None, outcome: str) -> None:
        self._observer(
            records.record(wrapped, at=self._now(), document=document, request_id=request_id, outcome=outcome)
        )

    def _key(self) -> KeyUri:
        if self._uri.alias:
            self._uri = KeyUri.parse(f"{self._uri.provider}:{self.describe().arn}")
        return self._uri

    def _named(self, wrapped: WrappedKey) -> KeyUri:
        key = self._key()
        if wrapped.key != str(key) or wrapped.provider != key.provider:
            raise MalformedError(f"a wrapped key of {wrapped.key[:200]!a}, not of {key}")
        if not 1 <= len(wrapped.ciphertext) <= MAX_WRAPPED_BYTES:
            raise MalformedError(f"a wrapped key of {len(wrapped.ciphertext)} bytes")
        return key

    def _wrapped(self, answer: Mapping[str, Any], context: dict[str, str]) -> WrappedKey:
        ciphertext = answer.get("CiphertextBlob")
        if not isinstance(ciphertext, bytes) or not 1 <= len(ciphertext) <= MAX_WRAPPED_BYTES:
            raise faults.response_invalid("no wrapped key")
        self._check_key(answer)
        return WrappedKey(self._uri.provider.value, str(self._uri), ciphertext, context)

    def _check_key(self, answer: Mapping[str, Any]) -> None:
        if answer.get("KeyId") != self._uri.resource:
            raise faults.response_invalid("it names another key than the one asked for")

    def _call(self, operation: str, asked: Asked, **fields: Any) -> dict[str, Any]:
        from ephemeralml.keyrelease import aws_client

        with self._lock:
            if self._client is None:
                self._client = aws_client.connect(
                    self._uri.region, self._endpoint, asked, connect=_CONNECT_SECONDS, read=_READ_SECONDS
                )
            client = self._client
        try:
            return self._retries.run(lambda: aws_client.call(client, operation, asked, fields))
        except faults.KeyUnavailableError as error:
            if error.kms_error == _STATE_UNKNOWN and operation != "describe_key":
                raise faults.from_aws(_STATE_UNKNOWN, asked, state=self._state()) from error
            raise

    def _state(self) -> str | None:
        try:
            return self.describe().state
        except EphemeralError:
            return None


def _secret(answer: Mapping[str, Any]) -> SecretBytes:
    plaintext = answer.get("Plaintext")
    secret = take_secret(plaintext) if isinstance(plaintext, bytes) else None
    if secret is None:
        raise faults.response_invalid(f"no data key of {DEK_BYTES} bytes")
    return secret
