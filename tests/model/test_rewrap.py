"""Another KMS key for a package; its ciphertext and its hash stay."""

import json
from pathlib import Path

import pytest

from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model import envelope
from ephemeralml.model.keys_file import MAX_ENTRIES, parse_keys
from ephemeralml.model.package import Package
from ephemeralml.model.package_keys import check_keys, first_opened, read_keys
from ephemeralml.model.rewrap import read_wrapped, rewrap_package
from ephemeralml.model.verify import VerifiedManifest, verify_package
from ephemeralml.model.verify_full import verify_plaintext
from tests.fakes.key_source import KEY_URI, OneKey
from tests.fakes.packages import PUBLISHER, data_key, encrypted_package, signed_package

OTHER_URI = KEY_URI[:-1] + "2"


@pytest.fixture
def old() -> OneKey:
    return OneKey()


@pytest.fixture
def new() -> OneKey:
    return OneKey(uri=OTHER_URI)


@pytest.fixture
def package(tmp_path: Path, old: OneKey) -> Path:
    return encrypted_package(tmp_path, keys=old)


def everything_but_keys(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "keys.json"
    }


def entries_of(folder: Path) -> tuple[WrappedKey, ...]:
    return parse_keys((folder / "keys.json").read_bytes())


def verified(folder: Path) -> VerifiedManifest:
    with Package.open(folder) as package:
        found = verify_package(package, publisher_keys=(PUBLISHER.public,))
        check_keys(found, package)
        return found


def test_only_the_wrapped_keys_change(package: Path, old: OneKey, new: OneKey) -> None:
    before, model_hash = everything_but_keys(package), verified(package).model_hash
    made = rewrap_package(package, new, data_key(package, old))
    assert everything_but_keys(package) == before
    assert made == entries_of(package)
    assert [entry.key for entry in made] == [OTHER_URI]
    assert verified(package).model_hash == model_hash
    assert [path.name for path in package.parent.iterdir() if path.name.startswith(".")] == []


def test_the_new_key_opens_it(package: Path, old: OneKey, new: OneKey) -> None:
    rewrap_package(package, new, data_key(package, old))
    with Package.open(package) as opened:
        found = verify_package(opened, publisher_keys=(PUBLISHER.public,))
        verify_plaintext(found, opened, dek=new.open(entries_of(package)[0]))


def test_with_add_both_open_it(package: Path, old: OneKey, new: OneKey) -> None:
    first = entries_of(package)[0]
    made = rewrap_package(package, new, data_key(package, old), add=True)
    assert made[0] == first
    assert bytes(old.open(made[0]).reveal()) == bytes(new.open(made[1]).reveal())


def test_adding_the_same_key_again_replaces_its_entry(package: Path, old: OneKey) -> None:
    made = rewrap_package(package, old, data_key(package, old), add=True)
    assert [entry.key for entry in made] == [KEY_URI]


def test_a_bound_package_stays_bound(tmp_path: Path, old: OneKey, new: OneKey) -> None:
    package = encrypted_package(tmp_path, keys=old, bind_manifest=True)
    (entry,) = rewrap_package(package, new, data_key(package, old))
    assert set(entry.context) == {"model_id", "version", "manifest"}
    verified(package)


def test_a_package_can_be_bound_later(package: Path, old: OneKey, new: OneKey) -> None:
    (entry,) = rewrap_package(package, new, data_key(package, old), bind_manifest=True)
    assert entry.context["manifest"] == verified(package).model_hash.hex()


def test_a_wrong_key_is_never_wrapped(package: Path, new: OneKey) -> None:
    before = (package / "keys.json").read_bytes()
    with pytest.raises(RejectedError, match="does not open the package") as caught:
        rewrap_package(package, new, SecretBytes(bytearray(32)))
    assert caught.value.code == "CHUNK_AUTH_FAILED"
    assert new.calls == []
    assert (package / "keys.json").read_bytes() == before


def test_the_key_of_a_renamed_package_is_neither_opened_nor_wrapped(package: Path, old: OneKey, new: OneKey) -> None:
    dek, before = data_key(package, old), (package / "keys.json").read_bytes()
    payload = envelope.parse((package / "manifest.json").read_bytes()).payload
    (package / "manifest.json").write_bytes(envelope.unsigned(payload.replace(b"tiny-bert", b"another")))
    with Package.open(package) as opened, pytest.raises(RejectedError) as caught:
        read_wrapped(opened)
    assert caught.value.code == "CONTEXT_MISMATCH"
    with pytest.raises(RejectedError, match="not bound to this package"):
        rewrap_package(package, new, dek)
    assert new.calls == []
    assert (package / "keys.json").read_bytes() == before


