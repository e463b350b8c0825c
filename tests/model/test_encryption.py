import dataclasses
import hashlib
from pathlib import Path

import pytest

from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import RejectedError
from ephemeralml.model.encryption import encryption_context, expected_context
from ephemeralml.model.keys_file import parse_keys
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from ephemeralml.semver import SemVer
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, encrypted_package


@pytest.fixture(params=[False, True], ids=["free", "bound"])
def bound(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def folder(tmp_path: Path, bound: bool) -> Path:
    return encrypted_package(tmp_path, keys=OneKey(), version="1.2.3-rc.1+build.5", bind_manifest=bound)


def verified(folder: Path) -> VerifiedManifest:
    return verify_manifest((folder / "manifest.json").read_bytes(), publisher_keys=(PUBLISHER.public,))


def entry(folder: Path) -> WrappedKey:
    (found,) = parse_keys((folder / "keys.json").read_bytes())
    return found


def test_a_context_names_model_and_version_exactly() -> None:
    assert encryption_context("Mini LM", SemVer.parse("1.0.0-rc.1+5")) == {
        "model_id": "Mini LM",
        "version": "1.0.0-rc.1+5",
    }
    bound = encryption_context("m", SemVer.parse("1.0.0"), b"payload")
    assert bound == {"model_id": "m", "version": "1.0.0", "manifest": hashlib.sha256(b"payload").hexdigest()}


def test_the_context_of_a_package_is_the_one_its_key_was_made_under(folder: Path, bound: bool) -> None:
    context = expected_context(verified(folder), entry(folder))
    assert context == entry(folder).context
    assert ("manifest" in context) is bound
    assert context.get("manifest") in (None, verified(folder).model_hash.hex())


@pytest.mark.parametrize(
    "change",
    [
        {"model_id": "other"},
        {"model_id": "Tiny-bert"},
        {"version": "1.2.3"},
        {"manifest": "00" * 32},
        {"extra": ""},
    ],
    ids=str,
)
def test_any_other_context_is_refused(folder: Path, change: dict[str, str]) -> None:
    found = entry(folder)
    with pytest.raises(RejectedError) as caught:
        expected_context(verified(folder), dataclasses.replace(found, context=dict(found.context) | change))
    assert caught.value.code == "CONTEXT_MISMATCH"


@pytest.mark.parametrize("name", ["model_id", "version"])
def test_a_context_that_says_less_is_refused(folder: Path, name: str) -> None:
    found = entry(folder)
    less = {key: value for key, value in found.context.items() if key != name}
    with pytest.raises(RejectedError) as caught:
        expected_context(verified(folder), dataclasses.replace(found, context=less))
    assert caught.value.code == "CONTEXT_MISMATCH"


def test_where_the_manifest_must_be_bound_a_key_for_any_is_refused(folder: Path, bound: bool) -> None:
    if bound:
        assert expected_context(verified(folder), entry(folder), bind_manifest=True) == entry(folder).context
        return
    with pytest.raises(RejectedError) as caught:
        expected_context(verified(folder), entry(folder), bind_manifest=True)
    assert caught.value.code == "CONTEXT_MISMATCH"


def test_a_key_bound_to_one_manifest_does_not_fit_a_second_build(tmp_path: Path) -> None:
    keys = OneKey()
    first = encrypted_package(tmp_path / "a", keys=keys, bind_manifest=True)
    second = encrypted_package(tmp_path / "b", keys=keys, bind_manifest=True)
    assert verified(first).manifest.files[0].sha256 == verified(second).manifest.files[0].sha256
    with pytest.raises(RejectedError) as caught:
        expected_context(verified(first), entry(second))
    assert caught.value.code == "CONTEXT_MISMATCH"
