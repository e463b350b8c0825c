"""The client's end of a channel (channel section 2)."""

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ephemeralml.attestation.evidence import Evidence, ExpectedBinding, Format, VerifiedEvidence
from ephemeralml.channel import key_schedule
from ephemeralml.channel.endpoint import Endpoint, State
from ephemeralml.channel.events import Established, Event, ServerOffer
from ephemeralml.channel.frames import Frame, FrameType, encode_frame
from ephemeralml.channel.hello import (
    GPU_ENDORSEMENT,
    NONCE_BYTES,
    ClientFinish,
    ClientHello,
    ServerFinish,
    ServerHello,
)
from ephemeralml.channel.key_schedule import BindingInputs, SessionKeys
from ephemeralml.channel.messages import Direction
from ephemeralml.channel.records import Opener, Sealer
from ephemeralml.channel.suites import PREFERRED, SESSION_SECRET_BYTES, Suite
from ephemeralml.crypto import hpke
from ephemeralml.crypto.hpke import Aead, Kem
from ephemeralml.crypto.keys import SMALL_ORDER_ENCODINGS
from ephemeralml.errors import MalformedError, RejectedError

Seal = Callable[[Kem, Aead, bytes, bytes, bytes], bytes]
"""KEM, AEAD, public key, plaintext, info → ``enc ‖ ct``."""


