import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ephemeralml.cli.key_files import read_private_key, read_public_key
from ephemeralml.crypto.keys import PrivateKey, PublicKey
from tests.cli.runner import run
from tests.fakes.packages import signed_package

PKCS8 = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
SPKI = (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert run("key", "generate", "--out", tmp_path / "key.pem").exit_code == 0
    return tmp_path / "key.pem"


def test_generate_writes_a_private_file_and_prints_the_public_half(tmp_path: Path) -> None:
    done = run("key", "generate", "--out", tmp_path / "key.pem", "--purpose", "policy", "--json")
    private = PrivateKey.from_pem((tmp_path / "key.pem").read_bytes())
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.json == {
        "schema": "ephemeralml.key/1",
        "public_key": str(private.public),
        "keyid": private.public.keyid,
        "file": str(tmp_path / "key.pem"),
        "purpose": "policy",
        "private": True,
        "public_file": str(tmp_path / "key.pub"),
    }
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "key.pub"]


def test_generate_prints_text_by_default(tmp_path: Path) -> None:
    done = run("key", "generate", "--out", tmp_path / "key.pem")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["key", "public", "key"]
    assert "PRIVATE" not in done.stdout + done.stderr


def test_a_key_is_not_overwritten_unasked(key: Path) -> None:
    before = key.read_bytes()
    done = run("key", "generate", "--out", key)
    assert (done.exit_code, key.read_bytes()) == (2, before)
    assert done.stderr.startswith("error: ")
    assert "\nhint: " in done.stderr
    assert run("key", "generate", "--out", key, "--force").exit_code == 0
    assert key.read_bytes() != before


def test_what_is_neither_a_key_nor_a_file_is_called_so(tmp_path: Path) -> None:
    done = run("model", "verify", signed_package(tmp_path), "--publisher-key", "zz")
    assert done.exit_code == 2
    assert "error: 'zz' is neither a public key nor a file" in done.stderr
    assert "hint: give ed25519: and 64 lower-case hex digits" in done.stderr


def test_a_file_that_holds_no_private_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing of the kind")
    done = run("model", "sign", signed_package(tmp_path), "--key", tmp_path / "no.pem")
    assert done.exit_code == 4
    assert str(tmp_path / "no.pem") in done.stderr


def test_generate_needs_a_folder_and_a_known_purpose(tmp_path: Path) -> None:
    assert run("key", "generate", "--out", tmp_path / "no" / "key.pem").exit_code == 2
    assert run("key", "generate", "--out", tmp_path / "key.pem", "--purpose", "fun").exit_code == 2
    assert run("key", "generate").exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_show_never_prints_the_private_half(key: Path) -> None:
    private = PrivateKey.from_pem(key.read_bytes())
    seed = private._key.private_bytes_raw()
    for options in ([], ["--json"]):
        done = run("key", "show", key, *options)
        assert done.exit_code == 0
        assert str(private.public) in done.stdout
        assert seed.hex() not in done.stdout
        assert "PRIVATE" not in done.stdout


@pytest.mark.parametrize("form", ["pem", "named", "hex"])
def test_show_reads_public_keys_in_every_form(key: Path, tmp_path: Path, form: str) -> None:
    private = PrivateKey.from_pem(key.read_bytes())
    contents = {
        "pem": private.public._key.public_bytes(*SPKI),
        "named": f"{private.public}\n".encode(),
        "hex": private.public.raw.hex().encode(),
    }
    (tmp_path / "public").write_bytes(contents[form])
    done = run("key", "show", tmp_path / "public", "--json")
    assert (done.json["public_key"], done.json["private"]) == (str(private.public), False)


ANOTHER = generate_private_key(SECP256R1())
BAD = {
    "nothing": b"",
    "words": b"hello",
    "not ASCII": b"\xff\xfe",
    "a damaged PEM": b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    "a damaged private PEM": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "another kind of public key": ANOTHER.public_key().public_bytes(*SPKI),
    "another kind of private key": ANOTHER.private_bytes(*PKCS8),
    "upper case": b"AB" * 32,
    "too long": b"ab" * 33,
    "huge": b"a" * 100_000,
}


@pytest.mark.parametrize("fault", BAD)
def test_what_is_no_key_is_malformed(tmp_path: Path, fault: str) -> None:
    (tmp_path / "file").write_bytes(BAD[fault])
    done = run("key", "show", tmp_path / "file")
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr.startswith("error: ")


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    assert run("key", "show", tmp_path / "nothing").exit_code == 2


def test_public_keys_are_read_from_text_and_file(key: Path, tmp_path: Path) -> None:
    public = PrivateKey.from_pem(key.read_bytes()).public
    (tmp_path / "public").write_text(str(public))
    for text in (str(public), public.raw.hex(), str(tmp_path / "public")):
        assert read_public_key(text) == public


def test_a_private_key_is_refused_where_a_public_one_is_wanted(key: Path) -> None:
    from ephemeralml.cli.exit_codes import UsageError

    with pytest.raises(UsageError, match="is a private key") as caught:
        read_public_key(str(key))
    assert str(PrivateKey.from_pem(key.read_bytes()).public) in str(caught.value.hint)


def test_a_private_key_that_others_can_read_is_warned_about(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert read_private_key(key).public == read_private_key(key).public
    assert capsys.readouterr().err == ""
    key.chmod(0o640)
    read_private_key(key)
    assert "warning: other users may read" in capsys.readouterr().err


def test_an_ed25519_key_of_another_tool_is_read(tmp_path: Path) -> None:
    other = Ed25519PrivateKey.generate()
    (tmp_path / "key").write_bytes(other.private_bytes(*PKCS8))
    (tmp_path / "key").chmod(0o600)
    assert read_private_key(tmp_path / "key").public == PublicKey(other.public_key().public_bytes_raw())


def test_generate_puts_the_public_half_beside_the_private_one(tmp_path: Path) -> None:
    done = run("key", "generate", "--out", "publisher.pem", "--json", cwd=tmp_path)
    shown = run("key", "show", "publisher.pub", "--json", cwd=tmp_path)
    assert shown.json["public_key"] == done.json["public_key"]
    assert (shown.json["private"], (tmp_path / "publisher.pub").stat().st_mode & 0o777) == (False, 0o644)


def test_generate_refuses_either_file_that_exists_and_leaves_no_other(tmp_path: Path) -> None:
    (tmp_path / "publisher.pub").write_text("somebody's")
    assert run("key", "generate", "--out", "publisher.pem", cwd=tmp_path).exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["publisher.pub"]


def test_generate_refuses_to_write_a_private_key_to_the_public_name(tmp_path: Path) -> None:
    assert run("key", "generate", "--out", "publisher.pub", cwd=tmp_path).exit_code == 2
    assert not list(tmp_path.iterdir())
