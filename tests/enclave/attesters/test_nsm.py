"""The NSM's device, socket and protocol (nitro-platform section 1)."""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import cbor
from ephemeralml.enclave.attesters.nsm import NsmClient, NsmDevice, NsmDirect, NsmSocket
from ephemeralml.errors import EphemeralError, MalformedError, UnavailableError
from tests.fakes.nsm_ioctl import FakeNsmDriver

DESCRIPTION: dict[str, Any] = {
    "digest": "SHA384",
    "max_pcrs": 32,
    "module_id": "i-1234-enc0123",
    "locked_pcrs": list(range(16)),
    "version_major": 1,
    "version_minor": 0,
    "version_patch": 0,
}


def answering(answer: Any) -> NsmClient:
    return NsmClient(NsmDirect(lambda _: cbor.encode(answer)))


@contextlib.contextmanager
def device(driver: Callable[[int, int, bytearray], int], **options: Any) -> Iterator[NsmDevice]:
    made = NsmDevice(Path("/dev/null"), ioctl=driver, **options)
    try:
        yield made
    finally:
        made.close()


def test_the_ioctl_hands_over_two_pairs_of_address_and_length() -> None:
    driver = FakeNsmDriver(lambda _: cbor.encode({"DescribePCR": {"lock": True, "data": b"\x05" * 48}}))
    with device(driver) as nsm:
        assert NsmClient(nsm).pcr(0) == b"\x05" * 48
    # The published encoding of DescribePCR 0.
    assert driver.requests == [bytes.fromhex("a16b4465736372696265504352a165696e64657800")]


def test_requests_without_arguments_are_texts() -> None:
    driver = FakeNsmDriver(lambda _: cbor.encode({"DescribeNSM": DESCRIPTION}))
    with device(driver) as nsm:
        described = NsmClient(nsm).describe()
    assert driver.requests == [b"\x6bDescribeNSM"]
    assert described.module_id == "i-1234-enc0123"
    assert described.locked_pcrs == frozenset(range(16))
    assert described.version == (1, 0, 0)


def test_the_attestation_request_carries_all_three_fields() -> None:
    driver = FakeNsmDriver(lambda _: cbor.encode({"Attestation": {"document": b"doc"}}))
    with device(driver) as nsm:
        assert NsmClient(nsm).attestation(public_key=b"k" * 32, user_data=b"u" * 32, nonce=None) == b"doc"
    assert cbor.decode(driver.requests[0], max_bytes=4_096) == {
        "Attestation": {"public_key": b"k" * 32, "user_data": b"u" * 32, "nonce": None}
    }


def test_one_thread_calls_and_an_interruption_is_tried_again() -> None:
    driver = FakeNsmDriver(lambda _: cbor.encode({"GetRandom": {"random": b"r" * 256}}), interruptions=3)
    with device(driver) as nsm:
        client = NsmClient(nsm)
        threads = [threading.Thread(target=client.random) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(driver.requests) == 4
    assert len(driver.threads) == 1
    assert threading.get_ident() not in driver.threads


def test_a_full_buffer_may_be_cut() -> None:
    with (
        device(FakeNsmDriver(lambda _: b"\x00" * 20_000)) as nsm,
        pytest.raises(UnavailableError, match="may be cut"),
    ):
        nsm.exchange(b"\x60")


def test_a_silent_driver_meets_the_deadline() -> None:
    gate = threading.Event()

    def stuck(descriptor: int, number: int, argument: bytearray) -> int:
        gate.wait(10)
        return 0

    with device(stuck, deadline=0.05) as nsm:
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match="within"):
            nsm.exchange(b"\x60")
        assert time.monotonic() - begun < 2
        gate.set()


def test_calls_that_nobody_waits_for_are_not_made() -> None:
    gate = threading.Event()
    made: list[int] = []

    def slow(descriptor: int, number: int, argument: bytearray) -> int:
        made.append(1)
        gate.wait(10)
        return 0

    with device(slow, deadline=0.05) as nsm:
        for _ in range(3):
            with pytest.raises(UnavailableError, match="within"):
                nsm.exchange(b"\x60")
        gate.set()
    nsm._worker.join(5)
    assert len(made) == 1


def test_a_refusing_driver_is_unavailable() -> None:
    def refusing(descriptor: int, number: int, argument: bytearray) -> int:
        raise OSError(22, "Invalid argument")

    with device(refusing) as nsm, pytest.raises(UnavailableError, match="Invalid argument"):
        nsm.exchange(b"\x60")


