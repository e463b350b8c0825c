"""What is not there, and what cannot be reached: at once, by name, with what to do."""

import contextlib
from collections.abc import Callable

import pytest

from ephemeralml.errors import UnavailableError
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.retry import Retries, RetryPolicy
from ephemeralml.storage.sources import BytesSource
from tests.storage.conftest import quick, sha256

SERVERS = pytest.mark.parametrize(("scheme", "name"), [("s3", "moto"), ("s3", "s3rver_server"), ("gs", "gcs")])
Into = Callable[[dict[str, str]], None]


def waits_never(_: float) -> None:
    raise AssertionError("nothing is tried again")


FINAL = Retries(RetryPolicy(), sleep=waits_never)


@SERVERS
def test_a_bucket_that_is_not_there_is_named_at_once(
    request: pytest.FixtureRequest, scheme: str, name: str, into_environment: Into
) -> None:
    into_environment(request.getfixturevalue(name).environment())
    place = f"{scheme}://no-such-bucket-here/p"
    with open_storage(place, retries=FINAL) as store:
        for action in (
            lambda: store.size("a"),
            lambda: store.put("a", BytesSource(b"x"), sha256=sha256(b"x")),
        ):
            with pytest.raises(UnavailableError, match=rf"{place}/a: there is no such bucket") as caught:
                action()
            assert "check its name" in (caught.value.hint or "")


@SERVERS
def test_an_object_that_is_not_there_is_named_at_once(
    request: pytest.FixtureRequest, scheme: str, name: str, into_environment: Into
) -> None:
    server = request.getfixturevalue(name)
    into_environment(server.environment())
    bucket = "models"
    if scheme == "s3":
        # One of its own: s3rver answers a listing with 500 while files of earlier tests vanish from their bucket.
        bucket = "nothing-in-it"
        with contextlib.closing(server.client()) as client:
            client.create_bucket(Bucket=bucket)
    with open_storage(f"{scheme}://{bucket}/p", retries=FINAL) as store:
        with pytest.raises(UnavailableError, match=rf"there is no object {scheme}://{bucket}/p/no-such") as caught:
            store.size("no-such")
        assert "uploaded" in (caught.value.hint or "")


@pytest.mark.parametrize(("scheme", "name"), [("s3", "moto"), ("gs", "gcs")])
def test_an_endpoint_that_does_not_answer_is_named(
    request: pytest.FixtureRequest, scheme: str, name: str, into_environment: Into
) -> None:
    into_environment(request.getfixturevalue(name).environment("http://127.0.0.1:1"))
    with (
        open_storage(f"{scheme}://models/p", retries=quick()) as store,
        pytest.raises(UnavailableError, match=r"http://127\.0\.0\.1:1 failed") as caught,
    ):
        store.size("a")
    assert "endpoint" in (caught.value.hint or "")
