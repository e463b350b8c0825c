"""What `kms serve` does to its state besides serving: make it, add to it, check it, save and restore it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeralml import clock
from ephemeralml.cli import console
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.keyrelease.local import audit_log, backup, principals, state
from ephemeralml.keyrelease.local.database import exclusive
from ephemeralml.keyrelease.local.names import Names
from ephemeralml.keyrelease.local.state import KeyKind, KeySource
from ephemeralml.keyrelease.policy.document import MAX_POLICY_BYTES

DEFAULT_ACCOUNT = "000000000000"
DEFAULT_REGION = "local"


@dataclass(frozen=True, slots=True)
class Made:
    """A principal that was made, and where its credentials are."""

    name: str
    arn: str
    credentials: Path


def key_source(text: str) -> KeySource:
    """Read ``--state-key``.

    Raises:
        UsageError: It names no source, or a passphrase that others may read.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        source = KeySource.parse(text, credentials=Path(folder) if folder else None)
    except MalformedError as error:
        raise console.usage(f"--state-key: {error.message}", hint=error.hint) from error
    if source.kind is KeyKind.PASSPHRASE and source.path is not None and _others_may_read(source.path):
        raise console.usage(
            f"other users may read {str(source.path)!r}, which holds a passphrase", hint=f"chmod 600 {source.path}"
        )
    return source


def _others_may_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o077)
    except OSError:
        return False  # whoever reads it says what is wrong with it


@dataclass(frozen=True, slots=True)
class Jobs:
    """What is asked for besides serving; no two of these together."""

    init: bool
    verify_audit: bool
    export: Path | None
    restore: Path | None

    def check(self, *, place: tuple[str | None, str | None], identity: Path | None, names: list[str]) -> None:
        """Refuse options that contradict each other.

        Raises:
            UsageError: They do.
        """
        if sum((self.init, self.verify_audit, self.export is not None, self.restore is not None)) > 1:
            raise console.usage("--init, --verify-audit, --export and --import are different jobs")
        if not self.init and place != (None, None):
            raise console.usage("--account and --region are fixed when the state is made", hint="use them with --init")
        if identity is not None and len(names) != 1:
            raise console.usage("--identity-policy needs exactly one --add-principal")
        home = _home(place)
        for name in names:
            try:
                home.principal(name)
            except ValueError as error:
                raise console.usage(f"--add-principal {name[:200]!r}: {error}") from error


def _home(place: tuple[str | None, str | None]) -> Names:
    account, region = place
    try:
        return Names(account or DEFAULT_ACCOUNT, region or DEFAULT_REGION)
    except ValueError as error:
        raise console.usage(str(error)) from error


def do(jobs: Jobs, folder: Path, source: KeySource, *, force: bool) -> bool:
    """Do the job that ends when it is done, if one is asked for, and return whether there was one."""
    if jobs.verify_audit:
        verify_audit(folder, source)
    elif jobs.export is not None:
        export(folder, source, jobs.export, force=force)
    elif jobs.restore is not None:
        restore(folder, source, jobs.restore)
    else:
        return False
    return True


def prepare(
    folder: Path,
    source: KeySource,
    *,
    place: tuple[str | None, str | None],
    init: bool,
    names: list[str],
    identity: Path | None,
) -> list[Made]:
    """Make what the options ask for, and return the principals that were made.

    Raises:
        UsageError: A name, an account or a region that is none.
        EphemeralError: The state's own.
    """
    policies = []
    if identity is not None:
        text = console.read_file(identity, max_bytes=MAX_POLICY_BYTES, what="the identity policy")
        policies.append(text.decode(errors="replace"))
    made = []
    if init:
        home = _home(place)
        path = state.create(folder, source, home, clock.now())
        made.append(Made(principals.ADMINISTRATOR, home.principal(principals.ADMINISTRATOR)[1], path))
    if names:
        with state.opened(folder, source) as opened:
            for name in names:
                who, path = principals.add(opened.store, opened.names, folder, name, policies=policies, now=clock.now())
                made.append(Made(who.name, who.arn, path))
    return made


