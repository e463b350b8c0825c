"""What a channel tells its owner."""

from dataclasses import dataclass, field

from ephemeralml.attestation.evidence import Evidence, ExpectedBinding
from ephemeralml.channel.hello import Alert, ClientHello, Identity, Limits
from ephemeralml.channel.key_schedule import BindingInputs
from ephemeralml.channel.messages import Message
from ephemeralml.channel.suites import Suite


@dataclass(frozen=True, slots=True)
class HelloReceived:
    """To the server: a client proposes a session.

    The owner chooses one of `formats`, calls `ServerChannel.prepare`, has
    evidence made for the returned binding, and calls `ServerChannel.send_hello`.
    """

    hello: ClientHello
    suite: Suite
    """What the server takes of the client's list."""
    formats: tuple[str, ...]
    """The client's evidence formats that the server has, in the client's order."""


@dataclass(frozen=True, slots=True)
class ServerOffer:
    """To the client: a server offers a session; nothing about it is verified yet.

    The owner verifies `evidence` against its policy with `expected`, and calls
    `ClientChannel.accept` with the result, or lets the connection go.
    """

    suite: Suite
    evidence: Evidence
    expected: ExpectedBinding
    """Receipt key, our own recomputed binding, and our nonce: all three must be in the evidence."""
    identity: Identity
    limits: Limits
    binding_inputs: BindingInputs = field(repr=False)
    """For the archive's sidecar."""

    @property
    def binding(self) -> bytes:
        """The channel binding."""
        assert self.expected.channel_binding is not None
        return self.expected.channel_binding

    @property
    def receipt_key(self) -> bytes:
        """The Ed25519 key that will sign the receipts, as offered."""
        return self.expected.receipt_key


@dataclass(frozen=True, slots=True)
class Established:
    """The peer has proved that it holds the session's keys; messages may flow."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message of the peer's. Pings never show up here: the channel answers them itself."""

    message: Message


@dataclass(frozen=True, slots=True)
class AlertReceived:
    """The peer, or anyone between, says why there will be no session. The channel is over."""

    alert: Alert

    def describe(self) -> str:
        """Return one line for people: printable ASCII, marked as unverified."""
        return self.alert.describe()


Event = HelloReceived | ServerOffer | Established | MessageReceived | AlertReceived
