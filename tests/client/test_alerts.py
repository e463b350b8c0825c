"""What each alert tells whoever asked: plain words, a hint, and that it is unauthenticated."""

import pytest

from ephemeralml.attestation.policy import Policy
from ephemeralml.channel.hello import Alert, AlertCode
from ephemeralml.client.alerts import refused_session


@pytest.mark.parametrize("code", [*AlertCode, 99])
def test_every_alert_has_words_and_a_hint(code: int) -> None:
    error = refused_session(Alert(code, "said"), Policy.accept_local())
    assert error.message.startswith("the runtime refuses the session, it ")
    assert f"unauthenticated alert {int(code)} (" in error.message
    assert error.hint


def test_no_common_format_names_what_the_policy_accepts() -> None:
    error = refused_session(Alert(AlertCode.NO_COMMON_FORMAT, ""), Policy.accept_local())
    assert "which is: local;" in error.message
