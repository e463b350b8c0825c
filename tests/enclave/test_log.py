"""A log that cannot carry a request (serving section 1)."""

import json
import logging

import pytest

from ephemeralml.enclave import log


def test_numbers_and_enums_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ephemeralml.enclave"):
        log.note(log.Event.REQUEST_FINISHED, status=200, fault=log.Fault.OS)
    assert json.loads(caplog.messages[0]) == {"event": "request_finished", "status": 200, "fault": "os"}


@pytest.mark.parametrize("fields", [{"status": "a prompt"}, {"status": b"x"}, {"prompt": 1}, {"status": 1.5}])
def test_text_and_unlisted_fields_are_bugs(fields: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ephemeralml.enclave"), pytest.raises(RuntimeError, match="log takes no field"):
        log.note(log.Event.REQUEST_FINISHED, **fields)  # type: ignore[arg-type]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "MEMORY"),
        (ConnectionResetError(), "OS"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), "VALUE"),
        (RuntimeError(), "RUNTIME"),
        (KeyError("prompt"), "OTHER"),
    ],
)
def test_an_exception_is_logged_by_family_alone(error: Exception, kind: str) -> None:
    assert log.Fault.of(error).name == kind