def test_what_the_kms_refuses_changes_nothing(package: Path, old: OneKey) -> None:
    class Denying(OneKey):
        def wrap(self, dek: SecretBytes, context: object) -> WrappedKey:
            raise RejectedError("denied", code="KEY_RELEASE_DENIED")

    before = (package / "keys.json").read_bytes()
    with pytest.raises(RejectedError):
        rewrap_package(package, Denying(), data_key(package, old))
    assert (package / "keys.json").read_bytes() == before


def test_a_plaintext_package_has_no_key(tmp_path: Path, new: OneKey) -> None:
    with pytest.raises(MalformedError, match="not encrypted"):
        rewrap_package(signed_package(tmp_path), new, SecretBytes(bytearray(32)))


def test_too_many_keys_are_refused_and_nothing_changes(package: Path, old: OneKey) -> None:
    for number in range(2, MAX_ENTRIES + 1):
        rewrap_package(package, OneKey(uri=f"{KEY_URI[:-4]}{number:04}"), data_key(package, old), add=True)
    before = (package / "keys.json").read_bytes()
    with pytest.raises(MalformedError):
        rewrap_package(package, OneKey(uri=f"{KEY_URI[:-4]}9999"), data_key(package, old), add=True)
    assert (package / "keys.json").read_bytes() == before


def test_a_file_that_does_not_belong_there_is_found(package: Path, old: OneKey, new: OneKey) -> None:
    (package / "extra").write_text("")
    with pytest.raises(MalformedError):
        rewrap_package(package, new, data_key(package, old))


def test_a_blob_that_is_missing_is_unavailable(package: Path, old: OneKey, new: OneKey) -> None:
    dek = data_key(package, old)
    next((package / "blobs").iterdir()).unlink()
    with pytest.raises(UnavailableError):
        rewrap_package(package, new, dek)


def test_keys_of_a_plaintext_package_are_none(tmp_path: Path) -> None:
    folder = signed_package(tmp_path)
    with Package.open(folder) as package:
        found = verify_package(package, publisher_keys=(PUBLISHER.public,), allow_plaintext=True)
        assert check_keys(found, package) == ()


@pytest.mark.parametrize("name", ["model_id", "version", "more"])
def test_a_context_that_is_not_the_manifests_is_refused(package: Path, name: str) -> None:
    entries = json.loads((package / "keys.json").read_text())
    entries[0]["context"][name] = "other"
    (package / "keys.json").write_text(json.dumps(entries))
    with pytest.raises(RejectedError) as caught:
        verified(package)
    assert caught.value.code == "CONTEXT_MISMATCH"


def test_a_large_keys_file_is_not_read(package: Path) -> None:
    (package / "keys.json").write_bytes(bytes(70_000))
    with Package.open(package) as opened, pytest.raises(MalformedError, match="at most"):
        read_keys(opened)


ENTRY = WrappedKey("local", KEY_URI, b"sealed", {})
DENIED = RejectedError("denied", code="KEY_RELEASE_DENIED")
AWAY = UnavailableError("away")
NOTHING = IncompleteError("nothing at hand")


def outcomes(*made: EphemeralError | bytes) -> SecretBytes:
    waiting = iter(made)

    def unwrap(entry: WrappedKey) -> SecretBytes:
        assert entry == ENTRY
        outcome = next(waiting)
        if isinstance(outcome, EphemeralError):
            raise outcome
        return SecretBytes(bytearray(outcome))

    return first_opened([ENTRY] * len(made), unwrap)


def test_a_failing_entry_falls_through_and_the_first_key_is_final() -> None:
    assert bytes(outcomes(DENIED, AWAY, b"k" * 32, b"x" * 32).reveal()) == b"k" * 32


@pytest.mark.parametrize(
    ("failures", "worst"),
    [([AWAY, DENIED], DENIED), ([NOTHING, AWAY], AWAY), ([NOTHING, NOTHING], NOTHING), ([NOTHING, DENIED], DENIED)],
)
def test_a_refusal_weighs_more_than_what_is_out_of_reach(failures: list[EphemeralError], worst: object) -> None:
    with pytest.raises(EphemeralError) as caught:
        outcomes(*failures)
    assert caught.value is worst


def test_a_key_of_another_length_is_none() -> None:
    with pytest.raises(RejectedError) as caught:
        outcomes(b"short")
    assert caught.value.code == "DEK_MISMATCH"


def test_without_entries_there_is_no_key() -> None:
    with pytest.raises(IncompleteError):
        first_opened([], lambda _: SecretBytes(bytearray(32)))
