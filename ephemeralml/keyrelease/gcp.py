"""Cloud KMS (key-release.md section 7).

It answers in the clear, so the caller of a release must be the TEE itself: TLS
ends inside, under names and certificates that nobody configures. What gates
the release is the token exchange; the key's own policy names the image.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any

from ephemeralml import clock
from ephemeralml.crypto.data_key import DEK_BYTES, EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import EphemeralError, MalformedError
from ephemeralml.keyrelease import faults, records
from ephemeralml.keyrelease.base import MAX_WRAPPED_BYTES, ReleaseAttester, checked_context, take_secret
from ephemeralml.keyrelease.faults import Asked, KeyUnavailableError
from ephemeralml.keyrelease.launcher import checked_provider
from ephemeralml.keyrelease.records import RELEASED, ReleaseRecord
from ephemeralml.keyrelease.retries import RetryRules
from ephemeralml.keyrelease.uris import KeyUri, Provider

if TYPE_CHECKING:
    from ephemeralml.keyrelease.gcp_client import CredentialSource, Services

_CALL_SECONDS = 10.0
_CHECKSUM_TRIES = 3


def additional_data(context: EncryptionContext) -> bytes:
    """Return the bytes that bind a wrapped key to its context at Cloud KMS."""
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class GcpKms:
    """One key of Cloud KMS. May be used from several threads.

    Args:
        uri: The key.
        connect: Makes the library's client, at first use.
        attested: Whether the credentials are those of a measured workload.
        retries: How often a failing service is asked.
        now: Clock of the records.
        observer: Is told of every release by `unwrap`.
    """

    def __init__(
        self,
        uri: KeyUri,
        *,
        connect: Callable[[Asked], Any],
        attested: bool,
        retries: RetryRules | None = None,
        now: Callable[[], datetime] = clock.now,
        observer: Callable[[ReleaseRecord], None] = lambda _: None,
    ) -> None:
        if uri.provider is not Provider.GCP_KMS:
            raise MalformedError(f"{uri} is no key of Cloud KMS")
        self._uri = uri
        self._connect = connect
        self._attested = attested
        self._retries = retries or RetryRules()
        self._now = now
        self._observer = observer
        self._client: Any = None
        self._lock = Lock()

    @classmethod
    def of_operator(cls, uri: KeyUri) -> "GcpKms":
        """Return the key as its publisher uses it, with application default credentials."""

        def connect(asked: Asked) -> Any:
            from ephemeralml.keyrelease import gcp_client

            return gcp_client.connect(gcp_client.operator_credentials(asked))

        return cls(uri, connect=connect, attested=False)

    @classmethod
    def of_workload(
        cls,
        uri: KeyUri,
        source: "CredentialSource",
        provider: str,
        *,
        environment: Mapping[str, str],
        services: "Services | None" = None,
        **options: Any,
    ) -> "GcpKms":
        """Return the key as a Confidential Space workload uses it.

        Args:
            uri: The key.
            source: Makes the tokens to exchange: `LauncherCredentials`.
            provider: The workload identity provider, from measured configuration.
            environment: The process's; refused where it holds a proxy or certificates.
            services: Where Google is, for tests.
            options: As the constructor's.

        Raises:
            MalformedError: No such provider.
            RejectedError: The environment leads elsewhere (KEY_DETOUR).
        """
        from ephemeralml.keyrelease import gcp_client

        gcp_client.refuse_detours(environment)
        places = services or gcp_client.GOOGLE
        credentials = gcp_client.WorkloadCredentials(source, checked_provider(provider), places)
        return cls(uri, connect=lambda _: gcp_client.connect_directly(credentials, places), attested=True, **options)

    @property
    def uri(self) -> str:
        """The key's full URI."""
        return str(self._uri)

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        """Make a data key here and have it wrapped: Cloud KMS makes none itself.

        Raises:
            MalformedError: A context that no KMS takes.
            RejectedError: Refused, or the answer must not be used.
            UnavailableError: The key, service or credentials are missing.
        """
        secret = SecretBytes(bytearray(os.urandom(DEK_BYTES)))
        try:
            return secret, self.wrap(secret, context)
        except BaseException:
            secret.wipe()
            raise

    def wrap(self, dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        """Wrap a data key that exists already; errors as `generate`."""
        import google_crc32c

        pairs = checked_context(context)
        plaintext, aad = bytes(dek.reveal()), additional_data(pairs)
        try:
            request = {
                "name": self._uri.resource,
                "plaintext": plaintext,
                "plaintext_crc32c": google_crc32c.value(plaintext),
                "additional_authenticated_data": aad,
                "additional_authenticated_data_crc32c": google_crc32c.value(aad),
            }
            asked = Asked("Encrypt", self.uri, context=pairs)
            for _ in range(_CHECKSUM_TRIES):
                answer = self._call("encrypt", request, asked)
                ciphertext = answer.ciphertext
                if (
                    answer.verified_plaintext_crc32c
                    and answer.verified_additional_authenticated_data_crc32c
                    and answer.ciphertext_crc32c == google_crc32c.value(ciphertext)
                ):
                    break
            else:
                raise _damaged(asked)
        finally:
            wipe_bytes(plaintext)
        if not answer.name.startswith(f"{self._uri.resource}/cryptoKeyVersions/"):
            raise faults.response_invalid("it names another key than the one asked for")
        if not 1 <= len(ciphertext) <= MAX_WRAPPED_BYTES:
            raise faults.response_invalid("no wrapped key")
        return WrappedKey(self._uri.provider.value, self.uri, ciphertext, pairs)

    def unwrap(self, wrapped: WrappedKey, *, attester: ReleaseAttester) -> SecretBytes:  # noqa: ARG002 - see below
        """Have the key released to this workload.

        The attester is not asked: the credential of the constructor's source is
        what speaks for the machine here.

        Raises:
            MalformedError: The entry is none of this key.
            RejectedError: Refused, or the answer must not be used.
            UnavailableError: The key, service or credentials are missing.
            RuntimeError: These are an operator's credentials.
        """
        if not self._attested:
            raise RuntimeError("an operator's credentials do not stand for a workload: decrypt_plain")
        try:
            secret = self.decrypt_plain(wrapped)
        except EphemeralError as error:
            self._record(wrapped, records.outcome_of(error))
            raise
        self._record(wrapped, RELEASED)
        return secret

    def decrypt_plain(self, wrapped: WrappedKey) -> SecretBytes:
        """Have the key in the clear with whatever credentials these are; errors as `unwrap`."""
        import google_crc32c

        pairs = checked_context(wrapped.context)
        if wrapped.key != self.uri or wrapped.provider != self._uri.provider:
            raise MalformedError(f"a wrapped key of {wrapped.key[:200]!a}, not of {self.uri}")
        if not 1 <= len(wrapped.ciphertext) <= MAX_WRAPPED_BYTES:
            raise MalformedError(f"a wrapped key of {len(wrapped.ciphertext)} bytes")
        aad = additional_data(pairs)
        request = {
            "name": self._uri.resource,
            "ciphertext": wrapped.ciphertext,
            "ciphertext_crc32c": google_crc32c.value(wrapped.ciphertext),
            "additional_authenticated_data": aad,
            "additional_authenticated_data_crc32c": google_crc32c.value(aad),
        }
        asked = Asked("Decrypt", self.uri, self._attested, context=pairs)
        for _ in range(_CHECKSUM_TRIES):
            answer = self._call("decrypt", request, asked)
            plaintext = answer.plaintext
            intact = answer.plaintext_crc32c == google_crc32c.value(plaintext)
            secret = take_secret(plaintext)
            if intact:
                break
            if secret is not None:
                secret.wipe()
        else:
            raise _damaged(asked)
        if secret is None:
            raise faults.response_invalid(f"no data key of {DEK_BYTES} bytes")
        return secret

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.transport.close()
            self._client = None

    def _call(self, operation: str, request: Mapping[str, Any], asked: Asked) -> Any:
        from ephemeralml.keyrelease import gcp_client

        with self._lock:
            if self._client is None:
                self._client = self._connect(asked)
        method = getattr(self._client, operation)
        # The library's own retries are off: ours are the specification's.
        return self._retries.run(
            lambda: gcp_client.call(lambda: method(request=request, retry=None, timeout=_CALL_SECONDS), asked)
        )

    def _record(self, wrapped: WrappedKey, outcome: str) -> None:
        self._observer(records.record(wrapped, at=self._now(), document=None, request_id=None, outcome=outcome))


def _damaged(asked: Asked) -> KeyUnavailableError:
    return KeyUnavailableError(f"what Cloud KMS answers {asked.action} with arrives damaged (CRC32C)")
