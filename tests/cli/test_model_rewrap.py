"""Keys under the policies that `kms policy render` writes: moved by the rewrapping role, kept in a file, or refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.policy.render import Roles, render
from ephemeralml.keyrelease.policy.tuples import ReleaseTuple
from ephemeralml.keyrelease.uris import KeyUri
from ephemeralml.model.package import Package
from ephemeralml.model.rewrap import read_wrapped
from ephemeralml.resources import bundled
from tests.cli.runner import Result, run
from tests.fakes import kms_server, tiny_bert
from tests.fakes.kms_server import KmsServer
from tests.fakes.packages import PUBLISHER
from tests.fakes.release import IMAGE, Enclave, make_key

KEY = str(PUBLISHER.public)
TEMPLATE = bundled("templates", "kms-policy.json.j2").read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    names = ("publisher", "parent", "rewrapper")
    with kms_server.running(tmp_path_factory.mktemp("kms"), principals=names) as made:
        yield made


class Desk:
    """The commands, as one role or another."""

    def __init__(self, server: KmsServer, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self._patch = monkeypatch

    def key(self, *, rewrap: bool = True, model: str = "tiny") -> str:
        arn = self.server.arn
        roles = Roles(
            (arn("administrator"),), (arn("publisher"),), (arn("parent"),), arn("rewrapper") if rewrap else None
        )
        image = ReleaseTuple("image", MappingProxyType(dict(IMAGE)))
        return "local:" + make_key(self.server, render(roles, (model,), (image,), TEMPLATE).text)

    def run(self, role: str, *words: object) -> Result:
        for name, value in self.server.environment(role).items():
            self._patch.setenv(name, value)
        return run("model", *words)

    def package(self, key: str, *options: object, model_id: str = "tiny") -> Path:
        model = self.folder / "model"
        if not model.exists():
            tiny_bert.write(model)
            (self.folder / "key.pem").write_bytes(PUBLISHER.to_pem())
            (self.folder / "key.pem").chmod(0o600)
        words = ("--model-id", model_id, "--model-version", "1.0.0", "--key", key, *options)
        done = self.run("publisher", "encrypt", model, "--out", self.folder / "p", *words)
        assert done.exit_code == 0, done.stderr
        assert self.run("publisher", "sign", self.folder / "p", "--key", self.folder / "key.pem").exit_code == 0
        return self.folder / "p"

    def released(self, package: Path) -> bytes:
        """What the last entry opens to, for an attested machine of the policy's image."""
        with Package.open(package) as opened:
            entry = read_wrapped(opened).entries[-1]
        keys = AwsKms(KeyUri.parse(entry.key), client=self.server.client("parent"))
        return bytes(keys.unwrap(entry, attester=Enclave(self.server.authority)).reveal())


