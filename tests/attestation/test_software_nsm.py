"""The software module: requests, limits and errors of nitro-platform section 1."""

import hashlib
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.local.nsm import MAX_REQUEST_BYTES, SoftwareNsm
from ephemeralml.attestation.local.nsm_server import MAX_CONNECTIONS, receive_message, send_message, serve
from ephemeralml.attestation.nitro.document import parse
from ephemeralml.attestation.roots import RootKind
from ephemeralml.crypto import cbor
from ephemeralml.errors import UnavailableError
from tests.fakes.nitro import AT, BINDING, MODULE_ID, NONCE, PCRS, RECEIPT_KEY, check, workshop

AUTHORITY = workshop(RootKind.SOFTWARE).authority


@pytest.fixture
def nsm() -> SoftwareNsm:
    return SoftwareNsm(AUTHORITY, PCRS, MODULE_ID, clock=lambda: AT)


def ask(nsm: SoftwareNsm, request: Any) -> Any:
    return cbor.decode(nsm.handle(cbor.encode(request)), max_bytes=12_288)


def attest(nsm: SoftwareNsm, **fields: Any) -> bytes:
    values = {"user_data": BINDING, "nonce": NONCE, "public_key": RECEIPT_KEY, **fields}
    return bytes(ask(nsm, {"Attestation": values})["Attestation"]["document"])


class TestRequests:
    def test_describe(self, nsm: SoftwareNsm) -> None:
        assert ask(nsm, "DescribeNSM")["DescribeNSM"] == {
            "digest": "SHA384",
            "max_pcrs": 32,
            "module_id": MODULE_ID,
            "locked_pcrs": tuple(range(16)),
            "version_major": 1,
            "version_minor": 0,
            "version_patch": 0,
        }

    def test_describe_pcr_by_the_bytes_that_the_page_prints(self, nsm: SoftwareNsm) -> None:
        request = bytes.fromhex("a16b4465736372696265504352a165696e64657800")
        assert cbor.encode({"DescribePCR": {"index": 0}}) == request
        response = cbor.decode(nsm.handle(request), max_bytes=12_288)
        assert response == {"DescribePCR": {"lock": True, "data": PCRS[0]}}

    def test_extend_and_lock(self, nsm: SoftwareNsm) -> None:
        new = hashlib.sha384(bytes(48) + b"event").digest()
        assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"event"}}) == {"ExtendPCR": {"data": new}}
        newer = hashlib.sha384(new + b"more").digest()
        assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"more"}}) == {"ExtendPCR": {"data": newer}}
        assert 16 not in parse(attest(nsm)).pcrs
        assert ask(nsm, {"LockPCR": {"index": 16}}) == "LockPCR"
        assert parse(attest(nsm)).pcrs[16] == newer
        assert ask(nsm, {"ExtendPCR": {"index": 16, "data": b"late"}}) == {"Error": "ReadOnlyIndex"}
        assert ask(nsm, {"LockPCRs": {"range": 20}}) == "LockPCRs"
        assert ask(nsm, "DescribeNSM")["DescribeNSM"]["locked_pcrs"] == tuple(range(20))

    def test_random(self, nsm: SoftwareNsm) -> None:
        first, second = (ask(nsm, "GetRandom")["GetRandom"]["random"] for _ in range(2))
        assert len(first) == 256
        assert first != second

    def test_attestation_verifies(self, nsm: SoftwareNsm) -> None:
        appraisal = check(attest(nsm), RootKind.SOFTWARE).run()
        assert appraisal.require().software

    def test_attestation_without_fields(self, nsm: SoftwareNsm) -> None:
        document = parse(attest(nsm, user_data=None, nonce=None, public_key=None))
        assert (document.public_key, document.user_data, document.nonce) == (None, None, None)
        assert parse(bytes(ask(nsm, {"Attestation": {}})["Attestation"]["document"])).nonce is None

    def test_the_largest_document_fits_the_response(self, nsm: SoftwareNsm) -> None:
        ask(nsm, {"LockPCRs": {"range": 32}})
        document = parse(attest(nsm, user_data=bytes(512), nonce=bytes(512), public_key=bytes(1_024)))
        assert len(document.pcrs) == 32

    def test_indefinite_and_wide_heads_are_read(self, nsm: SoftwareNsm) -> None:
        request = b"\xbf" + cbor.encode("DescribePCR") + b"\xbf" + cbor.encode("index") + b"\x18\x00\xff\xff"
        assert "DescribePCR" in cbor.decode(nsm.handle(request), max_bytes=12_288)

    def test_module_id_is_of_the_authority_unless_given(self) -> None:
        nsm = SoftwareNsm(AUTHORITY, PCRS)
        assert nsm.module_id.startswith(f"{AUTHORITY.id}-enc")

    @pytest.mark.parametrize("pcrs", [{32: bytes(48)}, {0: bytes(47)}])
    def test_registers_that_are_none(self, pcrs: dict[int, bytes]) -> None:
        with pytest.raises(ValueError, match="registers"):
            SoftwareNsm(AUTHORITY, pcrs)


