"""One key server for the tests that leave it as they found it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from botocore.exceptions import ClientError

from tests.fakes.kms_server import KmsServer, running

SESSION = "arn:aws:sts::000000000000:assumed-role/parent/boot-1"
"""A session of the parent role, as an instance profile's credentials have it."""


@pytest.fixture(scope="session")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    folder = tmp_path_factory.mktemp("kms")
    principals = ("publisher", "parent", "root", "arn:aws:iam::999999999999:role/stranger", SESSION)
    with running(folder, principals=principals) as server:
        yield server


@contextmanager
def refused(name: str) -> Iterator[None]:
    with pytest.raises(ClientError) as caught:
        yield
    assert caught.value.response["Error"]["Code"] == name, caught.value


@pytest.fixture
def refuses() -> Callable[[str], AbstractContextManager[None]]:
    return refused