class ClientChannel(Endpoint):
    """The client's end: hello out, offer in, evidence verified by the owner, then messages.

    Args:
        suites: What we take, in order of preference.
        formats: Evidence formats that the owner can verify.
        nonce: 32 fresh random bytes; drawn here if None.
        extensions: Extensions for the server, by number.
        random: Source of nonce and session secret; only vectors give another.
        seal: HPKE's single shot; only vectors give another.
    """

    _speaks = Direction.CLIENT_TO_SERVER
    _hears = Direction.SERVER_TO_CLIENT

    def __init__(
        self,
        *,
        suites: Sequence[Suite] = PREFERRED,
        formats: Sequence[Format],
        nonce: bytes | None = None,
        extensions: Mapping[int, Any] | None = None,
        random: Callable[[int], bytes] = os.urandom,
        seal: Seal = hpke.seal,
    ) -> None:
        super().__init__(FrameType.SERVER_HELLO)
        if not suites or not formats:
            raise ValueError("a client offers at least one suite and one evidence format")
        self.nonce = random(NONCE_BYTES) if nonce is None else nonce
        """What the evidence must carry as the caller's nonce."""
        if len(self.nonce) != NONCE_BYTES:
            raise ValueError(f"the nonce has {NONCE_BYTES} bytes, not {len(self.nonce)}")
        self._random = random
        self._seal_secret = seal
        self._formats = {item.value: item for item in formats}
        hello = ClientHello(tuple(map(int, suites)), self.nonce, tuple(self._formats), extensions or {})
        self._suites = hello.suites
        self._hello = hello.encode()
        self._offer: ServerOffer | None = None
        self._th1 = b""
        self._keys: SessionKeys | None = None
        self._out.append(encode_frame(FrameType.CLIENT_HELLO, self._hello))

    def accept(self, verified: VerifiedEvidence) -> None:
        """Go on with the offer, now that its evidence has been verified.

        The owner's duty: *verified* comes from appraising ``offer.evidence``
        against ``offer.expected`` and the policy. That it belongs to this offer
        is checked here once more.

        Queues client_finish; messages may be sent right behind it.

        Raises:
            RejectedError: Verified evidence of something else (code CHANNEL_EVIDENCE).
            RuntimeError: There is no offer to accept.
        """
        offer = self._offer
        if self.state is not State.OFFERED or offer is None:
            raise RuntimeError(f"no offer to accept in state {self.state.value}")
        if (
            not hmac.compare_digest(verified.receipt_key, offer.receipt_key)
            or not hmac.compare_digest(verified.digest, offer.evidence.digest)
            or verified.format is not offer.evidence.format
        ):
            self._fail()
            raise RejectedError("the verified evidence is not this offer's", code="CHANNEL_EVIDENCE")
        suite = offer.suite
        secret = self._random(SESSION_SECRET_BYTES)
        public_key = offer.binding_inputs.kem_public_key
        try:
            sealed = self._seal_secret(suite.kem, suite.aead, public_key, secret, key_schedule.hpke_info(self._th1))
        except MalformedError:
            self._fail()
            raise
        th2 = key_schedule.transcript2(self._th1, sealed)
        keys = key_schedule.derive(secret, th2)
        del secret
        self._keys = keys
        session_id = offer.binding_inputs.session_id
        self._sealer = Sealer(suite, keys.c2s, session_id)
        self._opener = Opener(suite, keys.s2c, session_id)
        finish = ClientFinish(sealed, keys.confirm_client).encode()
        self._out.append(encode_frame(FrameType.CLIENT_FINISH, finish))
        self._agree(offer.limits.max_record)
        self._frames.expect(FrameType.SERVER_FINISH, FrameType.ALERT)
        self.state = State.FINISHING

    def _handshake(self, frame: Frame) -> Iterator[Event]:
        if frame.type is FrameType.SERVER_HELLO:
            yield self._read_offer(bytes(frame.payload))
        else:
            self._read_finish(bytes(frame.payload))
            yield Established()

    def _read_offer(self, payload: bytes) -> ServerOffer:
        # Nothing but an alert may come until the owner has accepted.
        self._frames.expect(FrameType.ALERT)
        hello = ServerHello.decode(payload, offered=self._suites)
        if hello.receipt_public_key in SMALL_ORDER_ENCODINGS:
            raise RejectedError("the receipt key has small order", code="CHANNEL_RECEIPT_KEY")
        form = self._formats.get(hello.evidence.format)
        if form is None:
            raise RejectedError(
                "the server's evidence has a format that was not asked for",
                code="CHANNEL_EVIDENCE_FORMAT",
                expected=tuple(self._formats),
                actual=hello.evidence.format[:40],
            )
        evidence = Evidence(form, hello.evidence.document, hello.evidence.endorsements)
        _check_gpu(hello, evidence)
        inputs = BindingInputs(
            client_hello=self._hello,
            suite=hello.suite,
            session_id=hello.session_id,
            kem_public_key=hello.kem_public_key,
            receipt_key=hello.receipt_public_key,
            identity=hello.identity.encoded,
            limits=hello.limits.encode(),
        )
        expected = ExpectedBinding(hello.receipt_public_key, inputs.binding(), self.nonce)
        self._th1 = key_schedule.transcript(self._hello, payload)
        self._offer = ServerOffer(hello.suite, evidence, expected, hello.identity, hello.limits, inputs)
        self.state = State.OFFERED
        return self._offer

    def _read_finish(self, payload: bytes) -> None:
        finish = ServerFinish.decode(payload)
        assert self._keys is not None
        if not key_schedule.confirmed(finish.confirmation, self._keys.confirm_server):
            raise RejectedError("the server's confirmation does not verify", code="CHANNEL_CONFIRMATION")
        self._keys = None
        self._frames.expect(FrameType.RECORD)
        self.state = State.ESTABLISHED

    def _fail(self) -> None:
        super()._fail()
        self._keys = None

    def _sent_finish(self) -> bool:
        return self.state in (State.ESTABLISHED, State.FINISHED)


def _check_gpu(hello: ServerHello, evidence: Evidence) -> None:
    """Check that GPU evidence, where the identity names one, is the one that came.

    Endorsements are outside the binding; the identity, with this digest, is inside.
    """
    named = hello.identity.gpu_evidence_digest
    if named is None:
        return
    document = evidence.endorsements.get(GPU_ENDORSEMENT)
    if document is None or not hmac.compare_digest(hashlib.sha256(document).digest(), named):
        raise RejectedError("the GPU evidence is not the one that the identity names", code="CHANNEL_GPU_EVIDENCE")