def test_an_oversize_request_is_a_bug() -> None:
    with device(FakeNsmDriver(lambda _: b"")) as nsm, pytest.raises(RuntimeError):
        nsm.exchange(b"\x00" * 4_097)


def test_no_device_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot open") as caught:
        NsmDevice(tmp_path / "nsm")
    assert caught.value.hint


@pytest.mark.parametrize(
    "name",
    [
        "InvalidArgument",
        "InvalidIndex",
        "InvalidResponse",
        "ReadOnlyIndex",
        "InvalidOperation",
        "BufferTooSmall",
        "InputTooLarge",
        "InternalError",
    ],
)
def test_the_modules_errors_are_named(name: str) -> None:
    with pytest.raises(UnavailableError, match=name):
        answering({"Error": name}).random()


def test_an_unknown_error_is_not_quoted() -> None:
    with pytest.raises(UnavailableError, match="an unknown error"):
        answering({"Error": "\x1b[31mboo"}).random()


@pytest.mark.parametrize(
    ("answer", "ask"),
    [
        ({"GetRandom": {"random": b""}}, "random"),
        ({"GetRandom": {"random": b"r" * 257}}, "random"),
        ({"GetRandom": {"random": "text"}}, "random"),
        ({"GetRandom": {}}, "random"),
        ({"GetRandom": None}, "random"),
        ({"DescribeNSM": DESCRIPTION}, "random"),
        ({"GetRandom": {"random": b"r"}, "Error": "InternalError"}, "random"),
        ("GetRandom", "random"),
        ([], "random"),
        ({"DescribeNSM": {**DESCRIPTION, "locked_pcrs": [32]}}, "describe"),
        ({"DescribeNSM": {**DESCRIPTION, "locked_pcrs": None}}, "describe"),
        ({"DescribeNSM": {**DESCRIPTION, "max_pcrs": True}}, "describe"),
        ({"DescribeNSM": {**DESCRIPTION, "version_patch": "0"}}, "describe"),
    ],
)
def test_odd_answers_are_malformed(answer: Any, ask: str) -> None:
    with pytest.raises(MalformedError, match="answer"):
        getattr(answering(answer), ask)()


def test_a_short_register_is_malformed() -> None:
    with pytest.raises(MalformedError, match="data"):
        answering({"DescribePCR": {"lock": True, "data": b"\x00" * 47}}).pcr(0)


def test_a_repeated_key_is_malformed() -> None:
    raw = bytes.fromhex("a1694765745261 6e646f6d") + b"\xa2\x66random\x41a\x66random\x41b"
    with pytest.raises(MalformedError):
        NsmClient(NsmDirect(lambda _: raw)).random()


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_only_our_errors_leave_the_protocol(raw: bytes) -> None:
    client = NsmClient(NsmDirect(lambda _: raw))
    for ask in (client.describe, client.random, lambda: client.pcr(0)):
        with contextlib.suppress(EphemeralError):
            ask()


@contextlib.contextmanager
def unix_module(path: Path, reply: Callable[[bytes], bytes]) -> Iterator[str]:
    """A peer on a unix socket that answers raw bytes, once per connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    size = struct.unpack(">I", peer.recv(4, socket.MSG_WAITALL))[0]
                    peer.sendall(reply(peer.recv(size, socket.MSG_WAITALL)))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield str(path)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def framed(answer: bytes) -> bytes:
    return struct.pack(">I", len(answer)) + answer


def test_the_socket_prefixes_lengths(tmp_path: Path) -> None:
    with unix_module(tmp_path / "nsm", lambda request: framed(request[::-1])) as path:
        nsm = NsmSocket(path)
        assert nsm.exchange(b"abc") == b"cba"
        assert nsm.exchange(b"def") == b"fed"


@pytest.mark.parametrize("reply", [b"", b"\x00\x00", framed(b"abc")[:-1], struct.pack(">I", 12_288), b"\xff" * 8])
def test_a_broken_socket_answer_is_unavailable(tmp_path: Path, reply: bytes) -> None:
    with unix_module(tmp_path / "nsm", lambda _: reply) as path, pytest.raises(UnavailableError):
        NsmSocket(path, deadline=2).exchange(b"abc")


def test_nobody_at_the_socket_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no software NSM") as caught:
        NsmSocket(str(tmp_path / "nsm")).exchange(b"abc")
    assert "--authority" in (caught.value.hint or "")


def test_closing_the_device_closes_its_descriptor() -> None:
    nsm = NsmDevice(Path("/dev/null"), ioctl=FakeNsmDriver(lambda _: b""))
    descriptor = nsm._descriptor
    nsm.close()
    nsm._worker.join(5)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(descriptor)
