"""The server's end of a channel (channel section 2)."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ephemeralml.attestation.evidence import Evidence, ExpectedBinding, Format
from ephemeralml.channel import key_schedule
from ephemeralml.channel.endpoint import Endpoint, State
from ephemeralml.channel.events import Established, Event, HelloReceived
from ephemeralml.channel.frames import LIMITS, Frame, FrameType, encode_frame
from ephemeralml.channel.hello import (
    RECEIPT_KEY_BYTES,
    SESSION_ID_BYTES,
    AlertCode,
    ClientFinish,
    ClientHello,
    EvidenceField,
    Identity,
    Limits,
    ServerFinish,
    ServerHello,
)
from ephemeralml.channel.key_schedule import BindingInputs
from ephemeralml.channel.messages import Direction
from ephemeralml.channel.records import Opener, Sealer
from ephemeralml.channel.suites import PREFERRED, SESSION_SECRET_BYTES, Suite, select
from ephemeralml.crypto import hpke
from ephemeralml.crypto.hpke import Kem, RecipientKey
from ephemeralml.errors import MalformedError, RejectedError


class NoCommonGroundError(RejectedError):
    """Client and server share no suite, or no evidence format; the client has been told."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What evidence for one session must carry."""

    expected: ExpectedBinding
    """For the attester: receipt key, channel binding, client nonce."""
    inputs: BindingInputs

    @property
    def binding(self) -> bytes:
        """The channel binding."""
        assert self.expected.channel_binding is not None
        return self.expected.channel_binding