class TestErrors:
    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            ("Unknown", "InvalidOperation"),
            ({"Unknown": {}}, "InvalidOperation"),
            ({5: {}}, "InvalidOperation"),
            ({}, "InvalidOperation"),
            ({"DescribePCR": {"index": 0}, "LockPCR": {"index": 0}}, "InvalidOperation"),
            ([], "InvalidOperation"),
            ({"DescribePCR": {"index": 32}}, "InvalidIndex"),
            ({"DescribePCR": {"index": -1}}, "InvalidIndex"),
            ({"DescribePCR": {"index": "0"}}, "InvalidArgument"),
            ({"DescribePCR": {"index": True}}, "InvalidArgument"),
            ({"DescribePCR": {}}, "InvalidArgument"),
            ({"DescribePCR": None}, "InvalidArgument"),
            ({"ExtendPCR": {"index": 0, "data": b"x"}}, "ReadOnlyIndex"),
            ({"ExtendPCR": {"index": 16, "data": "x"}}, "InvalidArgument"),
            ({"ExtendPCR": {"index": 16}}, "InvalidArgument"),
            ({"LockPCR": {"index": 0}}, "ReadOnlyIndex"),
            ({"LockPCRs": {"range": 33}}, "InvalidIndex"),
            ({"LockPCRs": {"range": None}}, "InvalidArgument"),
            ({"Attestation": {"user_data": bytes(513)}}, "InputTooLarge"),
            ({"Attestation": {"nonce": bytes(513)}}, "InputTooLarge"),
            ({"Attestation": {"public_key": bytes(1_025)}}, "InputTooLarge"),
            ({"Attestation": {"public_key": b""}}, "InvalidArgument"),
            ({"Attestation": {"nonce": "text"}}, "InvalidArgument"),
            ({"Attestation": {"other": b""}}, "InvalidArgument"),
        ],
    )
    def test_named(self, nsm: SoftwareNsm, request_: Any, error: str) -> None:
        assert ask(nsm, request_) == {"Error": error}

    @pytest.mark.parametrize("request_", [b"", b"\xff", b"\xa1", cbor.encode("DescribeNSM") + b"\x00", b"\x81" * 100])
    def test_no_cbor(self, nsm: SoftwareNsm, request_: bytes) -> None:
        assert cbor.decode(nsm.handle(request_), max_bytes=100) == {"Error": "InvalidArgument"}

    def test_a_field_twice(self, nsm: SoftwareNsm) -> None:
        twice = b"\xa1" + cbor.encode("DescribePCR") + b"\xa2" + (cbor.encode("index") + b"\x00") * 2
        assert cbor.decode(nsm.handle(twice), max_bytes=100) == {"Error": "InvalidArgument"}

    def test_too_long(self, nsm: SoftwareNsm) -> None:
        assert cbor.decode(nsm.handle(bytes(MAX_REQUEST_BYTES + 1)), max_bytes=100) == {"Error": "InputTooLarge"}

    @pytest.mark.fuzz
    @given(st.binary(max_size=300))
    def test_any_bytes_get_an_answer(self, request_: bytes) -> None:
        nsm = SoftwareNsm(AUTHORITY, PCRS, MODULE_ID, clock=lambda: AT)
        assert cbor.decode(nsm.handle(request_), max_bytes=12_288) is not None

    @pytest.mark.fuzz
    @given(
        st.sampled_from(["DescribePCR", "ExtendPCR", "LockPCR", "LockPCRs", "Attestation"]),
        st.dictionaries(
            st.sampled_from(["index", "data", "range", "user_data", "nonce", "public_key", "x"]),
            st.one_of(st.none(), st.integers(-1, 40), st.binary(max_size=600), st.text(max_size=5), st.booleans()),
        ),
    )
    def test_any_arguments_get_an_answer(self, name: str, arguments: dict[str, Any]) -> None:
        nsm = SoftwareNsm(AUTHORITY, PCRS, MODULE_ID, clock=lambda: AT)
        response = ask(nsm, {name: arguments})
        assert response == name or set(response) <= {name, "Error"}


