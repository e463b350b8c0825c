"""Packages in buckets, handed to the enclave piece by piece."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.enclave.boot import boot
from ephemeralml.enclave.config import ServiceRules
from ephemeralml.enclave.host_services import HostServices
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.host.package_source import ChangedError, MissingError, StorageSource, split_path
from ephemeralml.host.services_connection import PIECE_BYTES
from ephemeralml.storage.file import FileStorage
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.retry import Retries, RetryPolicy
from tests.fakes.booted_runtime import Files, config_source, inputs
from tests.fakes.host_services import BLOB, Client, SealingKms, services
from tests.fakes.key_source import KEY_URI, OneKey
from tests.fakes.packages import encrypted_package
from tests.fakes.s3_server import BUCKET, S3Server, moto_server

QUICK = Retries(RetryPolicy(tries=2, first_wait=0.01, longest_wait=0.05, stall=2.0))


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with moto_server() as made:
        yield made


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return server


def store(server: S3Server, key: str, data: bytes) -> None:
    with contextlib.closing(server.client()) as client:
        client.put_object(Bucket=BUCKET, Key=key, Body=data)


def source(prefix: str) -> StorageSource:
    return StorageSource(lambda: open_storage(f"s3://{BUCKET}/{prefix}", retries=QUICK))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("manifest.json", ("", "manifest.json")),
        ("a.b-c_1/keys.json", ("a.b-c_1", "keys.json")),
        (BLOB, ("", BLOB)),
        (f"x/{BLOB}", ("x", BLOB)),
        ("blobs/manifest.json", None),
        (".x/manifest.json", None),
        ("x/y/manifest.json", None),
        ("manifest.json/", None),
        ("manifest.json\n", None),
        ("", None),
    ],
)
def test_paths(path: str, found: tuple[str, str] | None) -> None:
    assert split_path(path) == found


def test_an_object_larger_than_a_piece(s3: S3Server, tmp_path: Path) -> None:
    data = bytes(range(256)) * (2 * PIECE_BYTES // 256) + b"tail"
    store(s3, f"large/{BLOB}", data)
    store(s3, "large/manifest.json", b"")
    with services(tmp_path / "s", {"": source("large")}):
        client = Client(tmp_path / "s")
        status, fields, body = client.ask("GET", f"/package/{BLOB}")
        assert (status, fields["content-length"]) == (200, str(len(data)))
        assert body == data
        status, _, body = client.ask("GET", f"/package/{BLOB}", Range=f"bytes=7-{PIECE_BYTES + 8}")
        assert (status, body) == (206, data[7 : PIECE_BYTES + 9])
        assert client.ask("HEAD", f"/package/{BLOB}")[::2] == (200, b"")
        assert client.ask("GET", "/package/manifest.json")[::2] == (200, b"")
        assert client.ask("GET", "/package/keys.json")[0] == 404
        client.close()


def test_an_object_that_changes_between_two_ranges(s3: S3Server, tmp_path: Path) -> None:
    """The boot in progress fails; the next request sees the new object."""
    store(s3, f"changing/{BLOB}", b"first version")
    with services(tmp_path / "s", {"": source("changing")}):
        client = Client(tmp_path / "s")
        tag = client.ask("HEAD", f"/package/{BLOB}")[1]["etag"]
        store(s3, f"changing/{BLOB}", b"second version")
        assert client.ask("GET", f"/package/{BLOB}", Range="bytes=0-4", If_Match=tag)[0] == 412
        assert client.ask("GET", f"/package/{BLOB}", If_Match=tag)[0] == 412
        status, fields, body = client.ask("GET", f"/package/{BLOB}")
        assert (status, body) == (200, b"second version")
        assert fields["etag"] != tag
        client.close()


def test_a_bucket_that_is_away(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with services(tmp_path / "s", {"": source("x")}):
        client = Client(tmp_path / "s")
        assert client.ask("GET", "/package/manifest.json")[0] == 502
        client.close()
    assert f"cannot read s3://{BUCKET}/x/manifest.json: the connection " in caplog.text


@pytest.mark.parametrize(
    ("make", "status", "reason"),
    [
        (lambda: open_storage("s3://no-such-bucket/x", retries=QUICK), 424, "there is no such bucket"),
        (lambda: open_storage(f"s3://{BUCKET}/nothing-here", retries=QUICK), 404, "there is no object s3://models/no"),
    ],
)
def test_what_another_try_will_not_mend(
    s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, status: int, reason: str
) -> None:
    """The enclave hears it at once, in words; the host's log has the reason."""
    caplog.set_level("INFO")
    asked = ServiceRules(address=f"unix://{tmp_path}/s", total_seconds=30)
    with services(tmp_path / "s", {"": StorageSource(make)}), contextlib.closing(HostServices(asked)) as host:
        with (
            pytest.raises(UnavailableError, match=rf"\({status}\)$") as caught,
            contextlib.closing(host.package("")) as p,
        ):
            p.size("manifest.json")
        assert caught.value.hint is not None
        assert "host run" in caught.value.hint
    lines = [r for r in caplog.records if r.getMessage().startswith("HEAD /package/manifest.json ")]
    assert len(lines) == 1
    assert f"manifest.json {status} after " in lines[0].getMessage()
    assert reason in lines[0].getMessage()
    assert (lines[0].levelname == "WARNING") is (status == 424)


