"""X.509 certification paths as the TEE vendors issue them (RFC 5280, section 6).

Attestation chains are no WebPKI: leaves carry no names, key usage is not
critical, key identifiers are missing. The rules are therefore attestation
section 2, row N6, and nothing else. What stays out on purpose: trust (the
caller compares the first certificate with its pinned root), revocation, name
constraints and policies (critical ones are refused as unknown), and time,
which `check_validity` judges apart so that a remembered link never depends on
a clock.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Any, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier, SignatureAlgorithmOID

from ephemeralml.errors import MalformedError, RejectedError

MAX_CERTIFICATE_BYTES = 8_192
"""Default bound on one certificate's DER."""

CHAIN_INVALID = "CERT_CHAIN_INVALID"
TIME_INVALID = "CERT_TIME_INVALID"

_LENGTH = rb"(?:[\x00-\x7f]|\x81.|\x82..)"
_HEAD = re.compile(
    rb"\x30" + _LENGTH + rb"\x30" + _LENGTH + rb"\xa0\x03\x02\x01\x02\x02[\x01-\x15](?:[\x01-\x7f]|\x00[\x80-\xff])",
    re.DOTALL,
)
# How a version 3 certificate with a positive serial number begins. Looked at
# before parsing, because cryptography only warns about other serial numbers.
# 21 octets, one more than RFC 5280 grants: AWS issues such.

_PROCESSED = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE})


@dataclass(frozen=True, slots=True)
class PathRules:
    """What the keys and signatures of one vendor's chains must be."""

    name: str
    """Names the rules in messages and in a `LinkCache`."""
    signature: ObjectIdentifier
    """The one signature algorithm."""
    key_fits: Callable[[Any], bool]
    """Whether a public key, of CA or leaf, is of the one kind allowed."""
    max_certificates: int = 9
    """Root and leaf included."""


def _is_p384(key: Any) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


P384_RULES = PathRules("P-384 with SHA-384", SignatureAlgorithmOID.ECDSA_WITH_SHA384, _is_p384)
"""Nitro chains: attestation section 2, row N6."""


class LinkCache:
    """Remembers which certificates' signatures verified under which issuers.

    Failures are never remembered, nor anything that depends on time. Safe to
    share between threads; the least recently used link is forgotten first.
    """

    def __init__(self, max_entries: int = 4_096) -> None:
        self._max_entries = max_entries
        self._links: OrderedDict[tuple[str, bytes, bytes], None] = OrderedDict()
        self._lock = Lock()

    def holds(self, rules: PathRules, issuer: bytes, subject: bytes) -> bool:
        """Return whether the link between two certificates, by SHA-256 of their DER, verified before."""
        link = (rules.name, issuer, subject)
        with self._lock:
            if link not in self._links:
                return False
            self._links.move_to_end(link)
            return True

    def remember(self, rules: PathRules, issuer: bytes, subject: bytes) -> None:
        """Note that the link verified."""
        with self._lock:
            self._links[(rules.name, issuer, subject)] = None
            if len(self._links) > self._max_entries:
                self._links.popitem(last=False)

    def __len__(self) -> int:
        return len(self._links)


def load_der(der: bytes, *, max_bytes: int = MAX_CERTIFICATE_BYTES) -> x509.Certificate:
    """Read one certificate whose key and dates can be used.

    Its extensions are read by `verify_path`, after the signature over them.

    Raises:
        MalformedError: Over *max_bytes*, not the DER of exactly one version 3
            certificate, a serial number that is not positive, or a public key
            that is no key.
    """
    if len(der) > max_bytes:
        raise MalformedError(f"a certificate of {len(der)} bytes, at most {max_bytes} are allowed")
    if _HEAD.match(der) is None:
        raise MalformedError("not a version 3 certificate with a positive serial number, in DER")
    try:
        certificate = x509.load_der_x509_certificate(der)
        certificate.public_key()
        _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        encoded = certificate.public_bytes(Encoding.DER)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("a certificate that does not parse") from error
    # The signature is a whole number of octets; the octet before it says so. With others there,
    # two encodings of one certificate could both verify.
    if encoded != der or der[-len(certificate.signature) - 1] != 0:
        raise MalformedError("a certificate that is not in DER")
    return certificate


