"""A package's data key, as an operator comes by it: from a KMS, or from a file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console, core_dumps
from ephemeralml.crypto.data_key import DEK_BYTES, SecretBytes, WrappedKey
from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import IncompleteError, MalformedError, UnavailableError

if TYPE_CHECKING:
    from ephemeralml.keyrelease.base import OperatorKeys

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
