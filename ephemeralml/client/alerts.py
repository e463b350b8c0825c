"""What a runtime's alert means for whoever asked (channel sections 1 and 7)."""

from ephemeralml.attestation.policy import Policy
from ephemeralml.channel.hello import Alert, AlertCode
from ephemeralml.errors import UnavailableError

_PLAIN = {
    AlertCode.MALFORMED: ("it could not read what we sent", "something on the way may have changed it"),
    AlertCode.VERSION: ("it speaks another version of the channel", "update the older side"),
    AlertCode.NO_COMMON_SUITE: ("it has none of our cipher suites", "update the older side"),
    AlertCode.BUSY: ("it is busy", "try again later"),
    AlertCode.TIMEOUT: ("it waited too long for the handshake", "try again; the runtime may be overloaded"),
    AlertCode.EVIDENCE_UNAVAILABLE: ("it could not get evidence of itself", "try again; then ask its operator"),
    AlertCode.INTERNAL: ("it failed", "ask its operator"),
}


def refused_session(alert: Alert, policy: Policy) -> UnavailableError:
    """Return the error that *alert* means; it is unauthenticated, and says so."""
    if alert.code == AlertCode.NO_COMMON_FORMAT:
        accepted = ", ".join(known.value for known in policy.formats) or "none"
        plain = f"it has no evidence of a kind that the policy accepts, which is: {accepted}"
        hint = (
            "the policy's formats and the runtime's evidence differ: a policy for production refuses a software TEE,"
            " one for a software TEE refuses everything else"
        )
    elif alert.code in set(AlertCode):
        plain, hint = _PLAIN[AlertCode(alert.code)]
    else:
        plain, hint = "it gives a reason that is not known here", "update this side"
    return UnavailableError(f"the runtime refuses the session, {plain}; {alert.describe()}", hint=hint)
