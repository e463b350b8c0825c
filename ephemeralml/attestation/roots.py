"""Trust roots: who may vouch for evidence, and of which kind.

Vendor roots are pinned by the SHA-256 of their certificate, which documents
carry themselves. A software root vouches for nothing but itself; it bears a
name that a vendor root may not have, and nothing turns one into the other
(attestation section 3).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from ephemeralml.crypto.x509 import LinkCache, load_der
from ephemeralml.errors import MalformedError

SOFTWARE_COMMON_NAME = "software.ephemeralml.invalid"
SOFTWARE_ORGANISATION = "software TEE, no hardware protection"

AWS_NITRO_ROOT_SHA256 = bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")
"""Amazon's Nitro Enclaves root G1, valid to 2049 (attestation section 2)."""

VENDOR_DIGESTS = frozenset({AWS_NITRO_ROOT_SHA256})
"""Roots that no software set may name."""


class RootKind(Enum):
    """What a root stands for."""

    VENDOR = "vendor"
    """A hardware vendor's key."""
    SOFTWARE = "software"
    """A key that some machine made for itself."""


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """A set of roots of one kind, with the links that verified under them.

    Raises:
        MalformedError: The set names a root of the other kind.
    """

    kind: RootKind
    digests: frozenset[bytes]
    """SHA-256 of each root certificate's DER."""
    any_software: bool = False
    """Take every root that bears the software names; only `ANY_SOFTWARE_ROOT` sets it."""
    cache: LinkCache = field(default_factory=LinkCache, compare=False, repr=False)

    def __post_init__(self) -> None:
        if any(len(digest) != 32 for digest in self.digests):
            raise MalformedError("a root is pinned by the 32 bytes of a SHA-256")
        if self.kind is RootKind.SOFTWARE and self.digests & VENDOR_DIGESTS:
            raise MalformedError("a vendor's root in a set of software roots", code="POLICY_CONTRADICTION")
        if self.any_software and self.kind is not RootKind.SOFTWARE:
            raise MalformedError("only a software set may leave its roots open", code="POLICY_CONTRADICTION")

    @classmethod
    def of_certificates(cls, kind: RootKind, certificates: Iterable[bytes]) -> "TrustRoots":
        """Pin certificates given as DER.

        Raises:
            MalformedError: One does not parse, or bears a name of the other kind.
        """
        ders = tuple(certificates)
        for der in ders:
            load_der(der)
            if is_software_root(der) is not (kind is RootKind.SOFTWARE):
                raise MalformedError(
                    f"a certificate whose name is not that of a {kind.value} root", code="POLICY_CONTRADICTION"
                )
        return cls(kind, frozenset(hashlib.sha256(der).digest() for der in ders))

    @property
    def configured(self) -> bool:
        """Whether the set could accept anything at all."""
        return bool(self.digests) or self.any_software

    def accept(self, der: bytes) -> bool:
        """Return whether the certificate *der* is one of this set.

        A pinned digest is not enough: the name must be of the set's kind, so a
        software root pinned as a vendor's by mistake is refused when it is met.
        """
        pinned = self.any_software or hashlib.sha256(der).digest() in self.digests
        return pinned and is_software_root(der) is (self.kind is RootKind.SOFTWARE)


def is_software_root(der: bytes) -> bool:
    """Return whether a certificate bears the common name or the organisation of a software root.

    Looked for in the bytes: hostile names make libraries warn or fail, and a
    certificate that carries either text anywhere else is no vendor's.
    """
    return SOFTWARE_COMMON_NAME.encode() in der or SOFTWARE_ORGANISATION.encode() in der


AWS_NITRO = TrustRoots(RootKind.VENDOR, frozenset({AWS_NITRO_ROOT_SHA256}))
"""Amazon's root for Nitro Enclaves."""

ANY_SOFTWARE_ROOT = TrustRoots(RootKind.SOFTWARE, frozenset(), any_software=True)
"""Whatever software root a document brings: behind `--insecure-accept-local` alone."""

NO_ROOTS = TrustRoots(RootKind.VENDOR, frozenset())
"""No anchor: the chain rows then report TRUST_ANCHOR_MISSING."""
