import copy
import hashlib
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.model import manifest
from ephemeralml.model.manifest import Format, Suite, Task, blob_name, blob_size, chunk_count
from ephemeralml.model.roles import Role
from ephemeralml.semver import SemVer

HEX = "ab" * 32
Document = dict[str, Any]


def file(path: str = "model.safetensors", *, suite: Suite = Suite.NONE, size: int = 100_000) -> Document:
    return {
        "path": path,
        "role": "weights",
        "size": size,
        "sha256": HEX,
        "blob": blob_name(path, suite),
        "blob_size": blob_size(size, 65_536, suite),
        "blob_sha256": HEX if suite is Suite.NONE else "cd" * 32,
        "chunk_size": 65_536,
        "chunk_root": HEX,
    }


def document(*, suite: Suite = Suite.NONE) -> Document:
    return {
        "schema": "ephemeralml.model/1",
        "model_id": "minilm-l6-v2",
        "version": "1.2.3-rc.1+build",
        "created_at": "2026-01-01T00:00:00Z",
        "format": "safetensors",
        "architecture": "bert",
        "task": "embedding",
        "license": "Apache-2.0",
        "files": [file(suite=suite), file("tokenizer.json", suite=suite, size=0) | {"role": "tokenizer"}],
        "encryption": {"suite": suite.value},
        "publisher": {"name": "us", "upstream_signature": None},
    }


def parse(value: object) -> manifest.Manifest:
    return manifest.parse(json.dumps(value).encode())


def broken(change: Callable[[Document], object]) -> Document:
    value = copy.deepcopy(document())
    change(value)
    return value


def test_a_manifest_is_read() -> None:
    read = parse(document())
    assert (read.model_id, read.version, str(read.version)) == (
        "minilm-l6-v2",
        SemVer.parse("1.2.3-rc.1"),
        "1.2.3-rc.1+build",
    )
    assert (read.format, read.task, read.suite) == (Format.SAFETENSORS, Task.EMBEDDING, Suite.NONE)
    assert read.created_at == datetime(2026, 1, 1, tzinfo=UTC)
    assert (read.publisher, read.upstream_signature) == ("us", None)
    assert read.files[0].sha256 == bytes.fromhex(HEX)
    assert read.file("tokenizer.json").role is Role.TOKENIZER
    with pytest.raises(KeyError):
        read.file("x")


@pytest.mark.parametrize("suite", [Suite.CHACHA20POLY1305, Suite.AES256GCM])
def test_encrypted_packages_are_read_too(suite: Suite) -> None:
    assert parse(document(suite=suite)).suite is suite


def test_a_new_manifest_reads_back() -> None:
    read = parse(document())
    assert manifest.parse(manifest.encode(read)) == read


def test_unknown_fields_are_kept_and_mean_nothing() -> None:
    value = document() | {"extra": {"a": [1]}}
    value["files"][0]["note"] = "x"
    assert parse(value) == parse(document())


def test_the_upstream_signature_is_a_digest() -> None:
    assert parse(broken(lambda d: d["publisher"].update(upstream_signature=HEX))).upstream_signature == bytes.fromhex(
        HEX
    )


def test_blob_names_and_sizes_are_those_of_the_specification() -> None:
    name = hashlib.sha256("modèle".encode()).hexdigest()
    assert blob_name("modèle", Suite.NONE) == f"blobs/{name}.raw"
    assert blob_name("modèle", Suite.AES256GCM) == f"blobs/{name}.eml"
    assert [blob_size(size, 65_536, Suite.AES256GCM) for size in (0, 1, 65_536, 65_537)] == [112, 113, 65_648, 65_665]
    assert [chunk_count(size, 65_536) for size in (0, 1, 65_536, 65_537)] == [1, 1, 1, 2]
    assert blob_size(7, 65_536, Suite.NONE) == 7


FIELDS = [*document()]
FILE_FIELDS = [*file()]


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [..., None, 5, [], {}, ["x"], True])
def test_every_field_must_be_there_and_of_its_kind(name: str, value: object) -> None:
    with pytest.raises(MalformedError):
        parse(broken(lambda d: d.pop(name) if value is ... else d.update({name: value})))


@pytest.mark.parametrize("name", FILE_FIELDS)
@pytest.mark.parametrize("value", [..., None, -1, 1.5, [], {}, "", True, "x", 1 << 63, HEX.upper(), HEX[1:]])
def test_every_field_of_a_file_too(name: str, value: object) -> None:
    with pytest.raises(MalformedError):
        parse(broken(lambda d: d["files"][0].pop(name) if value is ... else d["files"][0].update({name: value})))


@pytest.mark.parametrize(
    ("outer", "inner"), [("encryption", "suite"), ("publisher", "name"), ("publisher", "upstream_signature")]
)
@pytest.mark.parametrize("value", [..., 5, [], "x" * 257])
def test_inner_objects_too(outer: str, inner: str, value: object) -> None:
    with pytest.raises(MalformedError):
        parse(broken(lambda d: d[outer].pop(inner) if value is ... else d[outer].update({inner: value})))


