"""The attested channel, version 1: bytes in, bytes and events out.

`ClientChannel` and `ServerChannel` are the two ends, `ClientStreams` and
`ServerStreams` the rules over what travels inside. No socket, no clock.
"""

from ephemeralml.channel.client import ClientChannel
from ephemeralml.channel.client_streams import ClientStreams
from ephemeralml.channel.events import (
    AlertReceived,
    Established,
    Event,
    HelloReceived,
    MessageReceived,
    ServerOffer,
)
from ephemeralml.channel.hello import AlertCode, Identity, Limits, ModelEntry
from ephemeralml.channel.key_schedule import BindingInputs
from ephemeralml.channel.messages import (
    Body,
    Cancel,
    Close,
    CloseReason,
    End,
    Message,
    Outcome,
    Ping,
    Pong,
    Request,
    Response,
    Usage,
)
from ephemeralml.channel.server import NoCommonGroundError, Prepared, ServerChannel
from ephemeralml.channel.stream_events import (
    Aborted,
    Cancelled,
    ClientEvent,
    PeerClosed,
    Rejected,
    RequestComplete,
    RequestStarted,
    ResponseData,
    ResponseEnded,
    ResponseStarted,
    ServerEvent,
)
from ephemeralml.channel.streams import BODY_SECONDS, Budget, ServerStreams
from ephemeralml.channel.suites import PREFERRED, PREFERRED_WITHOUT_AES, Suite

__all__ = [
    "BODY_SECONDS",
    "PREFERRED",
    "PREFERRED_WITHOUT_AES",
    "Aborted",
    "AlertCode",
    "AlertReceived",
    "BindingInputs",
    "Body",
    "Budget",
    "Cancel",
    "Cancelled",
    "ClientChannel",
    "ClientEvent",
    "ClientStreams",
    "Close",
    "CloseReason",
    "End",
    "Established",
    "Event",
    "HelloReceived",
    "Identity",
    "Limits",
    "Message",
    "MessageReceived",
    "ModelEntry",
    "NoCommonGroundError",
    "Outcome",
    "PeerClosed",
    "Ping",
    "Pong",
    "Prepared",
    "Rejected",
    "Request",
    "RequestComplete",
    "RequestStarted",
    "Response",
    "ResponseData",
    "ResponseEnded",
    "ResponseStarted",
    "ServerChannel",
    "ServerEvent",
    "ServerOffer",
    "ServerStreams",
    "Suite",
    "Usage",
]
