"""`ephemeralml kms create-key`: from a rendered policy to a key that model encrypt takes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("boto3", reason="boto3 is not installed")

from ephemeralml.cli.commands.kms_create_key import _is_local
from tests.cli.runner import run
from tests.fakes.kms_server import KmsServer, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    with running(tmp_path_factory.mktemp("kms")) as found:
        yield found


@pytest.fixture
def policy(server: KmsServer, tmp_path: Path) -> Path:
    path = tmp_path / "policy.json"
    roles = [f"--{role}={server.arn(name)}" for role, name in (("administrator", "administrator"), ("publisher", "publisher"), ("parent", "parent"))]  # fmt: skip
    assert run("kms", "policy", "render", *roles, "--model-id", "m", "--out", path).exit_code == 0
    return path


def _as(server: KmsServer, principal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment(principal).items():
        monkeypatch.setenv(name, value)


def test_a_key_with_an_alias(server: KmsServer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _as(server, "administrator", monkeypatch)
    made = run("kms", "create-key", "--key-policy", policy, "--alias", "models", "--json")
    assert made.exit_code == 0, made.stderr
    arn = made.json["arn"]
    assert made.json["key"] == f"local:{arn}"
    kms = server.client()
    assert kms.describe_key(KeyId="alias/models")["KeyMetadata"]["Arn"] == arn
    assert kms.get_key_rotation_status(KeyId=arn)["KeyRotationEnabled"]
    stored = json.loads(kms.get_key_policy(KeyId=arn)["Policy"])
    assert stored == json.loads(policy.read_text())
    keys = len(kms.list_keys()["Keys"])
    again = run("kms", "create-key", "--key-policy", policy, "--alias", "models")
    assert again.exit_code == 2
    assert f"alias/models is the name of {arn} already; no key was made" in again.stderr
    assert len(kms.list_keys()["Keys"]) == keys


def test_it_prints_what_encrypt_takes(server: KmsServer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _as(server, "administrator", monkeypatch)
    made = run("kms", "create-key", "--key-policy", policy)
    assert made.stdout.strip().startswith(f"local:arn:aws:kms:{server.region}:{server.account}:key/")


def test_an_open_policy_makes_no_key(
    server: KmsServer, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as(server, "administrator", monkeypatch)
    document = json.loads(policy.read_text())
    document["Statement"].append(
        {"Effect": "Allow", "Principal": {"AWS": server.arn("parent")}, "Action": "kms:Decrypt", "Resource": "*"}
    )
    document["Statement"] = [one for one in document["Statement"] if one.get("Sid") != "OnlyAttested"]
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps(document))
    before = len(server.client().list_keys()["Keys"])
    refused = run("kms", "create-key", "--key-policy", wide)
    assert refused.exit_code == 3
    assert "K01" in refused.stderr or "around the gate" in refused.stderr
    assert len(server.client().list_keys()["Keys"]) == before


def test_a_publisher_makes_none(server: KmsServer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _as(server, "publisher", monkeypatch)
    refused = run("kms", "create-key", "--key-policy", policy)
    assert refused.exit_code == 5
    assert "not allowed to these credentials" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--key-policy", "none.json"), 2), (("--alias", "no good"), 4), (("--alias", "aws/ours"), 4)],
)
def test_bad_input(
    server: KmsServer, policy: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int
) -> None:
    _as(server, "administrator", monkeypatch)
    words = arguments if "--key-policy" in arguments else ("--key-policy", policy, *arguments)
    assert run("kms", "create-key", *words).exit_code == code


def test_without_a_region(policy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    refused = run("kms", "create-key", "--key-policy", policy)
    assert refused.exit_code == 2
    assert "hint: set AWS_DEFAULT_REGION" in refused.stderr


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        (None, False),
        ("http://127.0.0.1:8480", True),
        ("https://vpce-1.kms.eu-central-1.vpce.amazonaws.com", False),
        ("https://kms.eu-central-1.api.aws", False),
        ("https://amazonaws.com.example.org", True),
    ],
)
def test_where_packages_will_look_for_it(endpoint: str | None, local: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    assert _is_local(endpoint) is local


def test_an_alias_of_a_key_that_is_hidden(server: KmsServer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key may not be described; the account's list names it all the same."""
    _as(server, "administrator", monkeypatch)
    kms = server.client()
    actions = ["kms:PutKeyPolicy", "kms:CreateAlias"]
    who = {"AWS": server.arn("administrator")}
    hidden = {"Effect": "Allow", "Principal": who, "Action": actions, "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": hidden})
    target = kms.create_key(Policy=document)["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/hidden", TargetKeyId=target)
    for _ in range(2):  # more than a page of them
        other = kms.create_key()["KeyMetadata"]["KeyId"]
        for number in range(30):
            kms.create_alias(AliasName=f"alias/{other}-{number}", TargetKeyId=other)
    taken = run("kms", "create-key", "--key-policy", policy, "--alias", "hidden")
    assert taken.exit_code == 2
    assert f"alias/hidden is the name of {target} already" in taken.stderr
    _as(server, "publisher", monkeypatch)
    nobody = run("kms", "create-key", "--key-policy", policy, "--alias", "hidden")
    assert nobody.exit_code == 5
    assert "kms:CreateKey" in nobody.stderr
