"""OpenSSF model signatures: verified before packaging, and made for others."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from ephemeralml.model import oms
from ephemeralml.model.create import PackageRequest, create_package
from ephemeralml.model.oms import IdentityTrust, KeyTrust, sign_upstream, verify_upstream
from tests.fakes import tiny_bert
from tests.fakes.packages import request

CURVE = ec.SECP256R1()


def write_pair(folder: Path, name: str, private: Any) -> tuple[Path, Path]:
    secret, public = folder / f"{name}.pem", folder / f"{name}.pub"
    secret.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return secret, public


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_bert.write(tmp_path / "model")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_pair(tmp_path, "upstream", ec.generate_private_key(CURVE))


@pytest.fixture
def bundle(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    sign_upstream(model, tmp_path / "model.sig", keys[0])
    return tmp_path / "model.sig"


def statement(bundle: Path) -> dict[str, Any]:
    document = json.loads(bundle.read_text())
    read: dict[str, Any] = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
    return read


def test_what_is_signed_here_verifies_here(model: Path, bundle: Path, keys: tuple[Path, Path]) -> None:
    upstream = verify_upstream(model, bundle, KeyTrust(keys[1]))
    assert set(upstream.files) == {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert oms.hashlib.sha256(bundle.read_bytes()).digest() == upstream.signature


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_other_curves_of_the_format(model: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    secret, public = write_pair(tmp_path, "k", ec.generate_private_key(curve))
    sign_upstream(model, tmp_path / "s", secret)
    assert verify_upstream(model, tmp_path / "s", KeyTrust(public)).files


def test_its_digest_is_signed_with_the_manifest(
    model: Path, bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    upstream = verify_upstream(model, bundle, KeyTrust(keys[1]))
    made = create_package(model, tmp_path / "p", with_upstream(upstream))
    assert made.upstream_signature == upstream.signature


def with_upstream(upstream: object) -> PackageRequest:
    import dataclasses

    return dataclasses.replace(request(), upstream=upstream)


def test_a_model_that_changed_since_is_not_packaged(
    model: Path, bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    upstream = verify_upstream(model, bundle, KeyTrust(keys[1]))
    (model / "config.json").write_bytes((model / "config.json").read_bytes() + b" ")
    with pytest.raises(RejectedError) as caught:
        create_package(model, tmp_path / "p", with_upstream(upstream))
    assert caught.value.code == "UPSTREAM_MISMATCH"
    assert not (tmp_path / "p").exists()


def test_a_model_of_one_file(model: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    lone = model / "model.safetensors"
    sign_upstream(lone, tmp_path / "s", keys[0])
    upstream = verify_upstream(lone, tmp_path / "s", KeyTrust(keys[1]))
    made = create_package(lone, tmp_path / "p", with_upstream(upstream))
    assert dict(upstream.files) == {"model.safetensors": made.files[0].sha256}


def test_a_signature_inside_of_the_model_need_not_cover_itself(
    model: Path, bundle: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    inside = model / "model.sig"
    bundle.rename(inside)
    upstream = verify_upstream(model, inside, KeyTrust(keys[1]), uncovered=frozenset({"model.sig"}))
    made = create_package(model, tmp_path / "p", with_upstream(upstream))
    assert made.file("model.sig").sha256 == upstream.signature


def edited(model: Path) -> None:
    (model / "config.json").write_bytes((model / "config.json").read_bytes() + b" ")


CHANGES: dict[str, Callable[[Path], object]] = {
    "edited": edited,
    "missing": lambda model: (model / "config.json").unlink(),
    "added": lambda model: (model / "more.json").write_text("{}"),
    "added, as git's": lambda model: (model / ".gitattributes").write_text("* text"),
    "a link": lambda model: (model / "link").symlink_to("config.json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_is_not_as_signed_is_rejected(
    model: Path, bundle: Path, keys: tuple[Path, Path], change: str
) -> None:
    CHANGES[change](model)
    with pytest.raises(RejectedError) as caught:
        verify_upstream(model, bundle, KeyTrust(keys[1]))
    assert caught.value.code == "UPSTREAM_SIGNATURE_INVALID"


def test_another_key_is_rejected(model: Path, bundle: Path, tmp_path: Path) -> None:
    _, other = write_pair(tmp_path, "other", ec.generate_private_key(CURVE))
    with pytest.raises(RejectedError) as caught:
        verify_upstream(model, bundle, KeyTrust(other))
    assert caught.value.code == "UPSTREAM_SIGNATURE_INVALID"


def resign(bundle: Path, change: Callable[[dict[str, Any]], object], *, within: bool = True) -> None:
    document = json.loads(bundle.read_text())
    if within:
        read = statement(bundle)
        change(read)
        document["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(read).encode()).decode()
    else:
        change(document)
    bundle.write_text(json.dumps(document))


def test_a_statement_edited_after_signing_is_rejected(model: Path, bundle: Path, keys: tuple[Path, Path]) -> None:
    resign(bundle, lambda read: read["subject"][0].update(name="other"))
    with pytest.raises(RejectedError, match="does not fit the statement"):
        verify_upstream(model, bundle, KeyTrust(keys[1]))


def test_a_hint_about_no_key_changes_nothing_and_prints_nothing(
    model: Path, bundle: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    resign(bundle, lambda document: document["verificationMaterial"]["publicKey"].pop("hint"), within=False)
    assert verify_upstream(model, bundle, KeyTrust(keys[1])).files
    assert capsys.readouterr().out == ""


INCOMPLETE: dict[str, Callable[[dict[str, Any]], object]] = {
    "another hash": lambda read: read["predicate"]["serialization"].update(hash_type="blake3"),
    "parts of files": lambda read: read["predicate"]["serialization"].update(method="shards", shard_size=1),
}


@pytest.mark.parametrize("change", INCOMPLETE)
def test_digests_that_no_manifest_has_cannot_be_compared(
    model: Path, bundle: Path, keys: tuple[Path, Path], change: str
) -> None:
    resign(bundle, INCOMPLETE[change])
    with pytest.raises(IncompleteError) as caught:
        verify_upstream(model, bundle, KeyTrust(keys[1]))
    assert caught.value.code == "UPSTREAM_HASH_UNKNOWN"


def first(read: dict[str, Any]) -> dict[str, Any]:
    resource: dict[str, Any] = read["predicate"]["resources"][0]
    return resource


MALFORMED: dict[str, tuple[bool, Callable[[dict[str, Any]], object]]] = {
    "another bundle": (False, lambda document: document.update(mediaType="application/json")),
    "no envelope": (False, lambda document: document.pop("dsseEnvelope")),
    "another payload": (False, lambda document: document["dsseEnvelope"].update(payloadType="text/plain")),
    "no base64": (False, lambda document: document["dsseEnvelope"].update(payload="!")),
    "two signatures": (False, lambda document: document["dsseEnvelope"]["signatures"].append({})),
    "no signature": (False, lambda document: document["dsseEnvelope"].update(signatures=[])),
    "another statement": (True, lambda read: read.update(_type="other")),
    "an older predicate": (True, lambda read: read.update(predicateType="https://model_signing/Digests/v0.1")),
    "no predicate": (True, lambda read: read.update(predicate=[])),
    "no files": (True, lambda read: read["predicate"].update(resources=[])),
    "a file twice": (True, lambda read: read["predicate"]["resources"].append(first(read))),
    "a file without a name": (True, lambda read: first(read).pop("name")),
    "a path that leads out": (True, lambda read: first(read).update(name="../x")),
    "another algorithm": (True, lambda read: first(read).update(algorithm="md5")),
    "a short digest": (True, lambda read: first(read).update(digest="00")),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_what_is_no_model_signature_is_malformed(
    model: Path, bundle: Path, keys: tuple[Path, Path], fault: str
) -> None:
    within, change = MALFORMED[fault]
    resign(bundle, change, within=within)
    with pytest.raises(MalformedError):
        verify_upstream(model, bundle, KeyTrust(keys[1]))


def test_keys_that_are_none_are_malformed(model: Path, bundle: Path, tmp_path: Path) -> None:
    secret, public = write_pair(tmp_path, "ed", ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "text").write_text("no key")
    for key in (public, tmp_path / "text"):
        with pytest.raises(MalformedError):
            verify_upstream(model, bundle, KeyTrust(key))
    for key in (secret, tmp_path / "text"):
        with pytest.raises(MalformedError):
            sign_upstream(model, tmp_path / "s", key)


def test_what_cannot_be_read_is_unavailable(model: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        verify_upstream(model, bundle, KeyTrust(tmp_path / "nothing"))
    with pytest.raises(UnavailableError):
        verify_upstream(model, tmp_path / "nothing", KeyTrust(tmp_path / "nothing"))
    with pytest.raises(UnavailableError):
        sign_upstream(model, tmp_path / "s", tmp_path / "nothing")


def test_a_key_is_no_identity(model: Path, bundle: Path, tmp_path: Path) -> None:
    config = tmp_path / "trust.json"
    config.write_text("{}")
    with pytest.raises(EphemeralError):
        verify_upstream(model, bundle, IdentityTrust("me@example.com", "https://issuer.example", config))


@pytest.mark.fuzz
@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,mediaTyp', max_size=200).map(str.encode))
def test_only_our_errors_leave_the_bundles_parser(data: bytes) -> None:
    with pytest.raises(EphemeralError):
        oms._statement(data)


SAYS = {
    "edited": "'config.json' is not as it was signed",
    "missing": "'config.json' is missing",
    "added": "'more.json' was not there",
    "added, as git's": "'.gitattributes' was not there",
    "a link": "'link' is a symbolic link",
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_file_that_differs_is_named_in_our_words(
    model: Path, bundle: Path, keys: tuple[Path, Path], change: str
) -> None:
    CHANGES[change](model)
    with pytest.raises(RejectedError) as caught:
        verify_upstream(model, bundle, KeyTrust(keys[1]))
    assert SAYS[change] in caught.value.message
    assert "Digest(" not in caught.value.message


def test_a_key_of_another_kind_is_said_to_be_one(model: Path, bundle: Path, tmp_path: Path) -> None:
    secret, public = write_pair(tmp_path, "ed", ed25519.Ed25519PrivateKey.generate())
    (tmp_path / "publisher.pub").write_text("ed25519:" + "00" * 32 + "\n")
    curved = write_pair(tmp_path, "k1", ec.generate_private_key(ec.SECP256K1()))
    for key, says in ((secret, "it is an Ed25519 key"), (curved[0], "its curve is secp256k1"), (public, "none in it")):
        with pytest.raises(MalformedError, match=says) as caught:
            sign_upstream(model, tmp_path / "s", key)
        assert "P-256" in (caught.value.hint or "")
    for key, says in (
        (public, "it is an Ed25519 key"),
        (tmp_path / "publisher.pub", "none in it"),
        (curved[1], "its curve is secp256k1"),
    ):
        with pytest.raises(MalformedError, match=says) as caught:
            verify_upstream(model, bundle, KeyTrust(key))
        assert "P-256" in (caught.value.hint or "")


def test_an_encrypted_key_and_a_model_with_links_are_not_signed(model: Path, keys: tuple[Path, Path]) -> None:
    locked = model.parent / "locked.pem"
    locked.write_bytes(
        ec.generate_private_key(CURVE).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(MalformedError, match="encrypted with a password"):
        sign_upstream(model, model.parent / "s", locked)
    (model / "link").symlink_to("config.json")
    with pytest.raises(MalformedError, match="symbolic link"):
        sign_upstream(model, model.parent / "s", keys[0])


def test_another_key_is_named_as_the_reason(model: Path, bundle: Path, tmp_path: Path) -> None:
    _, other = write_pair(tmp_path, "other", ec.generate_private_key(CURVE))
    with pytest.raises(RejectedError, match="another key made it"):
        verify_upstream(model, bundle, KeyTrust(other))
