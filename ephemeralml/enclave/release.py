"""Key release: from a package's wrapped keys to its data key (key-release sections 1 and 2).

Which keys may be asked is measured; what each wrapped key is bound to is made
again from the signed manifest. So neither the host nor whoever wrote
``keys.json`` decides anything here, and a data key proves nothing: that the
package is the right one, its signed digests say.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ephemeralml.attestation.verdict import printable
from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.enclave.attesters.base import Attester
from ephemeralml.enclave.config import KeyRules
from ephemeralml.enclave.host_services import HostServices
from ephemeralml.enclave.loading import Offer
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.base import ReleaseAttester
from ephemeralml.keyrelease.recipient import RecipientKey, release_user_data
from ephemeralml.keyrelease.records import ReleaseRecord
from ephemeralml.keyrelease.relayed import RelayedKms
from ephemeralml.model.encryption import expected_context
from ephemeralml.model.keys_file import parse_keys

NONCE_BYTES = 32
_ROUTE = "/kms/decrypt"
PLAINTEXT_RETURNED = "KEY_PLAINTEXT_RETURNED"
"""A KMS that answers with a key in the clear was not asked for one: nothing is tried after that."""

Unwrap = Callable[[WrappedKey, ReleaseAttester], SecretBytes]
"""Has one wrapped key released to this machine."""


@dataclass(frozen=True, slots=True)
class ReleaseDocuments:
    """A `ReleaseAttester`: documents that tie a recipient's key to this boot's receipts."""

    attester: Attester
    receipt_public: bytes

    def attest_release(self, recipient_spki: bytes) -> bytes:
        """Return a document that binds the recipient's RSA key; errors as `Attester.attest_release`."""
        return self.attester.attest_release(
            public_key=recipient_spki,
            user_data=release_user_data(recipient_spki, self.receipt_public),
            nonce=os.urandom(NONCE_BYTES),
        )


def document_to_ask_with(attester: Attester) -> bytes:
    """Make a document of this very image that a KMS takes, and that opens nothing.

    Its recipient's key is dropped here: what a KMS seals to it stays sealed. So
    it can be kept, to ask a key whether its policy lets this image in.

    Raises:
        UnavailableError: The device does not answer, refuses, or did not bind.
        MalformedError: What it answered is no document.
    """
    recipient = RecipientKey.generate()
    recipient.drop()
    return ReleaseDocuments(attester, os.urandom(NONCE_BYTES)).attest_release(recipient.spki)


@dataclass(frozen=True, slots=True)
class KeyRelease:
    """Opens packages under the measured rules.

    Args:
        rules: Which keys may be asked, and what their contexts must say.
        unwrap: Asks one.
        attester: This boot's word for it.
    """

    rules: KeyRules
    unwrap: Unwrap
    attester: ReleaseAttester

    def data_key(self, offer: Offer) -> SecretBytes:
        """Return the data key of an encrypted package; the caller wipes it.

        1. ``keys.json`` parses.
        2. Entries under keys that the configuration does not name are left out.  KEY_NOT_ALLOWED if none is left
        3. In order: the context is the one made from the manifest.               CONTEXT_MISMATCH
        4. The KMS releases the key. The first one is final; whether it is the
           right one, the package's tags and digests tell.

        An entry that fails at 3 or 4 falls through to the next; when all have,
        the gravest of their errors is raised. A KMS that returns a key in the
        clear ends it at once.

        Raises:
            MalformedError: 1.
            RejectedError: 2 and 3; 4 with the codes of key-release.md section 1.
            UnavailableError: No KMS could be asked, or it is not at hand.
        """
        # 1
        entries = parse_keys(offer.package.keys_bytes())
        # 2
        allowed = [entry for entry in entries if entry.key in self.rules.uris]
        if not allowed:
            raise RejectedError(
                f"no key that the configuration allows opens {offer.name}",
                code="KEY_NOT_ALLOWED",
                expected=list(self.rules.uris),
                actual=[entry.key for entry in entries],
                hint="wrap its key for one of them with model rewrap, or measure a configuration that names its key",
            )
        failures: list[EphemeralError] = []
        for entry in allowed:
            try:
                # 3
                expected_context(offer.verified, entry, bind_manifest=self.rules.bind_manifest)
                # 4
                return self.unwrap(entry, self.attester)
            except EphemeralError as error:
                if getattr(error, "code", None) == PLAINTEXT_RETURNED:
                    raise
                failures.append(error)
        raise _gravest(failures)


def _gravest(failures: Sequence[EphemeralError]) -> EphemeralError:
    """Return the first refusal, else the first answer that made no sense, else the first failure."""
    for kind in (RejectedError, MalformedError, UnavailableError):
        for error in failures:
            if isinstance(error, kind):
                return error
    return failures[0]


def over_services(
    services: HostServices | None, recipient: RecipientKey | None, record: Callable[[ReleaseRecord], None]
) -> Unwrap:
    """Return how a wrapped key is released through the host's services.

    Args:
        services: The host's; a runtime without has no way to a KMS.
        recipient: This boot's key.
        record: Told of every try.

    Raises:
        UnavailableError: There are no services.
    """
    if services is None or recipient is None:
        raise UnavailableError(
            "an encrypted package, and no way to a KMS",
            hint="name the host's services in [services] of the measured configuration",
        )
    kms = RelayedKms(lambda document: services.post(_ROUTE, document), recipient, observer=record)

    def unwrap(wrapped: WrappedKey, attester: ReleaseAttester) -> SecretBytes:
        return kms.unwrap(wrapped, attester=attester)

    return unwrap


def require_rules(rules: KeyRules | None, encrypted: Sequence[Offer]) -> KeyRules:
    """Return the measured rules for keys, without which no encrypted package is opened.

    Raises:
        RejectedError: There are none (code KEY_NOT_ALLOWED).
    """
    if rules is None:
        names = printable(", ".join(offer.name for offer in encrypted), 200)
        raise RejectedError(
            f"{names} is encrypted, and the configuration allows no key",
            code="KEY_NOT_ALLOWED",
            hint="name its key in [keys] of the measured configuration",
        )
    return rules
