"""Evidence through the device, judged by the production verifier (attestation sections 1 to 3)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeralml import clock
from ephemeralml.attestation.evidence import (
    AppraisalTime,
    Evidence,
    ExpectedBinding,
    Format,
    MeasurementType,
    TimeBasis,
)
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.attestation.local.nsm import SoftwareNsm
from ephemeralml.attestation.local.nsm_server import serve
from ephemeralml.attestation.nitro import document as nitro
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.verify import verify_evidence
from ephemeralml.enclave.attesters.nitro import NitroAttester
from ephemeralml.enclave.attesters.nsm import NsmClient, NsmDevice, NsmDirect
from ephemeralml.enclave.attesters.opening import open_attester
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from tests.fakes.booted_runtime import config_source
from tests.fakes.nsm_ioctl import FakeNsmDriver

CONFIG = RuntimeConfig.parse(config_source())
AUTHORITY = Authority.ephemeral()
PCRS = measure(CONFIG.source, AUTHORITY.id)


def now() -> AppraisalTime:
    """The present, read when a test runs: a suite takes longer than a document stays fresh."""
    return AppraisalTime(TimeBasis.NOW, clock.now(), "clock")


def binding() -> ExpectedBinding:
    return ExpectedBinding(os.urandom(32), os.urandom(32), os.urandom(32))


@pytest.fixture
def device() -> Iterator[NsmDevice]:
    made = NsmDevice(Path("/dev/null"), ioctl=FakeNsmDriver(SoftwareNsm(AUTHORITY, PCRS).handle))
    yield made
    made.close()


def test_a_document_through_the_ioctl_verifies(device: NsmDevice) -> None:
    attester = NitroAttester(NsmClient(device), software=True)
    expected = binding()
    made = attester.attest(expected)
    assert made.evidence.format is Format.LOCAL
    assert made.measurement_type is MeasurementType.NITRO_PCR
    assert not made.debug
    verified = verify_evidence(
        made.evidence,
        expected=expected,
        policy=Policy.accept_local(roots=AUTHORITY.roots),
        roots=AUTHORITY.roots,
        at=now(),
        live=True,
    ).require()
    assert verified.digest == made.digest
    # What receipts state is what the verifier reads from the same document.
    assert all(verified.registers[slot] == value for slot, value in made.registers.items())
    assert made.registers["pcr0"] == PCRS[0]


def test_it_does_not_verify_for_another_session(device: NsmDevice) -> None:
    made = NitroAttester(NsmClient(device), software=True).attest(binding())
    with pytest.raises(RejectedError):
        verify_evidence(
            made.evidence,
            expected=binding(),
            policy=Policy.accept_local(roots=AUTHORITY.roots),
            roots=AUTHORITY.roots,
            at=now(),
            live=True,
        ).require()


def test_a_release_document_carries_what_it_was_given(device: NsmDevice) -> None:
    attester = NitroAttester(NsmClient(device), software=True)
    raw = attester.attest_release(public_key=b"k" * 294, user_data=b"u" * 32, nonce=b"n" * 32)
    document = nitro.parse(raw)
    assert (document.public_key, document.user_data, document.nonce) == (b"k" * 294, b"u" * 32, b"n" * 32)
    assert document.pcrs[0] == PCRS[0]


def test_a_release_document_is_no_sessions_evidence(device: NsmDevice) -> None:
    """Whoever replays it at a client finds the fields of no channel in it."""
    wanted = binding()
    attester = NitroAttester(NsmClient(device), software=True)
    raw = attester.attest_release(
        public_key=b"k" * 294, user_data=wanted.channel_binding or b"", nonce=wanted.nonce or b""
    )
    with pytest.raises(RejectedError):
        verify_evidence(
            Evidence(Format.LOCAL, raw),
            expected=wanted,
            policy=Policy.accept_local(roots=AUTHORITY.roots),
            roots=AUTHORITY.roots,
            at=now(),
            live=True,
        ).require()


def test_the_modules_requests_through_the_ioctl(device: NsmDevice) -> None:
    client = NsmClient(device)
    described = client.describe()
    assert described.digest == "SHA384"
    assert described.max_pcrs == 32
    assert described.locked_pcrs == frozenset(range(16))
    assert client.pcr(2) == PCRS[2]
    assert client.pcr(31) == bytes(48)
    assert len(client.random()) == 256
    with pytest.raises(UnavailableError, match="InvalidIndex"):
        client.pcr(32)


def test_a_module_that_does_not_bind_is_named() -> None:
    module = SoftwareNsm(AUTHORITY, PCRS)
    frozen = NsmClient(NsmDirect(module.handle)).attestation(public_key=b"k" * 32, user_data=None, nonce=None)

    class Stuck(NsmClient):
        def attestation(self, *, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None) -> bytes:
            return frozen

    attester = NitroAttester(Stuck(NsmDirect(module.handle)), software=True)
    with pytest.raises(UnavailableError, match="does not carry"):
        attester.attest(binding())
    with pytest.raises(UnavailableError, match="does not carry"):
        attester.attest_release(public_key=b"k" * 32, user_data=b"", nonce=b"")


def test_a_module_that_answers_no_document_is_malformed() -> None:
    from ephemeralml.crypto import cbor

    client = NsmClient(NsmDirect(lambda _: cbor.encode({"Attestation": {"document": b"\x84\x44"}})))
    with pytest.raises(MalformedError):
        NitroAttester(client, software=True).attest(binding())


def test_the_attester_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="needs a software authority"):
        open_attester(CONFIG)
    with pytest.raises(UnavailableError):
        open_attester(CONFIG, authority=tmp_path / "nowhere")
    root = Authority.create(tmp_path / "authority")
    made = open_attester(CONFIG, authority=tmp_path / "authority")
    assert (made.format, made.software) == (Format.LOCAL, True)
    assert made.attest(binding()).registers["pcr4"] == measure(CONFIG.source, root.id)[4]
    made.close()


def test_the_software_module_behind_its_socket(tmp_path: Path) -> None:
    with serve(SoftwareNsm(AUTHORITY, PCRS), tmp_path / "nsm"):
        made = open_attester(CONFIG, nsm_socket=str(tmp_path / "nsm"))
        assert made.attest(binding()).registers["pcr0"] == PCRS[0]
        made.close()


def test_hardware_takes_no_software_arguments(tmp_path: Path) -> None:
    config = RuntimeConfig.parse(config_source(attester="nsm"))
    with pytest.raises(MalformedError, match="of no use"):
        open_attester(config, authority=tmp_path)
    if not Path("/dev/nsm").exists():
        with pytest.raises(UnavailableError, match="/dev/nsm"):
            open_attester(config)