def verify_path(chain: Sequence[x509.Certificate], *, rules: PathRules, cache: LinkCache | None = None) -> None:
    """Verify that each certificate of *chain*, root first, issued the next one.

    1. Two certificates at least, and none twice (so the leaf is not among the CAs).
    2. Each issuer's name is the next one's issuer name, its key and the
       signature are of the kind that *rules* name, and the signature verifies.
    3. CAs: critical basicConstraints with CA, keyCertSign, and no more CAs below
       than pathLen grants, self-issued ones counted too.
    4. The leaf: not a CA, digitalSignature, a key of the same kind.
    5. No extension is critical except basicConstraints and keyUsage.

    Whether the first certificate is to be trusted is the caller's to check, by
    comparing it with a pinned one; its own signature says nothing and is not
    looked at. Nor is time: see `check_validity`.

    Raises:
        RejectedError: With code CERT_CHAIN_INVALID; the message says which
            certificate and why.
    """
    if not 2 <= len(chain) <= rules.max_certificates:
        raise RejectedError(
            f"a chain of {len(chain)} certificates, 2 to {rules.max_certificates} are allowed", code=CHAIN_INVALID
        )
    digests = [certificate.fingerprint(hashes.SHA256()) for certificate in chain]
    if len(set(digests)) != len(digests):
        raise RejectedError("the chain holds a certificate twice", code=CHAIN_INVALID)
    leaf = len(chain) - 1
    for index, certificate in enumerate(chain):
        if not rules.key_fits(certificate.public_key()):
            _reject(chain, index, f"its key is not of the kind {rules.name} asks for")
        if index > 0 and not (cache is not None and cache.holds(rules, digests[index - 1], digests[index])):
            _check_link(chain, index, rules)
            if cache is not None:
                cache.remember(rules, digests[index - 1], digests[index])
        _check_role(chain, index, cas_below=leaf - 1 - index)


def check_validity(chain: Sequence[x509.Certificate], at: datetime) -> None:
    """Check that every certificate of *chain* is valid at *at*, both ends included.

    Raises:
        RejectedError: With code CERT_TIME_INVALID.
    """
    for index, certificate in enumerate(chain):
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not begin <= at <= end:
            raise RejectedError(
                f"{_place(chain, index)} is not valid at {at.isoformat()}",
                code=TIME_INVALID,
                expected=f"{begin.isoformat()} to {end.isoformat()}",
                actual=at.isoformat(),
            )


def _check_link(chain: Sequence[x509.Certificate], index: int, rules: PathRules) -> None:
    issuer, certificate = chain[index - 1], chain[index]
    if certificate.signature_algorithm_oid != rules.signature:
        _reject(chain, index, f"its signature is not of the kind {rules.name} asks for")
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature as error:
        _reject(chain, index, "its signature does not verify under the key above", error)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # Names are compared as encoded; the signature algorithm stands twice in a certificate.
        _reject(chain, index, "it names another issuer than the one above, or two signature algorithms", error)


def _check_role(chain: Sequence[x509.Certificate], index: int, *, cas_below: int) -> None:
    try:
        extensions = list(chain[index].extensions)
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        _reject(chain, index, "its extensions do not parse", error)
    if any(extension.critical and extension.oid not in _PROCESSED for extension in extensions):
        _reject(chain, index, "it has a critical extension that nobody here understands")
    constraints = next((item for item in extensions if isinstance(item.value, x509.BasicConstraints)), None)
    usage = next((item.value for item in extensions if isinstance(item.value, x509.KeyUsage)), None)
    if index == len(chain) - 1:
        if constraints is not None and constraints.value.ca:
            _reject(chain, index, "it is a CA")
        if usage is None or not usage.digital_signature:
            _reject(chain, index, "its key usage is not digitalSignature")
        return
    if constraints is None or not constraints.critical or not constraints.value.ca:
        _reject(chain, index, "it is not marked as a CA by critical basicConstraints")
    if usage is None or not usage.key_cert_sign:
        _reject(chain, index, "its key usage is not keyCertSign")
    granted = constraints.value.path_length
    if granted is not None and cas_below > granted:
        _reject(chain, index, f"it allows {granted} CAs below itself, there are {cas_below}")


def _place(chain: Sequence[x509.Certificate], index: int) -> str:
    role = "root" if index == 0 else "leaf" if index == len(chain) - 1 else "CA"
    return f"certificate {index + 1} of {len(chain)} ({role})"


def _reject(chain: Sequence[x509.Certificate], index: int, why: str, cause: Exception | None = None) -> NoReturn:
    raise RejectedError(f"{_place(chain, index)}: {why}", code=CHAIN_INVALID) from cause
