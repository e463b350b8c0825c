"""The software TEE's certificate authority: a root made once, documents signed on demand.

It stands in for Amazon's where there is no hardware. Nothing it signs is
protected from this machine, and its root's name says so.
"""

import hashlib
import os
from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from threading import Lock

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ephemeralml import clock
from ephemeralml.attestation.local.certificates import LEAF_LIFETIME, Issuer, make_cas, make_leaf, make_root, name
from ephemeralml.attestation.local.documents import DocumentFields, Fault, encode_document
from ephemeralml.attestation.roots import RootKind, TrustRoots
from ephemeralml.crypto.x509 import load_der
from ephemeralml.errors import MalformedError, UnavailableError

ROOT_CERTIFICATE = "root.der"
ROOT_KEY = "root.key.pem"

_MAX_FILE_BYTES = 16_384
_LEAF_SPARE = timedelta(minutes=15)
"""A leaf with less than this left is replaced."""


class Authority:
    """A root and whatever it has issued so far.

    Intermediate and leaf certificates live in memory and are replaced as they
    run out. Safe to share between threads.
    """

    def __init__(self, root: Issuer) -> None:
        self._root = root
        self._lock = Lock()
        self._cas: tuple[Issuer, Issuer, Issuer] | None = None
        self._leaves: dict[str, Issuer] = {}

    @classmethod
    def ephemeral(cls, *, at: datetime | None = None) -> "Authority":
        """Make an authority whose root lives in memory only."""
        return cls(make_root(at or clock.now()))

    @classmethod
    def create(cls, folder: Path, *, at: datetime | None = None) -> "Authority":
        """Make an authority and keep its root in *folder*, readable by its owner alone.

        Raises:
            UnavailableError: The folder holds a root already, or cannot be written.
        """
        root = make_root(at or clock.now())
        pem = root.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            _write_new(folder / ROOT_KEY, pem)
            _write_new(folder / ROOT_CERTIFICATE, root.der)
        except FileExistsError as error:
            raise UnavailableError(
                f"{folder} holds a software root already", hint="load it, or name another folder"
            ) from error
        except OSError as error:
            raise UnavailableError(f"cannot write the software root to {folder}: {error.strerror}") from error
        return cls(root)

    @classmethod
    def load(cls, folder: Path) -> "Authority":
        """Read an authority that `create` made.

        Raises:
            UnavailableError: It is not there, or its key is readable by others.
            MalformedError: The files are not a P-384 key and its certificate.
        """
        key_path = folder / ROOT_KEY
        try:
            if key_path.stat().st_mode & 0o077:
                raise UnavailableError(
                    f"{key_path} is readable by others than its owner", hint=f"chmod 600 {key_path}, or make a new root"
                )
            pem = _read(key_path)
            der = _read(folder / ROOT_CERTIFICATE)
        except OSError as error:
            raise UnavailableError(f"cannot read the software root in {folder}: {error.strerror}") from error
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise MalformedError(f"{key_path} is not an unencrypted private key in PEM") from error
        certificate = load_der(der)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise MalformedError(f"{key_path} is not the P-384 key of the root beside it")
        return cls(Issuer(certificate, key))

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the root certificate, as policies pin it."""
        return hashlib.sha256(self._root.der).digest()

    @property
    def id(self) -> str:
        """A short name for this authority, which PCR4 and `module_id` carry like an instance id."""
        return f"local-{self.fingerprint.hex()[:16]}"

    @property
    def root_certificate(self) -> bytes:
        """The root, DER."""
        return self._root.der

    @property
    def roots(self) -> TrustRoots:
        """Trust in this authority alone, as a software root."""
        return TrustRoots(RootKind.SOFTWARE, frozenset({self.fingerprint}))

    def issue_document(self, fields: DocumentFields, at: datetime, faults: Collection[Fault] = ()) -> bytes:
        """Return a signed document, with what *faults* ask to be wrong in it."""
        root, cas = self._issuers(at)
        if Fault.OTHER_ROOT in faults:
            root = make_root(at)
            cas = make_cas(root, self.id, at)
        instance = cas[-1]
        if Fault.EXPIRED_LEAF in faults:
            leaf = make_leaf(instance, fields.module_id, begin=at - LEAF_LIFETIME, end=at - timedelta(seconds=1))
        elif Fault.WRONG_ISSUER in faults:
            leaf = make_leaf(
                instance, fields.module_id, begin=at, end=at + LEAF_LIFETIME, issuer_name=name("somebody else")
            )
        elif Fault.OTHER_ROOT in faults:
            leaf = make_leaf(instance, fields.module_id, begin=at, end=at + LEAF_LIFETIME)
        else:
            leaf = self._leaf(instance, fields.module_id, at)
        chain = (root.der, *(ca.der for ca in cas))
        return encode_document(fields, chain=chain, leaf=leaf, at=at, faults=faults)

    def _issuers(self, at: datetime) -> tuple[Issuer, tuple[Issuer, Issuer, Issuer]]:
        with self._lock:
            if self._cas is None or not _serves(self._cas[-1], at, spare=LEAF_LIFETIME + _LEAF_SPARE):
                self._cas = make_cas(self._root, self.id, at)
                self._leaves.clear()
            return self._root, self._cas

    def _leaf(self, instance: Issuer, module_id: str, at: datetime) -> Issuer:
        with self._lock:
            leaf = self._leaves.get(module_id)
            if leaf is None or not _serves(leaf, at, spare=_LEAF_SPARE):
                leaf = make_leaf(
                    instance, module_id, begin=at - timedelta(seconds=2), end=at + LEAF_LIFETIME - timedelta(seconds=2)
                )
                self._leaves[module_id] = leaf
            return leaf

    def __repr__(self) -> str:
        return f"Authority({self.id})"


def _serves(issuer: Issuer, at: datetime, *, spare: timedelta) -> bool:
    certificate = issuer.certificate
    return certificate.not_valid_before_utc <= at and at + spare <= certificate.not_valid_after_utc


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_FILE_BYTES + 1)
