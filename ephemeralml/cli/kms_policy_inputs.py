"""The inputs of `ephemeralml kms policy`: files and keys to values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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

Read = TypeVar("Read")

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


@contextmanager
def of_file(path: Path) -> Iterator[None]:
    """Name the file in what is wrong with its content.

    Raises:
        MalformedError: As the block's, with the file's name before it.
    """
    try:
        yield
    except MalformedError as error:
        raise MalformedError(f"{str(path)!r}: {error.message}", code=error.code, hint=error.hint) from error


def policy_of(text: str, *, endpoint: str | None, grants: Path | None = None, key: Path | None = None) -> Given:
    """Read the policy that KEY|FILE names, with grants and key beside it.

    Of a key all three are asked for; files given beside it win.

    Raises:
        UsageError: Neither a file nor the name of a key.
        EphemeralError: What the file or the service says.
    """
    granted = _parsed(grants, parse_grants, what="grants") if grants else None
    facts = _parsed(key, parse_key, what="key") if key else None
    if Path(text).is_file():
        arn = facts.arn if facts is not None and facts.arn else None
        return Given(policy_file(Path(text)), text, arn, granted, facts)
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


def policy_file(path: Path) -> KeyPolicy:
    """Read a key policy; errors as `policy_of`."""
    data = console.read_file(path, max_bytes=8 * MAX_POLICY_BYTES, what="key policy")
    with of_file(path):
        return parse_policy_file(data)


def _parsed(path: Path, parse: Callable[[bytes], Read], *, what: str) -> Read:
    data = console.read_file(path, max_bytes=MAX_BYTES, what=what)
    with of_file(path):
        return parse(data)


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
        one for path in paths or () for one in _parsed(path, partial(parse_tuples, name=path.stem[:256]), what="tuple")
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
    with of_file(path):
        try:
            return PolicyDocument.parse(data.decode())
        except UnicodeDecodeError as error:
            raise MalformedError("not UTF-8") from error


def matrix_of(path: Path | None) -> "Expectation | None":
    """Read a `--matrix` file; None without one."""
    from ephemeralml.crypto import strict_json
    from ephemeralml.keyrelease.policy.simulate import parse_matrix

    if path is None:
        return None
    return _parsed(path, lambda data: parse_matrix(strict_json.parse(data, max_bytes=MAX_BYTES)), what="matrix")


def documents_of(paths: Sequence[Path] | None) -> tuple[bytes, ...]:
    """Read attestation documents that a KMS can take: for a release, with certificates that have not ended.

    Raises:
        UsageError: A file that is not there, or one that no KMS would take.
        MalformedError: No document in it.
    """
    return tuple(_release_document(path) for path in paths or ())


def _release_document(path: Path) -> bytes:
    from ephemeralml import clock
    from ephemeralml.attestation.nitro.document import parse

    data = console.read_file(path, max_bytes=MAX_DOCUMENT_BYTES, what="attestation document")
    with of_file(path):
        document = parse(data)
    if not _is_rsa(document.public_key):
        raise console.usage(
            f"{str(path)!r}: this document has no RSA key; it is a session's, and no KMS releases a key to it",
            hint="`ephemeralml enclave measure --release-document FILE` makes one that a KMS takes",
        )
    ends = min(certificate.not_valid_after_utc for certificate in document.chain)
    if ends < clock.now():
        raise console.usage(
            f"{str(path)!r}: its certificates ended at {clock.format_rfc3339(ends)}, and no KMS takes it any more",
            hint="make a new one: `ephemeralml enclave measure --release-document FILE`",
        )
    return data


def _is_rsa(spki: bytes | None) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        return spki is not None and isinstance(load_der_public_key(spki), RSAPublicKey)
    except (ValueError, UnsupportedAlgorithm):
        return False


def wrapped_for(path: Path, arn: str) -> tuple[bytes, Mapping[str, str]]:
    """Return the ciphertext and context of the entry that *arn* wraps, from a package or its keys.json.

    Raises:
        UsageError: No such file.
        MalformedError: No keys.json, or none of its entries is this key's.
    """
    from ephemeralml.model.keys_file import parse_keys

    file = path / "keys.json" if path.is_dir() else path
    data = console.read_file(file, max_bytes=MAX_KEYS_BYTES, what="keys.json")
    with of_file(file):
        entries: Any = parse_keys(data)
    for entry in entries:
        if entry.key.partition(":")[2] == arn:
            return entry.ciphertext, dict(entry.context)
    raise MalformedError(f"{str(file)!r} has no entry of {arn}", hint="a package wrapped under this key is needed")