@pytest.fixture
def desk(server: KmsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Desk:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    return Desk(server, monkeypatch, tmp_path)


def denied(done: Result, *says: str) -> None:
    assert done.exit_code == 3, done.stderr
    assert done.stdout == ""
    for text in says:
        assert text in done.stderr


@pytest.mark.parametrize("bound", [(), ("--bind-manifest",)], ids=["id and version", "manifest"])
@pytest.mark.parametrize("add", [(), ("--add",)], ids=["instead", "add"])
def test_the_rewrapping_role_moves_a_key_that_nobody_may_have(
    desk: Desk, bound: tuple[str, ...], add: tuple[str, ...]
) -> None:
    old, new = desk.key(), desk.key()
    package = desk.package(old, *bound)
    dek = desk.released(package)
    done = desk.run("rewrapper", "rewrap", package, "--key", new, *add, "--json")
    assert done.exit_code == 0, done.stderr
    assert [entry["key"] for entry in done.json["keys"]] == ([old, new] if add else [new])
    assert ("manifest" in done.json["keys"][-1]["context"]) is bool(bound)
    assert desk.released(package) == dek
    assert desk.run("parent", "verify", package, "--publisher-key", KEY).exit_code == 0


def test_a_new_entry_can_be_bound_to_the_manifest_on_the_way(desk: Desk) -> None:
    package = desk.package(desk.key())
    dek = desk.released(package)
    done = desk.run("rewrapper", "rewrap", package, "--key", desk.key(), "--bind-manifest", "--json")
    assert done.exit_code == 0, done.stderr
    assert len(done.json["keys"][0]["context"]["manifest"]) == 64
    assert desk.released(package) == dek


@pytest.mark.parametrize("role", ["publisher", "parent", "administrator"])
def test_who_may_not_is_told_what_is_needed(desk: Desk, role: str) -> None:
    package = desk.package(desk.key(rewrap=False))
    before = (package / "keys.json").read_bytes()
    done = desk.run(role, "rewrap", package, "--key", desk.key(rewrap=False))
    denied(done, "ReEncrypt", "--rewrap-role", "--dek")
    assert (package / "keys.json").read_bytes() == before


def test_the_destination_has_to_name_the_role_and_the_model_too(desk: Desk) -> None:
    package = desk.package(desk.key())
    denied(desk.run("rewrapper", "rewrap", package, "--key", desk.key(rewrap=False)), "ReEncryptTo")
    denied(desk.run("rewrapper", "rewrap", package, "--key", desk.key(model="another")), "ReEncryptTo")


def test_a_data_key_that_was_kept_rewraps_and_verifies(desk: Desk) -> None:
    kept = desk.folder / "kept.dek"
    package = desk.package(desk.key(rewrap=False), "--keep-dek", kept)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert bytes.fromhex(kept.read_text()) == desk.released(package)
    assert len(kept.read_text()) == 64
    new = desk.key(rewrap=False)
    assert desk.run("publisher", "rewrap", package, "--key", new, "--dek", kept).exit_code == 0
    assert desk.released(package).hex() == kept.read_text()
    full = desk.run("publisher", "verify", package, "--publisher-key", KEY, "--full", "--dek", kept)
    assert full.exit_code == 0, full.stderr


def test_a_data_key_bound_to_its_manifest_is_kept_too(desk: Desk) -> None:
    kept = desk.folder / "kept.dek"
    package = desk.package(desk.key(), "--bind-manifest", "--keep-dek", kept)
    assert desk.released(package).hex() == kept.read_text()


def test_a_kept_data_key_is_warned_of_and_never_overwritten_unasked(desk: Desk) -> None:
    key, kept = desk.key(), desk.folder / "kept.dek"
    model = tiny_bert.write(desk.folder / "model")
    encrypt = ("encrypt", model, "--model-id", "tiny", "--model-version", "1.0.0", "--keep-dek", kept, "--out")
    done = desk.run("publisher", *encrypt, desk.folder / "p", "--key", key)
    assert done.exit_code == 0
    assert "warning:" in done.stderr
    assert kept.read_text() not in done.stderr + done.stdout
    before = kept.read_text()
    again = desk.run("publisher", *encrypt, desk.folder / "q", "--key", key)
    assert (again.exit_code, kept.read_text()) == (2, before)
    assert not (desk.folder / "q").exists()
    assert desk.run("publisher", *encrypt, desk.folder / "p", "--key", key, "--force").exit_code == 0
    assert kept.read_text() != before


def test_a_data_key_is_not_kept_where_it_would_travel_along(desk: Desk) -> None:
    model = tiny_bert.write(desk.folder / "model")
    encrypt = ("encrypt", model, "--model-id", "tiny", "--model-version", "1.0.0", "--out", desk.folder / "p")
    for place in (model / "dek", desk.folder / "p" / "dek", desk.folder / "nowhere" / "dek"):
        assert desk.run("publisher", *encrypt, "--key", desk.key(), "--keep-dek", place).exit_code == 2
    plain = desk.run("publisher", *encrypt, "--suite", "none", "--keep-dek", desk.folder / "dek")
    assert (plain.exit_code, "no data key" in plain.stderr) == (2, True)
    assert not (desk.folder / "p").exists()


def test_a_package_that_fails_leaves_no_data_key(desk: Desk) -> None:
    model = tiny_bert.write(desk.folder / "model")
    words = ("--model-id", "foreign", "--model-version", "1.0.0", "--key", desk.key())
    done = desk.run("publisher", "encrypt", model, "--out", desk.folder / "p", *words, "--keep-dek", desk.folder / "d")
    denied(done, "'foreign'", "model_id", "key's policy", "--model-id foreign")
    assert {path.name for path in desk.folder.iterdir()} == {"model"}
    assert "KEY_RELEASE_DENIED" in json.dumps(
        desk.run("publisher", "encrypt", model, "--out", desk.folder / "p", *words, "--json").json
    )
