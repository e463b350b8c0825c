"""`deploy local` with encrypted packages: two models, keys of its own server or of another one."""

import json
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.policy import Policy
from ephemeralml.client.session import connect
from ephemeralml.deploy.local_keys import KeyServer, model_key, publisher_keys, release_to
from ephemeralml.keyrelease.uris import KeyUri
from tests.cli.runner import run
from tests.fakes.kms_server import KmsServer
from tests.fakes.local_deployment import NotDeployedError, deployed
from tests.fakes.packages import encrypted_package

MODELS = ("first", "second")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path], KeyUri]:
    """A state folder whose key server made the key of two packages."""
    folder = tmp_path_factory.mktemp("e")
    state = folder / "state"
    state.mkdir(mode=0o700)
    Authority.create(state / "authority")
    process = KmsServer(state / "kms", ("--authority", str(state / "authority")))
    process.start("--init", "--add-principal", "publisher", "--add-principal", "parent")
    try:
        server = KeyServer(process.state, process.endpoint, process.account, process.region)
        key = model_key(server, MODELS)
        keys = publisher_keys(server, key)
        packages = [
            encrypted_package(folder, keys=keys, model_id=model, seed=number) for number, model in enumerate(MODELS)
        ]
    finally:
        process.stop()
    return state, packages, key


def _embed(endpoint: str, policy: Path, model: str) -> list[float]:
    with connect(endpoint, policy=Policy.load(policy)) as session:
        reply = session.post("/v1/embeddings", json={"model": model, "input": "hello"})
        assert reply.status == 200
        assert reply.receipt is not None
        assert reply.receipt.claims.model_id == model
        return list(reply.json()["data"][0]["embedding"])


def test_two_models_under_one_key(site: tuple[Path, list[Path], KeyUri]) -> None:
    state, (first, second), key = site
    with deployed("--state", state, "--package", second, package=first) as running:
        assert running.document["models"] == list(MODELS)
        assert set(running.document["pids"]) == {"kms", "runtime", "relay", "supervisor"}
        answers = [_embed(running.endpoint, running.policy, model) for model in MODELS]
        assert answers[0] != answers[1]
    config = (state / "enclave.toml").read_text()
    assert str(key) in config
    assert "allow_plaintext = false" in config
    log = (state / "relay.log").read_text()
    assert log == "" or "released" in log


def test_credentials_of_the_users_own_are_in_nobodys_way(
    site: tuple[Path, list[Path], KeyUri], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, (first, _), _ = site
    for name, value in {"AWS_PROFILE": "prod", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "x"}.items():
        monkeypatch.setenv(name, value)
    with deployed("--state", state, package=first) as running:
        assert _embed(running.endpoint, running.policy, "first")


def test_a_key_server_elsewhere_with_its_root(
    site: tuple[Path, list[Path], KeyUri], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/deploy-local.md says: a first start says what is measured, then the key is opened to that."""
    state, (first, _), key = site
    process = KmsServer(state / "kms", ("--authority", str(state / "authority")))
    process.start()
    try:
        server = KeyServer(process.state, process.endpoint, process.account, process.region)
        for name, value in process.environment("parent").items():
            monkeypatch.setenv(name, value)
        mine = tmp_path / "mine"
        options = ("--state", mine, "--kms-endpoint", process.endpoint, "--authority", state / "authority")
        with pytest.raises(NotDeployedError, match="does not release it"), deployed(*options, package=first):
            pass
        measured = run(
            "enclave", "measure", "--config", mine / "enclave.toml", "--authority", state / "authority", "--json"
        )
        release_to(server, str(key), MODELS, measured.json["measurements"])
        with deployed(*options, package=first) as running:
            assert _embed(running.endpoint, running.policy, "first")
        assert not (mine / "authority").exists()
    finally:
        process.stop()


def test_a_key_server_that_does_not_know_the_key(site: tuple[Path, list[Path], KeyUri], tmp_path: Path) -> None:
    _, (first, _), _ = site
    with (
        pytest.raises(NotDeployedError, match="NotFoundException") as caught,
        deployed("--state", tmp_path / "other", package=first),
    ):
        pass
    assert caught.value.code == 5


def test_a_key_server_elsewhere(site: tuple[Path, list[Path], KeyUri], monkeypatch: pytest.MonkeyPatch) -> None:
    state, (first, _), key = site
    process = KmsServer(state / "kms", ("--authority", str(state / "authority")))
    process.start()
    try:
        server = KeyServer(process.state, process.endpoint, process.account, process.region)
        for name, value in process.environment("parent").items():
            monkeypatch.setenv(name, value)
        options = ("--state", state, "--kms-endpoint", process.endpoint)
        release_to(server, str(key), MODELS, {f"pcr{index}": "11" * 48 for index in range(3)})
        # The operator's part: what this state folder measures is not what the key is released to.
        with (
            pytest.raises(NotDeployedError, match="does not release it to this workload with PCR0") as caught,
            deployed(*options, package=first),
        ):
            pass
        assert caught.value.code == 3
        pinned = json.loads((state / "policy.json").read_bytes())["local"]["allow"][0]
        release_to(server, str(key), MODELS, {name: pinned[name] for name in ("pcr0", "pcr1", "pcr2")})
        with deployed(*options, package=first) as running:
            assert set(running.document["pids"]) == {"runtime", "relay", "supervisor"}
            assert _embed(running.endpoint, running.policy, "first")
    finally:
        process.stop()
