"""A real key server for the tests of its clients."""

from collections.abc import Iterator

import pytest

from tests.fakes import kms_server
from tests.fakes.kms_server import KmsServer
from tests.fakes.release import make_key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    with kms_server.running(tmp_path_factory.mktemp("kms")) as running:
        yield running


@pytest.fixture(scope="module")
def key(server: KmsServer) -> str:
    """URI of a key whose policy releases to one image only."""
    return f"local:{make_key(server)}"
