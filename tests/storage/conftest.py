"""Real servers, started once, and stores in them, one folder or prefix for each test."""

import hashlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from ephemeralml.storage.base import Storage
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.retry import Deadline, Retries, RetryPolicy
from tests.fakes.faulty_proxy import Proxy, faulty_proxy
from tests.fakes.gcs_server import GcsServer, gcs_emulator
from tests.fakes.s3_server import BUCKET, S3Server, moto_server, s3rver, s3rver_program

_numbers = count()

QUICK = RetryPolicy(tries=4, first_wait=0.01, longest_wait=0.05, stall=1.5)


def quick(seconds: float | None = None) -> Retries:
    """Retries that wait only a moment, with a deadline of *seconds*."""
    return Retries(QUICK, Deadline(seconds))


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.fixture(scope="session")
def moto() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3rver_server() -> Iterator[S3Server]:
    if s3rver_program() is None:
        pytest.skip("s3rver is not installed (EPHEMERALML_S3RVER)")
    with s3rver() as server:
        yield server


@pytest.fixture(scope="session")
def gcs() -> Iterator[GcsServer]:
    with gcs_emulator() as server:
        yield server


@pytest.fixture
def prefix() -> str:
    return f"test-{next(_numbers)}"


@pytest.fixture
def into_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    def into(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return into


@pytest.fixture(params=["file", "moto", "s3rver_server", "gcs"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, prefix: str, into_environment: Callable[[dict[str, str]], None]
) -> str:
    """The name of an empty place of each kind."""
    if request.param == "file":
        (tmp_path / "store").mkdir()
        return (tmp_path / "store").as_uri()
    server = request.getfixturevalue(request.param)
    into_environment(server.environment())
    return f"{'gs' if request.param == 'gcs' else 's3'}://{BUCKET}/{prefix}"


@pytest.fixture
def store(place: str, tmp_path: Path) -> Iterator[Storage]:
    """An empty store of each kind."""
    with open_storage(place, retries=quick(), state=tmp_path / "state") as opened:
        yield opened


@pytest.fixture(params=["moto", "gcs"])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, prefix: str, into_environment: Callable[[dict[str, str]], None]
) -> Iterator[tuple[Proxy, Callable[[Retries], Storage]]]:
    """A proxy before each cloud's server, and what opens the store behind it."""
    server = request.getfixturevalue(request.param)
    scheme = "gs" if request.param == "gcs" else "s3"
    with faulty_proxy(server.port) as proxy:
        into_environment(server.environment(proxy.endpoint))
        yield (
            proxy,
            lambda retries: open_storage(f"{scheme}://{BUCKET}/{prefix}", retries=retries, state=tmp_path / "state"),
        )
