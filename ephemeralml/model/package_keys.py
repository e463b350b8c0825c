"""A package's ``keys.json`` as its operator sees it: read, held against the manifest, tried in order."""

from collections.abc import Callable, Sequence

from ephemeralml.crypto.data_key import DEK_BYTES, SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model.blobs import BlobStore
from ephemeralml.model.encryption import MANIFEST_PAIR, encryption_context
from ephemeralml.model.keys_file import MAX_KEYS_BYTES, parse_keys
from ephemeralml.model.manifest import Manifest, Suite
from ephemeralml.model.package import KEYS_NAME
from ephemeralml.model.verify import VerifiedManifest


def read_keys(store: BlobStore) -> tuple[WrappedKey, ...]:
    """Read ``keys.json``; whether it fits the package, `check_keys` says.

    Raises:
        MalformedError: It does not parse, or is over a limit.
        UnavailableError: It is missing or cannot be read.
    """
    return parse_keys(keys_bytes(store))


def keys_bytes(store: BlobStore) -> bytes:
    """Return ``keys.json`` as it is; errors as `read_keys`."""
    size = store.size(KEYS_NAME)
    if size > MAX_KEYS_BYTES:
        raise MalformedError(f"{KEYS_NAME} has {size} bytes, at most {MAX_KEYS_BYTES} are allowed")
    data = bytearray(size)
    with memoryview(data) as view:
        store.read_into(KEYS_NAME, 0, view)
    return bytes(data)


def check_keys(verified: VerifiedManifest, store: BlobStore) -> tuple[WrappedKey, ...]:
    """Return the wrapped keys of a package, each bound to its manifest; none for suite ``none``.

    Raises:
        MalformedError: ``keys.json`` does not parse.
        RejectedError: A context is not the recomputed one (code CONTEXT_MISMATCH).
        UnavailableError: ``keys.json`` is missing.
    """
    if verified.manifest.suite is Suite.NONE:
        return ()
    entries = read_keys(store)
    check_contexts(verified.manifest, verified.payload, entries)
    return entries


def check_contexts(said: Manifest, payload: bytes, entries: Sequence[WrappedKey]) -> None:
    """Refuse wrapped keys that are not bound to the manifest *said*, whoever signed its *payload*.

    Raises:
        RejectedError: With code CONTEXT_MISMATCH.
    """
    for entry in entries:
        bound = payload if MANIFEST_PAIR in entry.context else None
        expected = encryption_context(said.model_id, said.version, bound)
        if dict(entry.context) != expected:
            raise RejectedError(
                "a wrapped key in keys.json is not bound to this package",
                code="CONTEXT_MISMATCH",
                expected=expected,
                actual=dict(entry.context),
            )


def first_opened(entries: Sequence[WrappedKey], unwrap: Callable[[WrappedKey], SecretBytes]) -> SecretBytes:
    """Return the first data key that *unwrap* obtains; an entry that fails is passed over.

    Raises:
        RejectedError: None was obtained, and one of them was refused.
        UnavailableError: None was obtained, and one of them was out of reach.
        IncompleteError: There is no key at hand for any of them.
    """
    failures: list[EphemeralError] = []
    for entry in entries:
        try:
            dek = unwrap(entry)
        except EphemeralError as error:
            failures.append(error)
            continue
        with dek.reveal() as opened:
            fits = len(opened) == DEK_BYTES
        if fits:
            return dek
        dek.wipe()
        failures.append(RejectedError(f"{entry.key} holds no data key of {DEK_BYTES} bytes", code="DEK_MISMATCH"))
    for kind in (RejectedError, UnavailableError):
        for failure in failures:
            if isinstance(failure, kind):
                raise failure
    if failures:
        raise failures[0]
    raise IncompleteError("the package has no wrapped key", code="KEY_MISSING", hint="give the data key with --dek")
