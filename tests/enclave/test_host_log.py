"""The boot's steps and the runtime's warnings reach the host; nothing waits for it (nitro-platform section 7)."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ephemeralml.enclave import log
from ephemeralml.enclave.boot_report import Step, StepStatus
from ephemeralml.enclave.config import ServiceRules
from ephemeralml.enclave.host_log import MAX_WAITING, HostLog, to_host
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.host.enclave_log import LogDesk
from ephemeralml.keyrelease.faults import KeyUnavailableError
from tests.fakes.host_services import services
from tests.fakes.hostile_services import Exchange, hostile

RULES = ServiceRules(address="unix:///nowhere")


class Desk(LogDesk):
    """A log desk that keeps what it took."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, object]] = []

    def handle(self, body: bytes) -> tuple[int, bytes]:
        status, answer = super().handle(body)
        if status == 200:
            self.lines += map(json.loads, body.splitlines())
        return status, answer


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk()
    with services(tmp_path / "s", {}, desks={"/log": made}):
        yield made


def rules(folder: Path) -> ServiceRules:
    return ServiceRules(address=f"unix://{folder}/s")


def test_steps_and_warnings_arrive(desk: Desk, tmp_path: Path) -> None:
    with to_host(rules(tmp_path)):
        log.note(log.Event.BOOT_STEP, step=Step.KEY_RELEASE, status=StepStatus.OK, milliseconds=12)
        log.note(log.Event.REQUEST_FAILED, fault=log.Fault.MEMORY)
        log.note(log.Event.REQUEST_FINISHED, count=1)
    assert desk.lines == [
        {"event": "boot_step", "step": "key_release", "status": "ok", "milliseconds": 12},
        {"event": "request_failed", "fault": "memory"},
    ]


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (RejectedError("no", code="KEY_RELEASE_DENIED"), {"code": "key_release_denied", "kind": "rejected"}),
        (RejectedError("no", code="what a host said"), {"kind": "rejected"}),
        (MalformedError("no"), {"kind": "malformed"}),
        (UnavailableError("away"), {"kind": "unavailable"}),
        (KeyUnavailableError("away"), {"code": "key_unavailable", "kind": "unavailable"}),
    ],
)
def test_why_a_boot_failed_arrives(desk: Desk, tmp_path: Path, error: EphemeralError, fields: dict[str, str]) -> None:
    with pytest.raises(EphemeralError), to_host(rules(tmp_path)):
        raise error
    assert desk.lines == [{"event": "boot_failed", **fields}]


def test_many_lines(desk: Desk, tmp_path: Path) -> None:
    with to_host(rules(tmp_path)):
        for number in range(600):
            log.note(log.Event.BOOT_STEP, count=number)
    assert [line["count"] for line in desk.lines] == list(range(600))


def test_nothing_is_sent_without_services(caplog: pytest.LogCaptureFixture) -> None:
    with to_host(None):
        log.note(log.Event.BOOT_STEP, count=1)
    assert not [thread for thread in logging.getLogger(log.BOOT_LOGGER).handlers if isinstance(thread, HostLog)]


def test_a_host_that_is_not_there_holds_nothing_up() -> None:
    begun = time.monotonic()
    with to_host(RULES):
        for _ in range(2 * MAX_WAITING):
            log.note(log.Event.BOOT_STEP, count=1)
        assert time.monotonic() - begun < 1
    assert time.monotonic() - begun < 5


def test_a_host_that_stalls_holds_up_the_end_for_seconds_alone(tmp_path: Path) -> None:
    def stall(exchange: Exchange) -> None:
        exchange.stall()

    with hostile(tmp_path / "s", tmp_path, {}, stall):
        begun = time.monotonic()
        with to_host(rules(tmp_path)):
            log.note(log.Event.BOOT_STEP, count=1)
        assert time.monotonic() - begun < 10


def test_the_log_takes_no_text() -> None:
    with pytest.raises(RuntimeError, match="takes no field"):
        log.note(log.Event.BOOT_FAILED, code="a prompt")  # type: ignore[arg-type] # that is what is tested