class TestSocket:
    def connect(self, path: Path) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(5)
        connection.connect(str(path))
        return connection

    def test_answers_in_order(self, nsm: SoftwareNsm, tmp_path: Path) -> None:
        path = tmp_path / "nsm"
        with serve(nsm, path), self.connect(path) as connection:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for request in ("DescribeNSM", "GetRandom", {"Attestation": {}}):
                send_message(connection, cbor.encode(request))
                response = receive_message(connection, 12_288)
                assert response is not None
                assert "Error" not in cbor.decode(response, max_bytes=12_288)
        assert not path.exists()

    def test_an_oversize_request_gets_the_modules_error(self, nsm: SoftwareNsm, tmp_path: Path) -> None:
        with serve(nsm, tmp_path / "nsm") as server, self.connect(server.path) as connection:
            send_message(connection, bytes(MAX_REQUEST_BYTES + 1))
            assert receive_message(connection, 100) == cbor.encode({"Error": "InputTooLarge"})

    def test_an_absurd_length_ends_the_connection(self, nsm: SoftwareNsm, tmp_path: Path) -> None:
        with serve(nsm, tmp_path / "nsm") as server:
            with self.connect(server.path) as connection:
                connection.sendall(b"\xff\xff\xff\xff")
                assert connection.recv(1) == b""
            with self.connect(server.path) as connection:
                send_message(connection, cbor.encode("GetRandom"))
                assert receive_message(connection, 12_288) is not None

    def test_a_cut_request_disturbs_nobody(self, nsm: SoftwareNsm, tmp_path: Path) -> None:
        with serve(nsm, tmp_path / "nsm") as server:
            for piece in (b"\x00", b"\x00\x00\x00\x05ab"):
                with self.connect(server.path) as connection:
                    connection.sendall(piece)
            with self.connect(server.path) as connection:
                send_message(connection, cbor.encode("DescribeNSM"))
                assert receive_message(connection, 12_288) is not None

    def test_connections_are_bounded_and_come_free_again(self, nsm: SoftwareNsm, tmp_path: Path) -> None:
        with serve(nsm, tmp_path / "nsm") as server:
            held = []
            for _ in range(MAX_CONNECTIONS):
                held.append(self.connect(server.path))
                send_message(held[-1], cbor.encode("GetRandom"))
                assert receive_message(held[-1], 12_288) is not None
            with self.connect(server.path) as refused:
                assert refused.recv(1) == b""
            for connection in held:
                connection.close()
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                with self.connect(server.path) as again:
                    try:
                        send_message(again, cbor.encode("GetRandom"))
                        if receive_message(again, 12_288) is not None:
                            break
                    except OSError:
                        continue
            else:
                pytest.fail("no connection came free")

    def test_closing_ends_open_connections(self, nsm: SoftwareNsm, tmp_path: Path) -> None:
        server = serve(nsm, tmp_path / "nsm")
        with self.connect(server.path) as connection:
            send_message(connection, cbor.encode("GetRandom"))
            assert receive_message(connection, 12_288) is not None
            server.close()
            assert connection.recv(1) == b""

    def test_a_path_that_is_taken(self, nsm: SoftwareNsm, tmp_path: Path) -> None:
        (tmp_path / "nsm").write_bytes(b"")
        with pytest.raises(UnavailableError):
            serve(nsm, tmp_path / "nsm")
