"""A host that serves another package, an older one, other bytes, or nothing, can only make the boot fail.

Issue: "a relay that serves another package, an older version, other bytes per
retry, or stalls, can only make the boot fail with that reason".
"""

import base64
import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ephemeralml.enclave.boot import boot
from ephemeralml.enclave.boot_report import Step, StepReport, StepStatus
from ephemeralml.enclave.config import ServiceRules
from ephemeralml.enclave.host_services import HostServices
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from tests.fakes.booted_runtime import Files, config_source, inputs
from tests.fakes.embedding_engine import HashEngine
from tests.fakes.host_services import SealingKms
from tests.fakes.hostile_services import KMS, Answer, Bend, Exchange, hostile
from tests.fakes.key_source import KEY_URI, OneKey
from tests.fakes.packages import STRANGER, encrypted_package, signed_package

STALL, TOTAL = 0.2, 1.0


class Boot:
    """A runtime that wants `tiny-bert` of at least 1.0.0, and a host that may lie."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = OneKey()
        self.package = encrypted_package(folder / "right", keys=self.keys)

    def files(self) -> Files:
        source = config_source(
            model_id="tiny-bert",
            allow_plaintext=False,
            services=f"unix://{self.folder}/services",
            packages=("tiny",),
            key_uris=(KEY_URI,),
        )
        source = source.replace(b'# min_version = "1.0.0"', b'min_version = "1.0.0"')
        source = source.replace(
            b"[services]\n", f"[services]\nstall_seconds = {STALL}\ntotal_seconds = {TOTAL}\n".encode()
        )
        config = self.folder / "enclave.toml"
        config.write_bytes(source)
        return Files(config, ())

    def fails(self, bend: Bend, package: Path | None = None) -> tuple[EphemeralError, StepReport]:
        """Boot against a host that bends, expect a failure with step and fix, in time."""
        seen: list[StepReport] = []
        begun = time.monotonic()
        with (
            hostile(self.folder / "services", package or self.package, {KEY_URI: SealingKms(self.keys)}, bend),
            pytest.raises(EphemeralError) as caught,
        ):
            boot(inputs(self.files(), observer=seen.append))
        assert time.monotonic() - begun < TOTAL + 5
        assert seen[-1].status is StepStatus.FAILED
        assert caught.value.hint
        assert f"boot step {seen[-1].step.value!r}" in caught.value.message
        return caught.value, seen[-1]


@pytest.fixture
def attempt(tmp_path: Path) -> Boot:
    (tmp_path / "right").mkdir()
    return Boot(tmp_path)


def honest(exchange: Exchange) -> Answer:
    return exchange.honest


def blobs(change: Callable[[Exchange], Answer | bytes | None], method: str = "GET") -> Bend:
    """Return a bend of requests for blobs alone."""
    return lambda exchange: (
        change(exchange) if "/blobs/" in exchange.path and exchange.method == method else exchange.honest
    )


def code(error: EphemeralError) -> str | None:
    return getattr(error, "code", None)


def test_the_honest_host_boots(attempt: Boot) -> None:
    with hostile(attempt.folder / "services", attempt.package, {KEY_URI: SealingKms(attempt.keys)}, honest) as host:
        boot(inputs(attempt.files())).close()
    assert all(path == KMS or path.startswith("/package/tiny/") for _, path in host.requests)


# another package


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ({"model_id": "tiny-other"}, "MODEL_NOT_ALLOWED"),
        ({"version": "0.9.9"}, "VERSION_ROLLBACK"),
        ({"key": STRANGER}, "SIGNER_UNKNOWN"),
    ],
)
def test_another_package(attempt: Boot, package: Any, expected: str) -> None:
    other = encrypted_package(attempt.folder, keys=attempt.keys, **package)
    error, step = attempt.fails(honest, other)
    assert isinstance(error, RejectedError)
    assert code(error) == expected
    assert step.step is Step.MANIFEST


def test_a_plaintext_package_in_place_of_the_encrypted_one(attempt: Boot) -> None:
    error, step = attempt.fails(honest, signed_package(attempt.folder))
    assert code(error) == "PLAINTEXT_NOT_ALLOWED"
    assert step.step is Step.MANIFEST


def test_the_blobs_of_another_build(attempt: Boot) -> None:
    other = encrypted_package(attempt.folder, keys=attempt.keys, seed=99)
    shutil.copyfile(attempt.package / "manifest.json", other / "manifest.json")
    error, step = attempt.fails(honest, other)
    assert code(error) in {"CHUNK_AUTH_FAILED", "CHUNK_ROOT_MISMATCH"}
    assert step.step is Step.LOAD


def test_two_blobs_swapped(attempt: Boot) -> None:
    sizes: dict[int, list[Path]] = {}
    for blob in sorted((attempt.package / "blobs").iterdir()):
        sizes.setdefault(blob.stat().st_size, []).append(blob)
    first, second = sorted((attempt.package / "blobs").iterdir())[:2]
    first.rename(attempt.folder / "kept")
    second.rename(first)
    (attempt.folder / "kept").rename(second)
    error, step = attempt.fails(honest)
    assert code(error) in {"SIZE_MISMATCH", "HEADER_MISMATCH"}
    assert step.step is Step.LOAD


# other bytes


def flipped(exchange: Exchange) -> Answer:
    body = bytearray(exchange.honest.body)
    body[len(body) // 2] ^= 1
    return exchange.honest.having(body=bytes(body))


def test_a_flipped_bit(attempt: Boot) -> None:
    error, step = attempt.fails(blobs(flipped))
    assert isinstance(error, RejectedError)
    assert code(error) in {"CHUNK_AUTH_FAILED", "HEADER_MISMATCH"}
    assert step.step is Step.LOAD


def test_other_bytes_at_each_try(attempt: Boot) -> None:
    """The first answer breaks off half-way; what follows has another version's name."""

    def bend(exchange: Exchange) -> Answer | bytes:
        if exchange.count == 1:
            data = exchange.honest.wire()
            return data[: len(data) - len(exchange.honest.body) // 2 - 1]
        return flipped(exchange).having(etag=f'"{exchange.count}"')

    def cut(exchange: Exchange) -> None:
        said = bend(exchange)
        exchange.peer.sendall(said.wire() if isinstance(said, Answer) else said)

    error, step = attempt.fails(blobs(cut))
    assert isinstance(error, RejectedError)
    assert code(error) == "OBJECT_CHANGED"
    assert step.step is Step.LOAD


def test_other_bytes_at_each_try_under_one_name(attempt: Boot) -> None:
    def bend(exchange: Exchange) -> None:
        data = flipped(exchange).wire()
        exchange.peer.sendall(data[: len(data) - 1 if exchange.count == 1 else len(data)])

    error, step = attempt.fails(blobs(bend))
    assert isinstance(error, (RejectedError, MalformedError))  # a flipped byte of the header may be a reserved one
    assert code(error) in {"CHUNK_AUTH_FAILED", "HEADER_MISMATCH", None}
    assert step.step is Step.LOAD


def test_a_size_that_is_not_the_manifests(attempt: Boot) -> None:
    error, step = attempt.fails(blobs(lambda exchange: exchange.honest.having(content_length="10"), "HEAD"))
    assert code(error) == "SIZE_MISMATCH"
    assert step.step is Step.LOAD


@pytest.mark.parametrize("name", ["manifest.json", "keys.json"])
def test_an_endless_document(attempt: Boot, name: str) -> None:
    def bend(exchange: Exchange) -> Answer:
        return exchange.honest.having(content_length=str(1 << 40)) if exchange.name == name else exchange.honest

    error, _ = attempt.fails(bend)
    assert isinstance(error, MalformedError)
    assert str(1 << 40) in error.message


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01\x02",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 206\r\n" + b"a: b\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 206 OK\r\na: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 7-9/10\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 206 Partial Content\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nretry-after: 9999\r\n\r\n",
    ],
)
def test_answers_that_are_none(attempt: Boot, answer: bytes) -> None:
    def bend(exchange: Exchange) -> None:
        exchange.peer.sendall(answer)

    error, step = attempt.fails(blobs(bend))
    assert isinstance(error, (UnavailableError, MalformedError, RejectedError))
    assert step.step is Step.LOAD


