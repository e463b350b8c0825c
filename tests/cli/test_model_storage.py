"""`model upload` and `model download`: folders, and a real S3 server."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeralml.model import arrival, envelope
from tests.cli.runner import Result, run
from tests.fakes import gcs_server, s3_server, tiny_bert
from tests.fakes.faulty_proxy import Act, faulty_proxy
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, STRANGER, encrypted_package, signed_package
from tests.fakes.s3_server import BUCKET, S3Server

KEY = str(PUBLISHER.public)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return encrypted_package(tmp_path / "made", keys=OneKey())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(done: Result, code: int, *, says: str = "") -> None:
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.splitlines()[-1].startswith(("error: ", "hint: "))


def upload(package: Path, dest: object, *options: object) -> Result:
    return run("model", "upload", package, dest, *options)


def download(src: object, folder: Path, *options: object) -> Result:
    return run("model", "download", src, folder, "--publisher-key", KEY, *options)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_there_and_back_through_a_folder(package: Path, place: Path, scheme: str) -> None:
    dest = f"{scheme}{place / 'stored'}"
    done = upload(package, dest, "--json")
    assert done.exit_code == 0, done.stderr
    assert done.json["schema"] == "ephemeralml.model-upload/1"
    assert (done.json["stored"][-1], done.json["skipped"]) == ("manifest.json", [])
    assert files(place / "stored") == files(package)
    back = download(dest, place / "back", "--json")
    assert back.exit_code == 0, back.stderr
    assert (back.json["verdict"], back.json["suite"]) == ("verified", "chacha20poly1305-stream")
    assert back.json["model_hash"] == done.json["model_hash"]
    assert files(place / "back") == files(package)
    assert {path.name for path in place.iterdir()} == {"stored", "back"}


def test_text_output(package: Path, place: Path) -> None:
    lines = upload(package, place / "stored").stdout.splitlines()
    assert lines[0] == "model         tiny-bert 1.0.0"
    assert lines[1].startswith("stored        8 objects, ")
    again = upload(package, place / "stored").stdout.splitlines()
    assert again[1].startswith("stored        0 objects, 0 B")
    assert again[2] == "skipped       8 objects that lay there already"
    assert download(place / "stored", place / "back").stdout.splitlines()[-1] == "verified"


def test_a_destination_that_differs_needs_force(package: Path, place: Path, tmp_path: Path) -> None:
    assert upload(package, place / "stored").exit_code == 0
    before = files(place / "stored")
    other = encrypted_package(tmp_path / "other", keys=OneKey())
    refused(upload(other, place / "stored"), 2, says="--force")
    assert files(place / "stored") == before
    assert upload(other, place / "stored", "--force").exit_code == 0
    assert files(place / "stored") == files(other)


def test_an_unsigned_package_is_not_uploaded(package: Path, place: Path) -> None:
    payload = envelope.parse((package / "manifest.json").read_bytes()).payload
    (package / "manifest.json").write_bytes(envelope.unsigned(payload))
    refused(upload(package, place / "stored"), 3, says="not signed")
    assert list(place.iterdir()) == []


def test_whose_package_it_is_can_be_demanded(package: Path, place: Path) -> None:
    refused(upload(package, place / "stored", "--publisher-key", STRANGER.public), 3, says="not among the keys")
    assert list(place.iterdir()) == []
    assert upload(package, place / "stored", "--publisher-key", KEY).exit_code == 0


@pytest.mark.parametrize(
    "dest",
    [
        "https://example.com/p",
        "ftp://x/y",
        "s3://",
        "s3://UPPER/x",
        "file://host/x",
        "gs://a/../b",
        "s3:/bucket/x",
        "az:x",
    ],
)
def test_places_that_are_none_are_usage_errors(package: Path, dest: str) -> None:
    refused(upload(package, dest), 2)


def test_a_download_needs_a_free_name(package: Path, place: Path) -> None:
    refused(download(package, place), 2, says="exists")
    refused(download(package, place / "no" / "where"), 2, says="does not exist")
    (place / "p").mkdir()
    (place / "p" / "thesis.tex").write_text("")
    refused(download(package, place / "p", "--force"), 5, says="no package")
    assert files(place) == {"p/thesis.tex": b""}


def test_a_download_replaces_a_package_if_forced(package: Path, place: Path, tmp_path: Path) -> None:
    assert download(package, place / "p").exit_code == 0
    other = encrypted_package(tmp_path / "other", keys=OneKey(), version="2.0.0")
    assert download(other, place / "p", "--force").exit_code == 0
    assert files(place / "p") == files(other)


def flip(package: Path) -> None:
    blob = max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)


FAULTS = {
    "flipped": (flip, (), 3, "blob is not the one"),
    "no manifest": (lambda package: (package / "manifest.json").unlink(), (), 5, "manifest.json"),
    "no keys": (lambda package: (package / "keys.json").unlink(), (), 5, "keys.json"),
    "no blob": (lambda package: next((package / "blobs").iterdir()).unlink(), (), 5, "blobs/"),
    "rollback": (lambda _: None, ("--min-version", "1.0.1"), 3, "older than"),
    "no such place": (lambda package: package.rename(package.with_name("gone")), (), 5, "manifest.json"),
    "garbage": (lambda package: (package / "manifest.json").write_text("garbage"), (), 4, "not JSON"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_is_left_of_what_does_not_hold(package: Path, place: Path, fault: str) -> None:
    change, options, code, says = FAULTS[fault]
    change(package)
    refused(download(package, place / "p", *options), code, says=says)
    assert list(place.iterdir()) == []


def test_plaintext_and_strangers_are_refused(place: Path, tmp_path: Path) -> None:
    plain = signed_package(tmp_path / "plain")
    refused(download(plain, place / "p"), 3, says="not encrypted")
    refused(run("model", "download", plain, place / "p", "--publisher-key", STRANGER.public), 3, says="not among")
    assert list(place.iterdir()) == []
    assert download(plain, place / "p", "--allow-plaintext").exit_code == 0


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server.moto_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{tmp_path.name}"


def test_there_and_back_through_s3(package: Path, place: Path, bucket: str) -> None:
    done = upload(package, bucket, "--json")
    assert (done.exit_code, len(done.json["stored"])) == (0, 8), done.stderr
    assert upload(package, bucket, "--json").json["stored"] == []
    assert download(bucket, place / "p").exit_code == 0
    assert files(place / "p") == files(package)


def test_there_and_back_through_gcs(
    package: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with gcs_server.gcs_emulator() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        dest = f"gs://{gcs_server.BUCKET}/packages/tiny"
        done = upload(package, dest, "--json")
        assert (done.exit_code, len(done.json["stored"])) == (0, 8), done.stderr
        assert upload(package, dest, "--json").json["stored"] == []
        assert download(dest, place / "p").exit_code == 0
        refused(upload(package, "gs://there-is-no-such-bucket/p"), 5, says="there-is-no-such-bucket")
    assert files(place / "p") == files(package)


def test_a_bucket_that_is_not_there_is_unavailable(package: Path, place: Path, bucket: str) -> None:
    refused(upload(package, "s3://there-is-no-such-bucket/p"), 5, says="there-is-no-such-bucket")
    refused(download("s3://there-is-no-such-bucket/p", place / "p"), 5, says="there-is-no-such-bucket")
    assert list(place.iterdir()) == []


def test_an_interrupted_upload_is_finished_by_the_same_command(
    s3: S3Server, place: Path, bucket: str, tmp_path: Path
) -> None:
    package = encrypted_package(tmp_path / "more", keys=OneKey())
    half = [sys.executable, "-c", _HALF, str(package), bucket]
    assert subprocess.run(half, check=False).returncode == 9
    done = upload(package, bucket, "--json")
    assert done.exit_code == 0, done.stderr
    assert (len(done.json["stored"]), len(done.json["skipped"])) == (5, 3)
    assert download(bucket, place / "p").exit_code == 0
    assert files(place / "p") == files(package)


_HALF = """
import os, sys
from ephemeralml.cli.main import run
from ephemeralml.storage.s3 import S3Storage
put, done = S3Storage.put, []
def stop(self, key, *args, **options):
    if len(done) == 3:
        os._exit(9)
    done.append(key)
    return put(self, key, *args, **options)