def print_made(made: list[Made]) -> None:
    """Print who was made."""
    document = {"schema": "ephemeralml.kms-principals/1", "principals": rendered(made)}
    text = "\n".join(f"{one.arn}: {one.credentials}" for one in made)
    console.current().result(document, lambda out: out.print(text, markup=False, highlight=False))


def rendered(made: list[Made]) -> list[dict[str, str]]:
    """Return *made* for a JSON document."""
    return [{"name": one.name, "arn": one.arn, "credentials": str(one.credentials.resolve())} for one in made]


def verify_audit(folder: Path, source: KeySource) -> None:
    """Verify the audit log against itself and what the state remembers of it."""
    with state.opened(folder, source) as opened:
        head = audit_log.verify(state.audit_path(folder), state.known_head(opened.store))
    document = {"schema": "ephemeralml.kms-audit/1", "lines": head.count, "head": head.hash.hex()}
    console.current().result(
        document,
        lambda out: out.print(
            f"{head.count} lines, unbroken; the last one's hash is {head.hash.hex()}", highlight=False
        ),
    )


def export(folder: Path, source: KeySource, path: Path, *, force: bool) -> None:
    """Write a backup."""
    console.check_creatable(path, force=force)
    with state.opened(folder, source) as opened:
        data = backup.export(opened.store)
    console.write_file(path, data, force=force, private=True)
    document = {"schema": "ephemeralml.kms-export/1", "file": str(path), "bytes": len(data)}
    console.current().result(
        document, lambda out: out.print(f"{path}: {len(data)} bytes", markup=False, highlight=False)
    )
    console.current().note("it opens with this state's key alone: keep both, apart from each other")


def restore(folder: Path, source: KeySource, path: Path) -> None:
    """Restore a backup into a folder that has no state, and write its principals' credentials; all of it or nothing.

    Raises:
        UnavailableError: The state key is not there, or the folder cannot be written.
        EphemeralError: What is wrong with the backup.
    """
    data = console.read_file(path, max_bytes=backup.MAX_BYTES, what="the backup")
    if source.kind is KeyKind.FILE and source.path is None and not (folder / state.KEY_FILE).exists():
        raise UnavailableError(
            f"there is no state key in {folder}",
            hint="a backup opens with the key of the state it was made of: --state-key file:OLD/state.key",
        )
    with _taken_back(folder):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"cannot write the state in {folder}: {error.strerror}") from error
        with exclusive(folder):
            backup.restore(folder, source, data)
            written = _write_credentials(folder, source)
    document = {
        "schema": "ephemeralml.kms-import/1",
        "state": str(folder),
        "bytes": len(data),
        "principals": rendered(written),
    }
    console.current().result(document, lambda out: out.print(f"restored to {folder}", markup=False, highlight=False))
    console.current().note(
        "a backup holds neither state key nor software root: "
        "serve it with the same --state-key, and with --authority DIR or --trust"
    )


@contextmanager
def _taken_back(folder: Path) -> Iterator[None]:
    """Remove the folder, and those above it, where the block made them and failed."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        yield
    except BaseException:
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise


def _write_credentials(folder: Path, source: KeySource) -> list[Made]:
    """Write the credentials of everybody in the state, as they were when they were made."""
    made = []
    with state.opened(folder, source) as opened:
        for who in opened.store.principals():
            found = opened.store.credentials(who.access_key)
            if found is None:
                continue
            target = folder / principals.CREDENTIALS / who.name
            target.parent.mkdir(mode=0o700, exist_ok=True)
            text = f"[default]\naws_access_key_id = {who.access_key}\naws_secret_access_key = {found[1]}\n"
            console.write_file(target, text.encode(), force=True, private=True)
            made.append(Made(who.name, who.arn, target))
    return made