# nothing, or slowly


def stall(exchange: Exchange) -> None:
    exchange.stall()


def stall_in_body(exchange: Exchange) -> None:
    exchange.peer.sendall(exchange.honest.wire()[:-5])
    exchange.stall()


def trickle(exchange: Exchange) -> None:
    exchange.trickle(exchange.honest.wire(), 0.1)


def continue_forever(exchange: Exchange) -> None:
    with contextlib.suppress(OSError):
        while not exchange.stop.is_set():
            exchange.peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 64)


@pytest.mark.parametrize("how", [stall, stall_in_body, trickle, continue_forever])
@pytest.mark.parametrize(
    ("where", "step"),
    [("manifest.json", Step.MANIFEST), ("keys.json", Step.KEY_RELEASE), ("decrypt", Step.KEY_RELEASE)],
)
def test_a_host_that_stalls(attempt: Boot, how: Bend, where: str, step: Step) -> None:
    def bend(exchange: Exchange) -> Answer | bytes | None:
        return how(exchange) if exchange.name == where and exchange.method != "HEAD" else exchange.honest

    error, found = attempt.fails(bend)
    assert isinstance(error, UnavailableError)
    assert found.step is step
    assert where in error.message


@pytest.mark.parametrize("how", [stall, stall_in_body, trickle])
def test_a_host_that_stalls_within_the_weights(attempt: Boot, how: Bend) -> None:
    error, step = attempt.fails(blobs(how))
    assert isinstance(error, UnavailableError)
    assert step.step is Step.LOAD


def test_nobody_there(attempt: Boot) -> None:
    with pytest.raises(UnavailableError, match="boot step 'manifest'") as caught:
        boot(inputs(attempt.files()))
    assert "host run --services" in (caught.value.hint or "")