S3Storage.put = stop
run(["model", "upload", sys.argv[1], sys.argv[2]])
"""


def test_an_interrupted_download_is_finished_by_the_same_command(
    s3: S3Server, package: Path, place: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upload(package, bucket).exit_code == 0
    monkeypatch.setattr(arrival, "RANGE_BYTES", 4_096)
    weights = max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size).name
    with faulty_proxy(s3.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        denied = proxy.break_(Act.STATUS, method="GET", part=weights, skip=4, times=1_000, count=403)
        refused(download(bucket, place / "p"), 5, says=BUCKET)
        part = place / "p.part"
        assert {path.name for path in place.iterdir()} == {"p.part"}
        kept = sum(path.stat().st_size for path in (part / "blobs").iterdir())
        denied.times = 0
        proxy.forget()
        assert download(bucket, place / "p").exit_code == 0
        blobs = sum(path.stat().st_size for path in (package / "blobs").iterdir())
        small = sum((package / name).stat().st_size for name in ("manifest.json", "keys.json"))
        assert proxy.downloaded == small + blobs - kept
    assert files(place / "p") == files(package)
    assert {path.name for path in place.iterdir()} == {"p"}


def test_an_object_that_changes_meanwhile_is_refused_and_nothing_left(
    s3: S3Server, package: Path, place: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert upload(package, bucket).exit_code == 0
    monkeypatch.setattr(arrival, "RANGE_BYTES", 4_096)
    weights = max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size).name
    with faulty_proxy(s3.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        proxy.break_(Act.EDIT, method="GET", part=weights, skip=3, headers={"ETag": '"another"'})
        done = download(bucket, place / "p", "--json")
    assert (done.exit_code, done.json["code"]) == (3, "OBJECT_CHANGED"), done.stderr
    assert list(place.iterdir()) == []


def test_resets_and_503s_on_the_way_are_not_noticed(
    s3: S3Server, package: Path, place: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_proxy(s3.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint)
        for method in ("PUT", "GET", "HEAD"):
            proxy.break_(Act.RESET, method=method, skip=1)
            proxy.break_(Act.STATUS, method=method, skip=3, count=503)
        assert upload(package, bucket).exit_code == 0
        assert download(bucket, place / "p").exit_code == 0
    assert files(place / "p") == files(package)


def test_an_interrupt_ends_with_its_own_code(package: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WAIT, str(package), str(tmp_path / "stored")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted; run it again to go on")


_WAIT = """
import sys, time
from ephemeralml.cli.main import run
from ephemeralml.storage.file import FileStorage
def wait(self, key, *args, **options):
    print("waiting", flush=True)
    time.sleep(30)
FileStorage.put = wait
sys.exit(run(["model", "upload", sys.argv[1], sys.argv[2]]))
"""


def test_a_plaintext_model_is_no_package(place: Path, tmp_path: Path) -> None:
    model = tiny_bert.write(tmp_path / "model")
    (tmp_path / "key.pem").write_bytes(PUBLISHER.to_pem())
    (tmp_path / "key.pem").chmod(0o600)
    for command in (
        ("sign", model, "--key", tmp_path / "key.pem"),
        ("verify", model, "--publisher-key", KEY),
        ("upload", model, place / "stored"),
        ("rewrap", model, "--key", "local:x"),
    ):
        done = run("model", *command)
        refused(done, 2, says="is no package")
        assert "model encrypt" in done.stderr
    assert list(place.iterdir()) == []
