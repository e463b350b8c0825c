"""A key server for the commands that need one; started once for all of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import kms_server
from tests.fakes.kms_server import KmsServer


@pytest.fixture(scope="session")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    """A running `kms serve`; its administrator may do everything, "publisher" nothing."""
    with kms_server.running(tmp_path_factory.mktemp("kms")) as server:
        yield server


@pytest.fixture
def operator(kms: KmsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> KmsServer:
    """The same, with the administrator's credentials in the environment."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-aws-credentials"))
    for name, value in kms.environment().items():
        monkeypatch.setenv(name, value)
    return kms


def new_key(server: KmsServer) -> str:
    """Make a key and return its URI."""
    return "local:" + server.client().create_key()["KeyMetadata"]["Arn"]


@pytest.fixture
def uri(operator: KmsServer) -> str:
    """A key of that server."""
    return new_key(operator)