# key release


def released(exchange: Exchange) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(exchange.honest.body)
    return document


def kms(change: Callable[[dict[str, Any]], Any]) -> Bend:
    def bend(exchange: Exchange) -> Answer:
        if exchange.path != KMS:
            return exchange.honest
        said = change(released(exchange))
        return exchange.honest.having(body=said if isinstance(said, bytes) else json.dumps(said).encode())

    return bend


def garbled(document: dict[str, Any]) -> dict[str, Any]:
    sealed = bytearray(base64.b64decode(document["ciphertext_for_recipient"]))
    sealed[-40] ^= 1
    return {**document, "ciphertext_for_recipient": base64.b64encode(sealed).decode()}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (garbled, "KEY_RESPONSE_INVALID"),
        (lambda document: {**document, "key_id": "arn:aws:kms:x"}, "KEY_RESPONSE_INVALID"),
        (lambda document: {**document, "ciphertext_for_recipient": ""}, "KEY_RESPONSE_INVALID"),
        (lambda document: {**document, "Plaintext": "AAAA"}, "KEY_PLAINTEXT_RETURNED"),
        (lambda _: {"error": "AccessDeniedException"}, "KEY_RELEASE_DENIED"),
        (lambda _: {"error": "ValidationException"}, "KEY_DOCUMENT_REFUSED"),
        (lambda _: {"error": "InvalidCiphertextException"}, "KEY_CIPHERTEXT_INVALID"),
        (lambda _: {"error": "DisabledException"}, "KEY_UNAVAILABLE"),
        (lambda _: {"error": "\u202e" * 99}, "KEY_UNAVAILABLE"),
        (lambda _: {}, "KEY_RESPONSE_INVALID"),
        (lambda _: [], None),
        (lambda _: b"[" * 10_000, None),
        (lambda _: b'{"error": 1, "error": 2}', None),
        (lambda _: b"x" * 1_000_000, None),
    ],
)
def test_answers_for_a_key_that_are_none(
    attempt: Boot, change: Callable[[dict[str, Any]], Any], expected: str | None
) -> None:
    error, step = attempt.fails(kms(change))
    assert step.step is Step.KEY_RELEASE
    assert code(error) == expected


def test_a_key_of_the_hosts_choice_opens_nothing(attempt: Boot) -> None:
    """Anyone can seal 32 bytes to the recipient: the DEK is never a reason to trust anything."""
    mine = OneKey()
    package = encrypted_package(attempt.folder, keys=mine, seed=99)
    for name in ("manifest.json",):
        shutil.copyfile(attempt.package / name, package / name)
    attempt.keys = mine
    error, step = attempt.fails(honest, package)
    assert code(error) in {"CHUNK_AUTH_FAILED", "CHUNK_ROOT_MISMATCH"}
    assert step.step is Step.LOAD


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[tuple[HostServices, list[bytes]]]:
    said: list[bytes] = [b""]

    def bend(exchange: Exchange) -> None:
        exchange.peer.sendall(said[0])

    rules = ServiceRules(address=f"unix://{tmp_path}/services", stall_seconds=1.0, total_seconds=600.0)
    services = HostServices(rules)
    with hostile(tmp_path / "services", tmp_path, {}, bend):
        yield services, said
        services.close()


@pytest.mark.fuzz
def test_only_our_errors_leave_an_answer(answering: tuple[HostServices, list[bytes]]) -> None:
    services, said = answering

    @given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail))
    def check(data: bytes) -> None:
        said[0] = data
        with contextlib.suppress(EphemeralError):
            services.post(KMS, {"key": "x"})

    check()


@pytest.mark.fuzz
def test_a_changed_byte_of_any_answer_fails_the_boot_or_changes_nothing(attempt: Boot) -> None:
    """Heads and bodies alike, at the first try or at every one."""
    files = attempt.files()
    change: dict[str, Any] = {}

    def bend(exchange: Exchange) -> Answer | bytes:
        data = bytearray(exchange.honest.wire())
        change["seen"] += 1
        if change["seen"] == change["at"] or (change["always"] and change["seen"] >= change["at"]):
            data[change["byte"] % len(data)] ^= change["bits"]
        return bytes(data)

    with hostile(attempt.folder / "services", attempt.package, {KEY_URI: SealingKms(attempt.keys)}, bend):

        def once() -> bytes:
            runtime = boot(inputs(files, make_engine=lambda *_: HashEngine()))
            try:
                return runtime.identity.models[0].hash
            finally:
                runtime.close()

        change.update(seen=0, at=0, always=False)
        right = once()

        @given(st.integers(1, 30), st.integers(0, 1 << 16), st.integers(1, 255), st.booleans())
        @settings(deadline=None)
        def check(at: int, byte: int, bits: int, always: bool) -> None:
            change.update(seen=0, at=at, byte=byte, bits=bits, always=always)
            with contextlib.suppress(EphemeralError):
                assert once() == right

        check()