def first(**fields: object) -> Callable[[Document], object]:
    return lambda d: d["files"][0].update(fields)


BROKEN = {
    "schema": (lambda d: d.update(schema="ephemeralml.model/2"), "schema"),
    "version no SemVer": (lambda d: d.update(version="1.0"), "SemVer"),
    "version with v": (lambda d: d.update(version="v1.0.0"), "SemVer"),
    "id empty": (lambda d: d.update(model_id=""), "model id"),
    "id with @": (lambda d: d.update(model_id="a@b"), "model id"),
    "id with a space": (lambda d: d.update(model_id="a b"), "model id"),
    "id with a control character": (lambda d: d.update(model_id="a\u0007b"), "model id"),
    "id too long": (lambda d: d.update(model_id="é" * 129), "at most 256"),
    "time without offset": (lambda d: d.update(created_at="2026-01-01T00:00:00"), "RFC 3339"),
    "time is a date": (lambda d: d.update(created_at="2026-01-01"), "RFC 3339"),
    "format": (lambda d: d.update(format="pickle"), "known are"),
    "task": (lambda d: d.update(task="classification"), "known are"),
    "suite": (lambda d: d["encryption"].update(suite="rot13"), "known are"),
    "licence too long": (lambda d: d.update(license="x" * 257), "at most 256"),
    "no files": (lambda d: d.update(files=[]), "1 to 4096"),
    "a file no object": (lambda d: d.update(files=["x"]), "not an object"),
    "role": (first(role="readme"), "known are"),
    "path traversal": (first(path="../x"), "segment"),
    "path twice": (lambda d: d["files"].append(d["files"][0]), "differ in case only"),
    "path twice but for case": (lambda d: d["files"].append(file("MODEL.safetensors")), "differ in case only"),
    "chunk size no power of two": (first(chunk_size=65_537), "power of two"),
    "chunk size too small": (first(chunk_size=32_768), "power of two"),
    "chunk size too large": (first(chunk_size=1 << 27), "power of two"),
    "chunk size 0": (first(chunk_size=0), "power of two"),
    "blob of another file": (first(blob=blob_name("x", Suite.NONE)), "name that follows"),
    "blob of another suite": (first(blob=blob_name("model.safetensors", Suite.AES256GCM)), "name that follows"),
    "blob outside": (first(blob="../../etc/passwd"), "name that follows"),
    "blob size lies": (first(blob_size=99_999), "does not follow"),
    "plaintext digests differ": (first(blob_sha256="cd" * 32), "differ although"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_manifests_are_refused(fault: str) -> None:
    change, says = BROKEN[fault]
    with pytest.raises(MalformedError, match=says):
        parse(broken(change))


def test_a_container_has_the_size_of_its_formula() -> None:
    value = document(suite=Suite.AES256GCM)
    value["files"][0]["blob_size"] -= 16
    with pytest.raises(MalformedError, match="does not follow"):
        parse(value)


def test_too_many_files_are_refused() -> None:
    with pytest.raises(MalformedError, match="1 to 4096"):
        parse(document() | {"files": [file(str(index)) for index in range(4_097)]})
    parse(document() | {"files": [file(str(index)) for index in range(4_096)]})


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"\xff", "UTF-8"),
        (b'{"schema": "ephemeralml.model/1", "schema": "ephemeralml.model/1"}', "repeats"),
        (b'{"x": NaN}', "NaN"),
        (b'{"x": 18446744073709551616}', "64 bits"),
        (b"[" * 65 + b"]" * 65, "nested"),
        (b" " * (4 << 20) + b"{}", "at most"),
    ],
)
def test_the_json_is_read_strictly(payload: bytes, says: str) -> None:
    with pytest.raises(MalformedError, match=says):
        manifest.parse(payload)


def test_a_huge_manifest_takes_no_memory() -> None:
    payload = b"[" * (64 << 20)
    tracemalloc.start()
    with pytest.raises(MalformedError):
        manifest.parse(payload)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_bug_in_the_writer_does_not_go_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    read = parse(document())
    monkeypatch.setattr(manifest, "parse", lambda payload: None)
    with pytest.raises(RuntimeError, match="does not read back"):
        manifest.encode(read)


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(HEX),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@pytest.mark.fuzz
@given(st.dictionaries(st.sampled_from(FIELDS), _ANY), st.dictionaries(st.sampled_from(FILE_FIELDS), _ANY))
def test_only_our_errors_leave_a_strange_manifest(outer: Document, inner: Document) -> None:
    value = document()
    value["files"][0].update(inner)
    with suppress(MalformedError):
        parse(value | outer)


@pytest.mark.fuzz
@given(st.data())
def test_only_our_errors_leave_a_damaged_manifest(data: st.DataObject) -> None:
    payload = json.dumps(document()).encode()
    start = data.draw(st.integers(0, len(payload)))
    end = data.draw(st.integers(start, min(len(payload), start + 20)))
    with suppress(MalformedError):
        manifest.parse(payload[:start] + data.draw(st.binary(max_size=10)) + payload[end:])
