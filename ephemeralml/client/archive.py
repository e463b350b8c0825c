"""Receipts on disk, with what it takes to verify them again offline.

``r.cbor`` is the receipt, ``r.cbor.att`` the evidence document, ``r.cbor.json``
the session's facts (`ephemeralml.evidence/1`), ``r.cbor.manifest.json`` the
model's signed manifest. `ephemeralml verify r.cbor` finds the others by name.
Where they are asked for, ``r.cbor.request`` and ``r.cbor.response`` are the exact
bodies that its hashes cover, for nobody but their owner to read.
"""

import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ephemeralml.attestation.sidecar import BindingInputs, Sidecar
from ephemeralml.attestation.verdict import Verdict
from ephemeralml.client.reply import Receipted
from ephemeralml.errors import UnavailableError

EVIDENCE_SUFFIX = ".att"
SIDECAR_SUFFIX = ".json"
MANIFEST_SUFFIX = ".manifest.json"
REQUEST_SUFFIX = ".request"
RESPONSE_SUFFIX = ".response"
_SUFFIXES = ("", EVIDENCE_SUFFIX, SIDECAR_SUFFIX, MANIFEST_SUFFIX, REQUEST_SUFFIX, RESPONSE_SUFFIX)
_PRIVATE = (REQUEST_SUFFIX, RESPONSE_SUFFIX)


class OccupiedError(UnavailableError):
    """A file is there already and may not be overwritten."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """What was asked and answered, byte for byte."""

    request: bytes = field(repr=False)
    response: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReceiptFiles:
    """The names that one archived receipt takes."""

    receipt: Path

    @property
    def all(self) -> tuple[Path, ...]:
        """The receipt and its companions, whether they exist or not."""
        return tuple(self.receipt.with_name(self.receipt.name + suffix) for suffix in _SUFFIXES)

    def check(self, *, force: bool) -> None:
        """Refuse names that cannot be written, before anything is asked.

        Raises:
            OccupiedError: One exists and *force* is off.
            UnavailableError: The folder does not exist or cannot be written to, or a name is a folder's.
        """
        for path in self.all:
            if path.is_dir():
                raise UnavailableError(f"{str(path)!r} is a folder")
            if not force and path.exists():
                raise OccupiedError(f"{str(path)!r} exists", hint="choose another name, or add --force to overwrite it")
        folder = self.receipt.parent
        if not folder.is_dir():
            raise UnavailableError(f"the folder {str(folder)!r} does not exist")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UnavailableError(f"the folder {str(folder)!r} cannot be written to")

    def write(self, receipted: Receipted, *, bodies: Bodies | None = None, force: bool = False) -> tuple[Path, ...]:
        """Write the files, the receipt last; returns their paths.

        With *bodies*, which are the receipt's own, they are kept too, mode 0600.

        Each appears whole or not at all, and after a failure none that is new
        stays. Companions of an overwritten receipt do not outlive it.

        Raises:
            OccupiedError: One exists and *force* is off.
            UnavailableError: The system does not allow it.
        """
        self.check(force=force)
        contents = _contents(self.receipt, receipted, bodies)
        written: list[Path] = []
        try:
            for path, data in contents.items():
                _write(path, data, force=force)
                written.append(path)
        except BaseException:
            if not force:
                for path in written:
                    path.unlink(missing_ok=True)
            raise
        for path in self.all:
            if path not in contents:
                path.unlink(missing_ok=True)
        return tuple(contents)


class ReceiptFolder:
    """Archives every receipt it is called with under its id; fit for `on_receipt`.

    Args:
        folder: Where to; made if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.saved: list[Path] = []
        """Receipts written, in order."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from error

    def __call__(self, receipted: Receipted) -> None:
        """Archive *receipted*; errors as `ReceiptFiles.write`."""
        self.keep(receipted)

    def keep(self, receipted: Receipted, bodies: Bodies | None = None) -> None:
        """Archive *receipted*, and its *bodies* if given; errors as `ReceiptFiles.write`."""
        path = self._folder / f"{receipted.receipt.claims.receipt_id}.cbor"
        ReceiptFiles(path).write(receipted, bodies=bodies)
        with self._lock:
            self.saved.append(path)


def sidecar_of(receipted: Receipted) -> Sidecar:
    """Return the session's facts, as an archive keeps them."""
    attested = receipted.attested
    inputs = attested.binding_inputs
    return Sidecar(
        format=attested.evidence.format,
        document_sha256=attested.evidence.digest,
        receipt_public_key=attested.receipt_key,
        channel_binding=attested.binding,
        nonce=attested.nonce,
        binding_inputs=BindingInputs(
            client_hello=inputs.client_hello,
            suite=inputs.suite,
            session_id=inputs.session_id,
            kem_public_key=inputs.kem_public_key,
            identity=inputs.identity,
            limits=inputs.limits,
        ),
        endorsements=attested.evidence.endorsements,
        verdict=Verdict.VERIFIED.value,
        request_hash=receipted.request_hash,
        response_hash=receipted.response_hash,
    )


def _contents(receipt: Path, receipted: Receipted, bodies: Bodies | None) -> Mapping[Path, bytes]:
    """Return each file's bytes; the receipt comes last, since it calls for the others."""
    found = {
        EVIDENCE_SUFFIX: receipted.attested.evidence.document,
        SIDECAR_SUFFIX: sidecar_of(receipted).encode(),
    }
    if receipted.manifest is not None:
        found[MANIFEST_SUFFIX] = receipted.manifest
    if bodies is not None:
        hashes = tuple(hashlib.sha256(body).digest() for body in (bodies.request, bodies.response))
        if hashes != (receipted.request_hash, receipted.response_hash):
            raise ValueError("the bodies are not those of the receipt")
        found |= {REQUEST_SUFFIX: bodies.request, RESPONSE_SUFFIX: bodies.response}
    found[""] = receipted.receipt_bytes
    return {receipt.with_name(receipt.name + suffix): data for suffix, data in found.items()}


def _write(path: Path, data: bytes, *, force: bool) -> None:
    """Give *path* its content in one step."""
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o600 if path.name.endswith(_PRIVATE) else 0o644)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if force:
            Path(temporary).replace(path)
            temporary = None
        else:
            os.link(temporary, path)
    except FileExistsError as error:
        raise OccupiedError(f"{str(path)!r} exists") from error
    except OSError as error:
        raise UnavailableError(f"cannot write {str(path)!r}: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
