"""What `kms serve` does to its state besides serving: make it, add to it, check it, save and restore it."""

import os
from dataclasses import dataclass
from pathlib import Path

from ephemeralml import clock
from ephemeralml.cli import console
from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.local import audit_log, backup, principals, state
from ephemeralml.keyrelease.local.database import exclusive
from ephemeralml.keyrelease.local.names import Names
from ephemeralml.keyrelease.local.state import KeySource
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
        UsageError: It names no source.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    try:
        return KeySource.parse(text, credentials=Path(folder) if folder else None)
    except MalformedError as error:
        raise console.usage(f"--state-key: {error.message}", hint=error.hint) from error


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
        _home(place)


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
    """Restore a backup into a folder that has no state."""
    data = console.read_file(path, max_bytes=backup.MAX_BYTES, what="the backup")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive(folder):
        backup.restore(folder, source, data)
    document = {"schema": "ephemeralml.kms-import/1", "state": str(folder), "bytes": len(data)}
    console.current().result(document, lambda out: out.print(f"restored to {folder}", markup=False, highlight=False))
