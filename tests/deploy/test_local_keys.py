"""The key server of a local deployment: nobody but the measured image gets the key."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from botocore.exceptions import ClientError

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.deploy.local import open_state
from ephemeralml.deploy.local_keys import (
    ADMINISTRATOR,
    PARENT,
    PUBLISHER,
    KeyServer,
    model_key,
    publisher_keys,
    release_to,
    server_command,
)
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.uris import KeyUri
from tests.fakes.kms_server import KmsServer, running
from tests.fakes.release import IMAGE, Enclave

MODELS = ("minilm-l6-v2",)
CONTEXT = {"model_id": "minilm-l6-v2", "version": "1.0.0"}
REGISTERS = {f"pcr{index}": value.hex() for index, value in IMAGE.items()}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    with running(tmp_path_factory.mktemp("kms")) as server:
        yield server


@pytest.fixture(scope="module")
def server(process: KmsServer) -> KeyServer:
    return KeyServer(process.state, process.endpoint, process.account, process.region)


@pytest.fixture(scope="module")
def key(server: KeyServer) -> KeyUri:
    return model_key(server, MODELS)


def test_the_key_is_made_once(server: KeyServer, key: KeyUri) -> None:
    assert model_key(server, MODELS) == key


def test_no_proxy_of_the_environment_stands_between(
    server: KeyServer, key: KeyUri, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    publisher_keys(server, key).generate(CONTEXT)


def test_it_is_released_to_the_one_image(process: KmsServer, server: KeyServer, key: KeyUri) -> None:
    dek, wrapped = publisher_keys(server, key).generate(CONTEXT)
    host = AwsKms(key, client=server.client(PARENT))
    image, other = Enclave(process.authority), Enclave(process.authority, {**IMAGE, 0: os.urandom(48)})
    with pytest.raises(RejectedError) as closed:
        host.unwrap(wrapped, attester=image)
    assert closed.value.code == "KEY_RELEASE_DENIED"
    release_to(server, str(key), MODELS, REGISTERS)
    assert bytes(host.unwrap(wrapped, attester=image).reveal()) == bytes(dek.reveal())
    with pytest.raises(RejectedError) as denied:
        host.unwrap(wrapped, attester=other)
    assert denied.value.code == "KEY_RELEASE_DENIED"


@pytest.mark.parametrize("principal", [ADMINISTRATOR, PUBLISHER, PARENT])
def test_no_role_gets_it_without_a_document(server: KeyServer, key: KeyUri, principal: str) -> None:
    _, wrapped = publisher_keys(server, key).generate(CONTEXT)
    release_to(server, str(key), MODELS, REGISTERS)
    with pytest.raises(RejectedError) as caught:
        AwsKms(key, client=server.client(principal)).decrypt_plain(wrapped)
    assert caught.value.code == "KEY_RELEASE_DENIED"


@pytest.mark.parametrize(("principal", "operation"), [(PARENT, "generate"), (ADMINISTRATOR, "generate")])
def test_only_the_publisher_makes_data_keys(server: KeyServer, key: KeyUri, principal: str, operation: str) -> None:
    with pytest.raises(RejectedError) as caught:
        getattr(AwsKms(key, client=server.client(principal)), operation)(CONTEXT)
    assert caught.value.code == "KEY_RELEASE_DENIED"


def test_the_publisher_makes_none_for_another_model(server: KeyServer, key: KeyUri) -> None:
    with pytest.raises(RejectedError):
        publisher_keys(server, key).generate({**CONTEXT, "model_id": "another"})


def test_a_publisher_cannot_open_the_gate(server: KeyServer, key: KeyUri) -> None:
    with pytest.raises(ClientError) as caught:
        server.client(PUBLISHER).put_key_policy(KeyId=key.resource, Policy="{}")
    assert caught.value.response["Error"]["Code"] in {"AccessDeniedException", "MalformedPolicyDocumentException"}


def test_a_server_that_refuses_is_unavailable(server: KeyServer, key: KeyUri) -> None:
    missing = str(key)[:-12] + "0" * 12
    with pytest.raises(UnavailableError, match="NotFoundException") as caught:
        release_to(server, missing, MODELS, REGISTERS)
    assert "--kms-endpoint" in (caught.value.hint or "")


def test_the_users_own_profiles_and_credentials_count_for_nothing(
    server: KeyServer, key: KeyUri, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "config"
    broken.write_text("this is no [configuration")
    for name, value in {
        "AWS_PROFILE": "prod",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wrong",
        "AWS_SESSION_TOKEN": "token",
        "AWS_CONFIG_FILE": str(broken),
        "AWS_SHARED_CREDENTIALS_FILE": str(broken),
        "AWS_ENDPOINT_URL_KMS": "http://127.0.0.1:1",
    }.items():
        monkeypatch.setenv(name, value)
    assert model_key(server, MODELS) == key
    assert publisher_keys(server, key).generate(CONTEXT)


def test_missing_credentials(server: KeyServer, tmp_path: Path) -> None:
    empty = KeyServer(tmp_path, server.endpoint, server.account, server.region)
    with pytest.raises(UnavailableError, match="no credentials of parent") as caught:
        empty.client(PARENT)
    assert "--add-principal parent" in (caught.value.hint or "")


def test_a_child_is_told_where_its_credentials_are_and_no_secret(process: KmsServer, server: KeyServer) -> None:
    given = " ".join(server.environment(PARENT).values())
    assert str(process.state / "credentials" / PARENT) in given
    assert not any(part in given for part in process.credentials(PARENT))


def test_the_state_is_made_the_first_time_only(tmp_path: Path) -> None:
    with open_state(tmp_path / "state") as state:
        Authority.create(state.authority)
        first = server_command(state)
        assert "--init" in first
        state.keys.mkdir()
        (state.keys / "kms.sqlite3").touch()
        assert "--init" not in server_command(state)
        assert str(state.authority) in first
