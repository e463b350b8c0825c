from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import EphemeralError, MalformedError, UnavailableError
from ephemeralml.storage.file import FileStorage
from ephemeralml.storage.gcs import GcsStorage
from ephemeralml.storage.http import HttpStorage
from ephemeralml.storage.keys import check_key
from ephemeralml.storage.open import open_storage
from ephemeralml.storage.s3 import S3Storage
from ephemeralml.storage.sources import FileSource


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cloud is reached, and no configuration of the machine's user is read."""
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("uri", "kind"),
    [
        ("/some/folder", FileStorage),
        ("some/folder", FileStorage),
        ("file:///some/folder%20with", FileStorage),
        ("s3://bucket", S3Storage),
        ("s3://bucket/", S3Storage),
        ("S3://my.bucket-1/a/b/", S3Storage),
        ("gs://bucket_name/a", GcsStorage),
        ("https://example.org", HttpStorage),
        ("https://example.org:8443/a/b%20c/", HttpStorage),
        ("http://127.0.0.1:8080/a", HttpStorage),
        ("http://[::1]/a", HttpStorage),
        ("http://localhost/a", HttpStorage),
    ],
)
def test_a_name_leads_to_its_adapter(uri: str, kind: type) -> None:
    with open_storage(uri) as storage:
        assert type(storage) is kind


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a\0b",
        "ftp://host/a",
        "file://host/a",
        "file://",
        "file:///a?b",
        "file:///a#b",
        "s3://",
        "s3:///a",
        "s3://ab",
        "s3://Bucket",
        "s3://bucket:80/a",
        "s3://user@bucket/a",
        "s3://-bucket/a",
        "s3://a..b/a",
        "s3://bucket/../a",
        "s3://bucket/a//b",
        "s3://bucket/a\nb",
        "s3://" + "b" * 300,
        "s3://bucket/" + "a" * 2000,
        "gs://bucket/./a",
        "https://",
        "https://user:secret@host/a",
        "https://host/a?b=c",
        "https://host/a#b",
        "https://host:99999/a",
        "https://host/../a",
        "https://host/%2e%2e/a",
        "https://[/a",
        "https://[::1/a",
        "https://host:x/a",
        "https://ho st/a",
        "https://ho\nst/a",
        "https://\u00fc.example/a",
        "https://-/a",
        "file://[",
        "file:///a\nb",
        "file:///a%00b",
        "http://example.org/a",
        "http://127.0.0.1.example.org/a",
    ],
)
def test_what_names_no_place_is_malformed(uri: str) -> None:
    with pytest.raises(MalformedError) as caught:
        open_storage(uri)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("uri", ["https://u:hunter2@host/a", "s3://KEY:hunter2@bucket/a", "https://host/a?sig=hunter2"])
def test_a_refused_name_does_not_show_its_secret(uri: str) -> None:
    with pytest.raises(MalformedError) as caught:
        open_storage(uri)
    assert "hunter2" not in str(caught.value)


def test_a_file_name_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "with space").mkdir()
    (tmp_path / "with space" / "a").write_bytes(b"x")
    with open_storage((tmp_path / "with space").as_uri()) as storage:
        assert storage.read("a", 0, 1) == b"x"


def test_missing_credentials_are_unavailable() -> None:
    with open_storage("s3://bucket/a") as storage, pytest.raises(UnavailableError, match="no AWS credentials"):
        storage.size("k")


def test_missing_google_credentials_are_unavailable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(UnavailableError, match="no Google credentials"):
        open_storage("gs://bucket/a")


def test_a_broken_profile_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UnavailableError, match="boto3 cannot be set up"):
        open_storage("s3://bucket/a")


def test_an_endpoint_that_is_no_url_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no url")
    with pytest.raises(UnavailableError, match="boto3 cannot be set up"):
        open_storage("s3://bucket/a")


@pytest.mark.parametrize("key", ["a", "a/b.c", "ü/…", "a b", "..a", "a..", ".hidden", "x" * 1024])
def test_a_key_is_kept(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["", ".", "..", "a/..", "/a", "a/", "a//b", "a\\b", "a\x7f", "a\x85b", "a\ud800", "ü" * 513]
)
def test_what_is_no_key_is_malformed(key: str) -> None:
    with pytest.raises(MalformedError):
        check_key(key)


def test_a_source_is_read_at_any_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    with FileSource(tmp_path / "a") as source:
        assert source.size == 10
        assert source.read(3, 6) == b"345"
        assert source.read(8, 20) == b"89"
    source.close()


def test_a_source_follows_no_link_and_names_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("link", "missing"):
        with pytest.raises(UnavailableError, match=name):
            FileSource(tmp_path / name)


@pytest.mark.fuzz
@given(st.sampled_from(["", "file://", "http://", "https://", "ftp://", "s3:/", "gs:"]), st.text(max_size=60))
def test_any_text_is_a_place_or_malformed(scheme: str, rest: str) -> None:
    with suppress(EphemeralError), open_storage(scheme + rest):
        pass


@pytest.mark.fuzz
@given(st.text(max_size=80))
def test_any_text_is_a_key_or_malformed(text: str) -> None:
    with suppress(MalformedError):
        assert ".." not in check_key(text).split("/")


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("s3:bucket/x", "s3://bucket/x"),
        ("GS:/bucket", "gs://bucket"),
        ("file:/folder", "file:///folder"),
        ("https:/host/p", "https://host/p"),
        ("az:/container", "s3://, gs://"),
        ("ftp:x", "s3://, gs://"),
    ],
)
def test_half_a_uri_is_no_folder(uri: str, hint: str) -> None:
    with pytest.raises(MalformedError) as caught:
        open_storage(uri)
    assert hint in (caught.value.hint or "")


def test_a_folder_with_a_colon_is_meant_by_its_path() -> None:
    for path in ("./s3:/bucket", "/tmp/s3:x", "c:x", "a/b:c"):
        with open_storage(path) as storage:
            assert type(storage) is FileStorage
