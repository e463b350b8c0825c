"""Two ends of a channel in one process, joined by whoever plays the relay."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ephemeralml.attestation.evidence import Format
from ephemeralml.channel import (
    ClientChannel,
    Established,
    Event,
    HelloReceived,
    Identity,
    Limits,
    ModelEntry,
    ServerChannel,
    ServerOffer,
    Suite,
)
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import EphemeralError
from tests.fakes.attester import FakeAttester

IDENTITY = Identity("0.1.0", "local", (ModelEntry("minilm", "1.0.0", b"\x11" * 32, "sha256-manifest"),), b"\x22" * 32)
RECEIPT_KEY = PrivateKey.from_seed(b"\x07" * 32)
ALL_SUITES = tuple(Suite)

Tamper = Callable[[str, bytes], bytes]
"""Direction (``c2s`` or ``s2c``) and bytes → bytes."""


@dataclass
class Pair:
    """Both ends, and what each has seen."""

    client: ClientChannel
    server: ServerChannel
    attester: FakeAttester = field(default_factory=FakeAttester)
    client_events: list[Event] = field(default_factory=list)
    server_events: list[Event] = field(default_factory=list)
    captured: bytearray = field(default_factory=bytearray)

    @property
    def established(self) -> bool:
        return self.client.established and self.server.established

    def client_step(self, data: bytes) -> None:
        """Let the client take bytes, and accept an offer whose evidence verifies."""
        for event in self.client.receive_data(data):
            self.client_events.append(event)
            if isinstance(event, ServerOffer):
                self.client.accept(self.attester.verify(event.evidence, event.expected))

    def server_step(self, data: bytes) -> None:
        """Let the server take bytes, and answer a hello."""
        for event in self.server.receive_data(data):
            self.server_events.append(event)
            if isinstance(event, HelloReceived):
                prepared = self.server.prepare(RECEIPT_KEY.public.raw, IDENTITY)
                self.server.send_hello(self.attester.attest(prepared.expected))

    def run(self, tamper: Tamper = lambda _, data: data, rounds: int = 8) -> None:
        """Carry bytes back and forth until both are silent; *tamper* is the relay."""
        for _ in range(rounds):
            up = bytes(self.client.data_to_send())
            self.captured += up
            if up:
                self.server_step(tamper("c2s", up))
            down = bytes(self.server.data_to_send())
            self.captured += down
            if down:
                self.client_step(tamper("s2c", down))
            if not up and not down:
                return


def make_pair(
    *,
    suites: tuple[Suite, ...] = (Suite.X25519_CHACHA20,),
    server_suites: tuple[Suite, ...] = ALL_SUITES,
    limits: Limits | None = None,
    formats: tuple[Format, ...] = (Format.LOCAL,),
) -> Pair:
    return Pair(
        ClientChannel(suites=suites, formats=formats),
        ServerChannel(suites=server_suites, formats=(Format.LOCAL,), limits=limits),
    )


def established_pair(**options: object) -> Pair:
    pair = make_pair(**options)  # type: ignore[arg-type]
    pair.run()
    assert pair.established
    assert any(isinstance(event, Established) for event in pair.client_events)
    pair.client_events.clear()
    pair.server_events.clear()
    return pair


def refused(action: Callable[[], object]) -> EphemeralError | None:
    """Run *action* and return the error of ours that it raised, or None."""
    try:
        action()
    except EphemeralError as error:
        return error
    return None