class ServerChannel(Endpoint):
    """The server's end: hello in, evidence made by the owner, hello out, then messages.

    Args:
        suites: What we support.
        formats: Evidence formats that the owner can produce.
        limits: What a session may ask; part of the binding.
        random: Source of session ids; only vectors give another.
        make_key: Source of KEM keys; only vectors give another.
    """

    _speaks = Direction.SERVER_TO_CLIENT
    _hears = Direction.CLIENT_TO_SERVER

    def __init__(
        self,
        *,
        suites: Sequence[Suite] = PREFERRED,
        formats: Sequence[Format],
        limits: Limits | None = None,
        random: Callable[[int], bytes] = os.urandom,
        make_key: Callable[[Kem], RecipientKey] = hpke.generate,
    ) -> None:
        super().__init__(FrameType.CLIENT_HELLO)
        self.limits = limits or Limits()
        """What this session may ask."""
        self._suites = tuple(suites)
        self._formats = tuple(item.value for item in formats)
        self._random = random
        self._make_key = make_key
        self._hello: bytes | None = None
        self._nonce = b""
        self._suite: Suite | None = None
        self._prepared: Prepared | None = None
        self._identity: Identity | None = None
        self._kem_key: RecipientKey | None = None
        self._th1 = b""

    def prepare(self, receipt_key: bytes, identity: Identity, *, session_id: bytes | None = None) -> Prepared:
        """Make the session's KEM key and return what the evidence must carry.

        Args:
            receipt_key: 32 bytes, the Ed25519 key that signs this session's receipts.
            identity: What runs here.
            session_id: 16 bytes; drawn here if None.

        Raises:
            RuntimeError: No client_hello waits, or it has been prepared already.
        """
        if self.state is not State.OFFERED or self._prepared is not None:
            raise RuntimeError(f"nothing to prepare in state {self.state.value}")
        assert self._suite is not None
        assert self._hello is not None
        session_id = self._random(SESSION_ID_BYTES) if session_id is None else session_id
        if len(session_id) != SESSION_ID_BYTES or len(receipt_key) != RECEIPT_KEY_BYTES:
            raise ValueError("a session id has 16 bytes and a receipt key 32")
        self._kem_key = self._make_key(self._suite.kem)
        self._identity = identity
        inputs = BindingInputs(
            client_hello=self._hello,
            suite=self._suite,
            session_id=session_id,
            kem_public_key=self._kem_key.public,
            receipt_key=receipt_key,
            identity=identity.encoded,
            limits=self.limits.encode(),
        )
        self._prepared = Prepared(ExpectedBinding(receipt_key, inputs.binding(), self._nonce), inputs)
        return self._prepared

    def send_hello(self, evidence: Evidence) -> None:
        """Queue server_hello with evidence made for what `prepare` returned.

        Raises:
            MalformedError: The evidence does not fit a frame.
            RuntimeError: Nothing has been prepared.
        """
        prepared, identity = self._prepared, self._identity
        if self.state is not State.OFFERED or prepared is None or identity is None:
            raise RuntimeError(f"no hello to send in state {self.state.value}")
        assert self._suite is not None
        hello = ServerHello(
            self._suite,
            prepared.inputs.session_id,
            prepared.inputs.kem_public_key,
            prepared.inputs.receipt_key,
            identity,
            self.limits,
            EvidenceField(evidence.format.value, evidence.document, evidence.endorsements),
        ).encode()
        if len(hello) > LIMITS[FrameType.SERVER_HELLO]:
            raise MalformedError(f"a server_hello of {len(hello)} bytes")
        self._th1 = key_schedule.transcript(prepared.inputs.client_hello, hello)
        self._out.append(encode_frame(FrameType.SERVER_HELLO, hello))
        self._frames.expect(FrameType.CLIENT_FINISH, FrameType.ALERT)
        self.state = State.FINISHING

    def _handshake(self, frame: Frame) -> Iterator[Event]:
        if frame.type is FrameType.CLIENT_HELLO:
            yield self._read_hello(bytes(frame.payload))
        else:
            self._read_finish(bytes(frame.payload))
            yield Established()

    def _read_hello(self, payload: bytes) -> HelloReceived:
        hello = ClientHello.decode(payload)
        suite = select(hello.suites, self._suites)
        if suite is None:
            self._queue_alert(AlertCode.NO_COMMON_SUITE, "no common suite")
            raise NoCommonGroundError("the client offers no suite of ours", code="CHANNEL_NO_COMMON_SUITE")
        formats = tuple(dict.fromkeys(name for name in hello.formats if name in self._formats))
        if not formats:
            self._queue_alert(AlertCode.NO_COMMON_FORMAT, "no common evidence format")
            raise NoCommonGroundError("the client takes no evidence of ours", code="CHANNEL_NO_COMMON_FORMAT")
        self._frames.expect(FrameType.ALERT)
        self._hello, self._nonce, self._suite = payload, hello.nonce, suite
        self.state = State.OFFERED
        return HelloReceived(hello, suite, formats)

    def _read_finish(self, payload: bytes) -> None:
        assert self._suite is not None
        assert self._prepared is not None
        # Whatever happens now, the KEM key has had its one use.
        kem_key, self._kem_key = self._kem_key, None
        assert kem_key is not None
        finish = ClientFinish.decode(payload, suite=self._suite)
        secret = kem_key.open(
            self._suite.aead, finish.sealed, key_schedule.hpke_info(self._th1), plaintext_bytes=SESSION_SECRET_BYTES
        )
        del kem_key
        keys = key_schedule.derive(secret, key_schedule.transcript2(self._th1, finish.sealed))
        del secret
        if not key_schedule.confirmed(finish.confirmation, keys.confirm_client):
            raise RejectedError("the client's confirmation does not verify", code="CHANNEL_CONFIRMATION")
        session_id = self._prepared.inputs.session_id
        self._opener = Opener(self._suite, keys.c2s, session_id)
        self._sealer = Sealer(self._suite, keys.s2c, session_id)
        self._agree(self.limits.max_record)
        self._out.append(encode_frame(FrameType.SERVER_FINISH, ServerFinish(keys.confirm_server).encode()))
        self._frames.expect(FrameType.RECORD)
        self.state = State.ESTABLISHED

    def _fail(self) -> None:
        super()._fail()
        self._kem_key = None

    def _sent_finish(self) -> bool:
        return self.state in (State.ESTABLISHED, State.FINISHED)
