"""A package's data key, as an operator comes by it: from a KMS, or from a file."""

import re
from binascii import hexlify
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console, core_dumps
from ephemeralml.crypto.data_key import DEK_BYTES, SecretBytes, WrappedKey
from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError

if TYPE_CHECKING:
    from ephemeralml.crypto.data_key import EncryptionContext
    from ephemeralml.keyrelease.base import OperatorKeys
    from ephemeralml.model.rewrap import Wrapped

KmsEndpoint = Annotated[
    str | None,
    typer.Option(
        "--kms-endpoint", metavar="URL", help="Where the KMS is, if not where AWS_ENDPOINT_URL_KMS or the SDK say."
    ),
]
DekFile = Annotated[
    Path | None,
    typer.Option("--dek", metavar="FILE", help="The package's data key, 64 hex digits in a file of mode 0600."),
]

KeepDek = Annotated[
    Path | None,
    typer.Option(
        "--keep-dek", metavar="FILE", help="Also write the data key there (mode 0600), for a later --dek: it opens all."
    ),
]
DENIED = "KEY_RELEASE_DENIED"

_DIGITS = re.compile(rb"[0-9a-fA-F]{64}[\r\n]*")


def open_key(uri: str, *, endpoint: str | None, option: str = "--key") -> "OperatorKeys":
    """Return the KMS key that *option* names; nothing is connected to yet.

    Raises:
        UsageError: It is no key's URI, or takes no endpoint.
        UnavailableError: A local key without endpoint.
    """
    from ephemeralml.keyrelease.providers import open_provider

    core_dumps.switch_off()
    try:
        return open_provider(uri, endpoint=endpoint)
    except MalformedError as error:
        raise console.usage(f"{option}: {error.message}", hint=error.hint) from error


def read_dek(path: Path) -> SecretBytes:
    """Read a data key from a file: 64 hex digits, and a line's end.

    Raises:
        UsageError: The file does not exist, or others may read it.
        MalformedError: It holds anything else.
    """
    text = console.read_file(path, max_bytes=2 * DEK_BYTES + 2, what="the data key")
    try:
        if path.stat().st_mode & 0o077:
            raise console.usage(f"other users may read {str(path)!r}, which holds a data key", hint=f"chmod 600 {path}")
        if not _DIGITS.fullmatch(text):
            raise MalformedError(f"{str(path)!r} does not hold a data key: 64 hex digits")
        return SecretBytes(bytearray(int(text[place : place + 2], 16) for place in range(0, 2 * DEK_BYTES, 2)))
    finally:
        wipe_bytes(text)


def obtain_dek(entries: Sequence[WrappedKey], dek: Path | None, *, endpoint: str | None) -> SecretBytes:
    """Return a package's data key: from the file *dek* if given, else from the first KMS that hands it out.

    Raises:
        RejectedError: A KMS refuses (exit 3).
        UnavailableError: None can be reached (exit 5).
        IncompleteError: There is no key at hand (exit 6).
    """
    from ephemeralml.model.package_keys import first_opened

    core_dumps.switch_off()
    if dek is not None:
        return read_dek(dek)

    def unwrap(entry: WrappedKey) -> SecretBytes:
        from ephemeralml.keyrelease.providers import open_provider
        from ephemeralml.keyrelease.uris import Provider

        fixed = entry.provider == Provider.GCP_KMS
        try:
            keys = open_provider(entry.key, endpoint=None if fixed else endpoint)
        except UnavailableError as error:
            if entry.provider != Provider.LOCAL:
                raise
            raise IncompleteError(
                f"there is no key at hand: nothing says where the KMS of {entry.key} is",
                code="KEY_MISSING",
                hint="give --kms-endpoint, set AWS_ENDPOINT_URL_KMS, or give the data key with --dek",
            ) from error
        return keys.decrypt_plain(entry)

    return first_opened(entries, unwrap)