def test_credentials_that_are_none_are_said_once(
    monkeypatch: pytest.MonkeyPatch, s3: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with services(tmp_path / "s", {"": source("x")}):
        client = Client(tmp_path / "s")
        assert client.ask("GET", "/package/manifest.json")[0] == 424
        client.close()
    assert f"s3://{BUCKET}/x/manifest.json: no AWS credentials" in caplog.text


class Unlucky(FileStorage):
    """A storage whose second read fails."""

    def __init__(self, root: Path, error: Exception) -> None:
        super().__init__(root)
        self.error = error
        self.reads = 0

    def read_into(self, key: str, start: int, buffer: memoryview) -> None:
        self.reads += 1
        if self.reads > 1:
            raise self.error
        super().read_into(key, start, buffer)


@pytest.mark.parametrize("error", [UnavailableError("away"), RejectedError("other", code="OBJECT_CHANGED")])
def test_a_failure_within_an_answer_cuts_it_short(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "p" / "blobs").mkdir(parents=True)
    (tmp_path / "p" / BLOB).write_bytes(bytes(PIECE_BYTES + 1))
    with services(tmp_path / "s", {"": StorageSource(lambda: Unlucky(tmp_path / "p", error))}):
        client = Client(tmp_path / "s")
        client.request("GET", f"/package/{BLOB}")
        response = client.getresponse()
        received = b""
        with contextlib.suppress(Exception):
            while piece := response.read1(1 << 20):
                received += piece
        assert len(received) == PIECE_BYTES
        client.close()


def test_the_kinds_of_failure(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{}")
    made = StorageSource(lambda: Unlucky(tmp_path, RejectedError("other", code="OBJECT_CHANGED")))
    with pytest.raises(MissingError):
        made.open("keys.json")
    first = made.open("manifest.json")
    first.read_into(0, memoryview(bytearray(2)))
    with pytest.raises(ChangedError):
        first.read_into(0, memoryview(bytearray(2)))
    second = made.open("manifest.json")
    assert second.etag != first.etag


def test_a_runtime_boots_from_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    keys = OneKey()
    package = encrypted_package(tmp_path, keys=keys)
    for path in package.rglob("*"):
        if path.is_file():
            store(s3, f"mine/{path.relative_to(package).as_posix()}", path.read_bytes())
    settings: dict[str, Any] = {"services": f"unix://{tmp_path}/s", "key_uris": (KEY_URI,), "allow_plaintext": False}
    (tmp_path / "enclave.toml").write_bytes(config_source(**settings))
    files = Files(tmp_path / "enclave.toml", ())
    with services(tmp_path / "s", {"": source("mine")}, {KEY_URI: SealingKms(keys)}):
        runtime = boot(inputs(files))
    assert [model.model_id for model in runtime.registry.models] == ["tiny-bert"]
    runtime.close()
