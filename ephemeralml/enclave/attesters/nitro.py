"""Evidence from a Nitro Secure Module, real or software (attestation sections 1 to 3)."""

from collections.abc import Mapping
from types import MappingProxyType

from ephemeralml.attestation.binding import nitro_fields
from ephemeralml.attestation.evidence import Evidence, ExpectedBinding, Format, MeasurementType
from ephemeralml.attestation.nitro import document as nitro
from ephemeralml.enclave.attesters.base import SessionEvidence
from ephemeralml.enclave.attesters.nsm import NsmClient
from ephemeralml.errors import UnavailableError

_SLOTS = {"pcr0": 0, "pcr1": 1, "pcr2": 2, "pcr3": 3, "pcr4": 4, "pcr8": 8}
_ALWAYS = frozenset({0, 1, 2})


class NitroAttester:
    """An attester over the module's protocol; *software* says whether hardware stands behind it."""

    def __init__(self, client: NsmClient, *, software: bool) -> None:
        self._client = client
        self._software = software

    @property
    def format(self) -> Format:
        """``local`` for the software module, else ``nitro``."""
        return Format.LOCAL if self._software else Format.NITRO

    @property
    def software(self) -> bool:
        """Whether no hardware stands behind the evidence."""
        return self._software

    def attest(self, binding: ExpectedBinding) -> SessionEvidence:
        """Ask for a document that carries *binding*, and read its registers.

        The document is read back before it leaves: a module that answers
        without our values would only produce sessions that every client
        refuses, and is better named here.

        Raises:
            UnavailableError: The module does not answer, or did not bind.
            MalformedError: Its answer is no document.
        """
        raw, document = self._document(*nitro_fields(binding))
        return SessionEvidence(
            evidence=Evidence(self.format, raw),
            registers=receipt_registers(document),
            measurement_type=MeasurementType.NITRO_PCR,
            debug=document.debug,
        )

    def attest_release(self, *, public_key: bytes, user_data: bytes, nonce: bytes) -> bytes:
        """Ask for a document under which a KMS releases a key; see `Attester.attest_release`."""
        raw, _ = self._document(public_key, user_data, nonce)
        return raw

    def close(self) -> None:
        """Release the module."""
        self._client.close()

    def _document(
        self, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None
    ) -> tuple[bytes, nitro.NitroDocument]:
        raw = self._client.attestation(public_key=public_key, user_data=user_data, nonce=nonce)
        document = nitro.parse(raw)
        if (document.public_key, document.user_data, document.nonce) != (public_key, user_data, nonce):
            raise UnavailableError("the NSM's document does not carry the values it was given")
        return raw, document


def receipt_registers(document: nitro.NitroDocument) -> Mapping[str, bytes]:
    """Return the registers a receipt copies from *document* (air-v1 section 4).

    PCR3, PCR4 and PCR8 are optional there and left out where they are zero:
    they then say nothing (no role, no instance, image not signed).
    """
    registers = {
        slot: document.pcrs[index]
        for slot, index in _SLOTS.items()
        if index in _ALWAYS or any(document.pcrs.get(index, b""))
    }
    return MappingProxyType(registers)