class KeptKeys:
    """A KMS whose data key is remembered, to be written to a file once the package is made.

    Args:
        keys: The KMS.
        path: The file.
        force: Whether it may replace another.
    """

    def __init__(self, keys: "OperatorKeys", path: Path, *, force: bool) -> None:
        self._keys = keys
        self._path = path
        self._force = force
        self._kept: SecretBytes | None = None

    def generate(self, context: "EncryptionContext") -> tuple[SecretBytes, WrappedKey]:
        """Make a data key under *context*."""
        dek, wrapped = self._keys.generate(context)
        self._remember(dek)
        return dek, wrapped

    def wrap(self, dek: SecretBytes, context: "EncryptionContext") -> WrappedKey:
        """Wrap a data key that exists already."""
        wrapped = self._keys.wrap(dek, context)
        self._remember(dek)
        return wrapped

    def write(self) -> None:
        """Write the file, and say what it is.

        Raises:
            EphemeralError: As `console.write_file`.
        """
        if self._kept is None:
            raise RuntimeError("no data key was made")
        with self._kept as dek:
            digits = hexlify(dek.reveal())
        try:
            console.write_file(self._path, digits, force=self._force, private=True)
        finally:
            wipe_bytes(digits)
        console.current().warning(
            f"{str(self._path)!r} opens the package for whoever reads it, past every key policy: keep it offline"
        )

    def forget(self) -> None:
        """Wipe what is remembered; harmless when nothing is."""
        if self._kept is not None:
            self._kept.wipe()
            self._kept = None

    def _remember(self, dek: SecretBytes) -> None:
        self.forget()
        self._kept = SecretBytes(bytearray(dek.reveal()))


def check_keep(path: Path, *, key: str | None, model: Path, out: Path, force: bool) -> None:
    """Refuse a file for the data key that cannot be one, before any work is done.

    Raises:
        UsageError: There is no key to keep, the file exists, or lies in the model or the package.
        UnavailableError: It cannot be written.
    """
    if key is None:
        raise console.usage("--keep-dek without --key: a package that is not encrypted has no data key")
    place = path.resolve()
    if any(place == one.resolve() or place.is_relative_to(one.resolve()) for one in (model, out)):
        raise console.usage(
            f"{str(path)!r} would lie in the model or the package", hint="name a file that is never uploaded with it"
        )
    console.check_creatable(path, force=force)


def move_key(
    package: Path, found: "Wrapped", target: "OperatorKeys", *, add: bool, bind_manifest: bool
) -> "tuple[WrappedKey, ...] | EphemeralError | None":
    """Have the KMS move the package's data key to *target* by itself (ReEncrypt).

    Returns:
        The entries of ``keys.json`` now, or why no entry could be moved; None
        where no entry is of the same KMS.
    """
    from ephemeralml.keyrelease.aws import AwsKms
    from ephemeralml.model.rewrap import move_package

    failure: EphemeralError | None = None
    for entry in found.entries:
        if not isinstance(target, AwsKms) or not target.near(entry):
            continue
        try:
            return move_package(package, target, entry, add=add, bind_manifest=bind_manifest)
        except EphemeralError as error:
            failure = failure or error
    return failure


def not_movable(moving: EphemeralError | None, opening: RejectedError) -> EphemeralError:
    """Return the error for a data key that may neither be moved nor be had in the clear."""
    if opening.code != DENIED:
        return opening
    if moving is not None and not (isinstance(moving, RejectedError) and moving.code == DENIED):
        return moving
    said = opening.message if moving is None else f"{moving.message}, and {opening.message}"
    return RejectedError(
        f"the data key can be neither moved nor had: {said}",
        code=DENIED,
        hint="run it as the role that both keys' policies name (kms policy render --rewrap-role: ReEncryptFrom on the "
        "old key, ReEncryptTo on the new one), or give the data key with --dek (model encrypt --keep-dek)",
    )


def publishing_denied(error: RejectedError, model_id: str, version: str) -> RejectedError:
    """Return *error* with what the key's policy is to allow, if it is the KMS that refuses."""
    if error.code != DENIED:
        return error
    return RejectedError(
        f"{error.message} for model_id {model_id[:128]!a}, version {version[:64]!a}",
        code=DENIED,
        hint="the key's policy has to name these credentials' role as a publisher, and this model id: "
        f"kms policy render --publisher ROLE --model-id {model_id[:128]}",
    )
