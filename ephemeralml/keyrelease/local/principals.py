"""Who may call the key server: names, access keys, and the files they are handed over in."""

import os
import secrets
import string
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.keyrelease.local.database import sync_folder
from ephemeralml.keyrelease.local.names import Names
from ephemeralml.keyrelease.local.records import Principal
from ephemeralml.keyrelease.local.store import Store
from ephemeralml.keyrelease.policy.document import PolicyDocument

ADMINISTRATOR = "administrator"
ADMINISTRATORS_POLICY = (
    '{"Version":"2012-10-17","Statement":[{"Sid":"Administrator","Effect":"Allow","Action":"kms:*","Resource":"*"}]}'
)
"""What the first principal may do as far as key policies leave it to the account."""
CREDENTIALS = "credentials"
"""The folder of credential files below the state's."""

_KEY_LETTERS = string.ascii_uppercase + "234567"
_SECRET_LETTERS = string.ascii_letters + string.digits + "+/"


def add(
    store: Store, names: Names, folder: Path, name: str, *, policies: Sequence[str] = (), now: datetime
) -> tuple[Principal, Path]:
    """Make a principal with an access key, and write the key to a file that its owner alone can read.

    The file has the form that AWS's tools read: name it in
    ``AWS_SHARED_CREDENTIALS_FILE``. It is written first, so that nobody is known
    whose secret was lost.

    Args:
        store: The server's state.
        names: Its account.
        folder: The state's folder.
        name: A role's name, ``root``, or the ARN of a user or role.
        policies: Identity policies, JSON.
        now: The time.

    Raises:
        MalformedError: No such name, or a policy that does not parse.
        UnavailableError: The name is taken, or the file cannot be written.
    """
    try:
        short, arn = names.principal(name)
    except ValueError as error:
        raise MalformedError(str(error)) from error
    for policy in policies:
        PolicyDocument.parse(policy)
    if any(short == other.name or arn == other.arn for other in store.principals()):
        raise UnavailableError(
            f"there is a principal {short} already", hint="its credentials were written when it was made"
        )
    principal = Principal(short, arn, _letters("EMLK", 16, _KEY_LETTERS), tuple(policies), now.timestamp())
    secret = _letters("", 40, _SECRET_LETTERS)
    path = folder / CREDENTIALS / short
    _write(path, f"[default]\naws_access_key_id = {principal.access_key}\naws_secret_access_key = {secret}\n")
    store.add_principal(principal, secret)
    return principal, path


def _letters(prefix: str, count: int, letters: str) -> str:
    return prefix + "".join(secrets.choice(letters) for _ in range(count))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise UnavailableError(f"cannot write {path}: {error.strerror}") from error
