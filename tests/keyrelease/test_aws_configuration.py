"""The SDK's configuration, wrong in every way it can be: what is wrong is named."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.keyrelease import aws_client
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.policy.ask import Whose, ask_decrypt
from ephemeralml.keyrelease.policy.live import LiveKey
from tests.cli.runner import run
from tests.cli.test_kms_policy import RENDER, done, furnish

ARN = "arn:aws:kms:eu-central-1:111122223333:key/0f8fad5b-d9cb-469f-a165-70867728950e"
NOWHERE = "http://127.0.0.1:9"


def connected() -> None:
    asked = Asked("Encrypt", ARN)
    with closing(aws_client.connect("eu-central-1", NOWHERE, asked, connect=1, read=1)) as client:
        aws_client.call(client, "describe_key", asked, {"KeyId": ARN})


def live() -> None:
    LiveKey(ARN, endpoint=NOWHERE).policy()


def asked() -> None:
    fields = {"KeyId": ARN, "CiphertextBlob": b"x", "EncryptionContext": {}}
    ask_decrypt(fields, endpoint=NOWHERE, whose=Whose())


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.parametrize("call", [connected, live, asked])
class TestEveryCall:
    def test_a_profile_that_is_none(self, call: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(UnavailableError, match="no profile 'nobody'") as caught:
            call()
        assert "config and" in str(caught.value.hint)

    @pytest.mark.parametrize("name", ["config", "credentials"])
    @pytest.mark.parametrize("text", [b"[default\nx", b"\xff\xfe", b"[a]\n[a]\n", b"words"])
    def test_a_file_that_does_not_parse(self, call: Callable[[], None], tmp_path: Path, name: str, text: bytes) -> None:
        (tmp_path / name).write_bytes(text)
        with pytest.raises(UnavailableError, match="does not parse") as caught:
            call()
        assert str(tmp_path / name) in caught.value.message

    def test_half_of_the_credentials(self, call: Callable[[], None], tmp_path: Path) -> None:
        (tmp_path / "credentials").write_text("[default]\naws_access_key_id = A\n")
        with pytest.raises(UnavailableError, match=r"lack 'aws_secret_access_key'|no credentials to ask"):
            call()


def test_a_setting_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[default]\nretry_mode = odd\n")
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = A\naws_secret_access_key = b\n")
    with pytest.raises(UnavailableError, match="no client for the key service in eu-central-1: Inval"):
        asked()


@pytest.mark.parametrize("region", [True, False])
def test_create_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, region: bool) -> None:
    furnish(tmp_path)
    done(tmp_path, *RENDER, "--out", "p.json")
    if region:
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
    command = ["kms", "create-key", "--key-policy", "p.json", "--kms-endpoint", NOWHERE]
    with monkeypatch.context() as patched:
        patched.setenv("AWS_PROFILE", "nobody")
        unknown = run(*command, cwd=tmp_path)
    assert unknown.exit_code == 5
    assert "no profile 'nobody'" in unknown.stderr
    for name in ("config", "credentials"):
        (tmp_path / name).write_text("[default\n")
        broken = run(*command, cwd=tmp_path)
        assert broken.exit_code == 5
        assert str(tmp_path / name) in broken.stderr
        (tmp_path / name).unlink()
