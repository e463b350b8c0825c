"""The enclave's log at its host: typed fields of the runtime's own list, at a bounded rate."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.enclave import log as runtime_log
from ephemeralml.host.enclave_log import BURST, FIELDS, LINES_PER_SECOND, MAX_LINES, LogDesk

LINE = b'{"event": "connection_closed", "connection": 7, "reason": "idle"}'


def test_lines_are_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert LogDesk().handle(LINE + b"\n" + LINE) == (200, b'{"ok": true}')
    assert [record.getMessage() for record in caplog.records] == [f"enclave {LINE.decode()}"] * 2


def test_the_runtimes_fields_are_known_here() -> None:
    assert runtime_log.FIELDS <= FIELDS


def test_every_event_of_the_runtime_is_taken() -> None:
    for event in runtime_log.Event:
        assert LogDesk().handle(json.dumps({"event": event.value}).encode())[0] == 200


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"[]",
        b"{}",
        b'{"event": 1}',
        b'{"event": "Free text here"}',
        b'{"event": "x", "prompt": 1}',
        b'{"event": "x", "reason": "what the prompt said"}',
        b'{"event": "x", "reason": null}',
        b'{"event": "x", "count": 1.5}',
        b'{"event": "x", "count": true}',
        b'{"event": "x", "count": 99999999999999999999}',
        b'{"event": "x", "event": "y"}',
        b'{"event": "' + b"x" * 49 + b'"}',
        b"[" * 30_000,
    ],
)
def test_a_line_that_is_none_takes_the_others_with_it(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    status, _ = LogDesk().handle(LINE + b"\n" + line)
    assert status == 400
    assert caplog.records == []


def test_the_rate_is_bounded() -> None:
    now = [0.0]
    desk = LogDesk(lambda: now[0])
    body = b"\n".join([LINE] * MAX_LINES)
    assert desk.handle(body)[0] == 200
    assert desk.handle(body)[0] == 429
    now[0] += MAX_LINES / LINES_PER_SECOND
    assert desk.handle(body)[0] == 200
    now[0] += 1e6
    assert [desk.handle(body)[0] for _ in range(BURST // MAX_LINES + 1)] == [200] * (BURST // MAX_LINES) + [429]
    now[0] += 1e6
    assert desk.handle(body + b"\n" + LINE)[0] == 429


@pytest.mark.fuzz
@given(st.binary(max_size=200))
def test_every_body_has_an_answer(body: bytes) -> None:
    status, answer = LogDesk().handle(body)
    assert status in {200, 400}
    json.loads(answer)
