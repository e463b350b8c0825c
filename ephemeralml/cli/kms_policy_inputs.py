"""The inputs of `ephemeralml kms policy`: files and keys to values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml.cli import console
from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy.document import MAX_POLICY_BYTES, KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.evaluate import Grant
from ephemeralml.keyrelease.policy.key_facts import MAX_BYTES, KeyFacts, parse_grants, parse_key
from ephemeralml.keyrelease.policy.live import LiveKey, names_key
from ephemeralml.keyrelease.policy.plan import parse_policy_file
from ephemeralml.keyrelease.policy.principals import identity
from ephemeralml.keyrelease.policy.tuples import ReleaseTuple, parse_tuples

if TYPE_CHECKING:
    from ephemeralml.keyrelease.policy.simulate import Expectation

MAX_KEYS_BYTES = 65_536 * 4
MAX_DOCUMENT_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Given:
    """A policy to look at, and what is known of its key."""

    policy: KeyPolicy
    name: str
    """The file, or the key's ARN."""
    arn: str | None = None
    grants: tuple[Grant, ...] | None = None
    key: KeyFacts | None = None


def policy_of(text: str, *, endpoint: str | None, grants: Path | None = None, key: Path | None = None) -> Given:
    """Read the policy that KEY|FILE names, with grants and key beside it.

    Of a key all three are asked for; files given beside it win.

    Raises:
        UsageError: Neither a file nor the name of a key.
        EphemeralError: What the file or the service says.
    """
    granted = parse_grants(console.read_file(grants, max_bytes=MAX_BYTES, what="grants")) if grants else None
    facts = parse_key(console.read_file(key, max_bytes=MAX_BYTES, what="key")) if key else None
    if Path(text).is_file():
        data = console.read_file(Path(text), max_bytes=8 * MAX_POLICY_BYTES, what="key policy")
        arn = facts.arn if facts is not None and facts.arn else None
        return Given(parse_policy_file(data), text, arn, granted, facts)
    live = live_key(text, endpoint)
    try:
        return Given(
            live.policy(),
            live.arn,
            live.arn,
            live.grants() if granted is None else granted,
            live.facts() if facts is None else facts,
        )
    finally:
        live.close()


def live_key(text: str, endpoint: str | None) -> LiveKey:
    """Return the key that *text* names.

    Raises:
        UsageError: It names none.
    """
    if not names_key(text):
        raise console.usage(
            f"{text[:200]!r} is neither a file nor a key", hint="a key is an ARN, alias/NAME, an id, or its URI"
        )
    return LiveKey(text, endpoint=endpoint)


def tuples_of(paths: Sequence[Path] | None) -> tuple[ReleaseTuple, ...]:
    """Read tuple files.

    Raises:
        UsageError: A file that is not there.
        MalformedError: No tuple in it.
    """
    return tuple(
        one
        for path in paths or ()
        for one in parse_tuples(console.read_file(path, max_bytes=MAX_BYTES, what="tuple"), name=path.stem[:256])
    )


def identity_policies_of(options: Sequence[str] | None) -> Mapping[str, Sequence[PolicyDocument]]:
    """Read ``ARN=FILE`` options.

    Raises:
        UsageError: Not of that form.
        MalformedError: No policy in the file.
    """
    found: dict[str, list[PolicyDocument]] = {}
    for option in options or ():
        arn, equals, path = option.partition("=")
        if not equals or identity(arn) is None:
            raise console.usage(f"--identity-policy {option[:200]!r} is not ARN=FILE", hint="ARN of a user or role")
        found.setdefault(arn, []).append(_identity_policy(Path(path)))
    return found


def service_control_policies(paths: Sequence[Path] | None) -> tuple[PolicyDocument, ...]:
    """Read service control policies; errors as `identity_policies_of`."""
    return tuple(_identity_policy(path) for path in paths or ())


def _identity_policy(path: Path) -> PolicyDocument:
    data = console.read_file(path, max_bytes=MAX_POLICY_BYTES, what="identity policy")
    try:
        return PolicyDocument.parse(data.decode())
    except UnicodeDecodeError as error:
        raise MalformedError(f"{str(path)!r} is not UTF-8") from error


def matrix_of(path: Path | None) -> "Expectation | None":
    """Read a `--matrix` file; None without one."""
    from ephemeralml.crypto import strict_json
    from ephemeralml.keyrelease.policy.simulate import parse_matrix

    if path is None:
        return None
    data = console.read_file(path, max_bytes=MAX_BYTES, what="matrix")
    return parse_matrix(strict_json.parse(data, max_bytes=MAX_BYTES))


def documents_of(paths: Sequence[Path] | None) -> tuple[bytes, ...]:
    """Read attestation documents."""
    return tuple(
        console.read_file(path, max_bytes=MAX_DOCUMENT_BYTES, what="attestation document") for path in paths or ()
    )


def wrapped_for(path: Path, arn: str) -> tuple[bytes, Mapping[str, str]]:
    """Return the ciphertext and context of the entry that *arn* wraps, from a package or its keys.json.

    Raises:
        UsageError: No such file.
        MalformedError: No keys.json, or none of its entries is this key's.
    """
    from ephemeralml.model.keys_file import parse_keys

    file = path / "keys.json" if path.is_dir() else path
    entries: Any = parse_keys(console.read_file(file, max_bytes=MAX_KEYS_BYTES, what="keys.json"))
    for entry in entries:
        if entry.key.partition(":")[2] == arn:
            return entry.ciphertext, dict(entry.context)
    raise MalformedError(f"{str(file)!r} has no entry of {arn}", hint="a package wrapped under this key is needed")
