"""The handshake against a relay that changes, swaps, replays and cuts (channel section 6)."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ephemeralml.attestation.evidence import Evidence, ExpectedBinding, Format
from ephemeralml.channel import (
    AlertCode,
    AlertReceived,
    ClientChannel,
    HelloReceived,
    Identity,
    Limits,
    ServerChannel,
    ServerOffer,
    Suite,
)
from ephemeralml.channel.endpoint import State
from ephemeralml.channel.frames import HEADER_BYTES, FrameType, encode_frame
from ephemeralml.channel.hello import Alert, ClientHello, EvidenceField, ServerHello
from ephemeralml.crypto import hpke
from ephemeralml.crypto.keys import SMALL_ORDER_ENCODINGS, PrivateKey
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from tests.channel.pair import ALL_SUITES, IDENTITY, RECEIPT_KEY, Pair, established_pair, make_pair
from tests.fakes.attester import FakeAttester

BOTH_KEMS = (Suite.X25519_CHACHA20, Suite.HYBRID_AES256)


def attempt(pair: Pair, change: Callable[[FrameType, bytes], bytes]) -> EphemeralError | None:
    """Run a handshake in which *change* sees every frame; return what an end raised."""

    def relay(_: str, data: bytes) -> bytes:
        kind = FrameType(data[0])
        return change(kind, data)

    try:
        pair.run(relay)
    except EphemeralError as error:
        return error
    return None


def flip(data: bytes, position: int, mask: int = 1) -> bytes:
    return data[:position] + bytes((data[position] ^ mask,)) + data[position + 1 :]


def rewrite(change: Callable[[ServerHello], ServerHello]) -> Callable[[FrameType, bytes], bytes]:
    """A relay that decodes server_hello and puts another in its place."""

    def relay(kind: FrameType, data: bytes) -> bytes:
        if kind is not FrameType.SERVER_HELLO:
            return data
        hello = ServerHello.decode(data[HEADER_BYTES:], offered=ALL_SUITES)
        return encode_frame(kind, change(hello).encode())

    return relay


@pytest.mark.parametrize("suite", ALL_SUITES)
def test_it_works_with_every_suite(suite: Suite) -> None:
    assert established_pair(suites=(suite,)).server_events == []


@pytest.mark.parametrize("suite", BOTH_KEMS)
@pytest.mark.parametrize("kind", list(FrameType)[:4])
def test_any_byte_of_any_handshake_frame_flipped(kind: FrameType, suite: Suite) -> None:
    lengths: dict[FrameType, int] = {}
    pair = make_pair(suites=(suite,))
    assert attempt(pair, lambda k, data: lengths.setdefault(k, len(data)) and data) is None
    assert pair.established
    for position in range(lengths[kind]):
        pair = make_pair(suites=(suite,))
        error = attempt(pair, lambda k, data, at=position: flip(data, at) if k is kind else data)
        # A flipped length may leave an end waiting for more: then nobody has accepted anything either.
        assert error is not None or not pair.established, position
        assert not pair.client.established, position
        assert kind is FrameType.SERVER_FINISH or not pair.server.established, position
    assert established_pair(suites=(suite,)).established


@pytest.mark.parametrize("suite", BOTH_KEMS)
def test_the_stream_cut_behind_any_byte(suite: Suite) -> None:
    whole = make_pair(suites=(suite,))
    whole.run()
    for kind in list(FrameType)[:4]:
        for keep in (0, 1, 7, 8, 9, 40):
            pair = make_pair(suites=(suite,))
            assert attempt(pair, lambda k, data, n=keep, cut=kind: data[:n] if k is cut else data) is None
            assert not pair.client.established
            side = pair.client if kind in (FrameType.SERVER_HELLO, FrameType.SERVER_FINISH) else pair.server
            with pytest.raises(UnavailableError, match="during the handshake"):
                side.eof_received()
            assert side.state is State.FAILED


def test_bytes_may_come_one_by_one() -> None:
    pair = make_pair()
    for _ in range(3):
        for byte in bytes(pair.client.data_to_send()):
            pair.server_step(bytes((byte,)))
        for byte in bytes(pair.server.data_to_send()):
            pair.client_step(bytes((byte,)))
    assert pair.established


# What a relay may put in a frame's place.


def test_another_clients_hello_gives_another_binding() -> None:
    other = ClientChannel(suites=(Suite.X25519_CHACHA20,), formats=(Format.LOCAL,)).data_to_send()
    pair = make_pair()
    error = attempt(pair, lambda kind, data: other if kind is FrameType.CLIENT_HELLO else data)
    assert isinstance(error, RejectedError)
    assert error.code == "FAKE_CHANNEL_BINDING"
    assert not pair.client.established


def test_wrong_nonce() -> None:
    pair = make_pair()

    class Forgetful(FakeAttester):
        def attest(self, expected: ExpectedBinding) -> Evidence:
            return super().attest(replace(expected, nonce=b"\x09" * 32))

    pair.attester = Forgetful()
    error = attempt(pair, lambda _, data: data)
    assert isinstance(error, RejectedError)
    assert error.code == "FAKE_NONCE"
    assert not pair.client.established


def test_wrong_binding() -> None:
    pair = make_pair()

    class Careless(FakeAttester):
        def attest(self, expected: ExpectedBinding) -> Evidence:
            return super().attest(replace(expected, channel_binding=b"\x09" * 32))

    pair.attester = Careless()
    error = attempt(pair, lambda _, data: data)
    assert isinstance(error, RejectedError)
    assert error.code == "FAKE_CHANNEL_BINDING"


@pytest.mark.parametrize("suite", BOTH_KEMS)
def test_swapped_kem_key(suite: Suite) -> None:
    pair = make_pair(suites=(suite,))
    mine = hpke.generate(suite.kem).public
    error = attempt(pair, rewrite(lambda hello: replace(hello, kem_public_key=mine)))
    assert isinstance(error, RejectedError)
    assert error.code == "FAKE_CHANNEL_BINDING"


def test_swapped_receipt_key() -> None:
    mine = PrivateKey.from_seed(b"\x0c" * 32).public.raw
    error = attempt(make_pair(), rewrite(lambda hello: replace(hello, receipt_public_key=mine)))
    assert isinstance(error, RejectedError)
    assert error.code == "FAKE_RECEIPT_KEY"


@pytest.mark.parametrize("key", sorted(SMALL_ORDER_ENCODINGS), ids=lambda key: key.hex()[:8])
def test_small_order_receipt_key(key: bytes) -> None:
    error = attempt(make_pair(), rewrite(lambda hello: replace(hello, receipt_public_key=key)))
    assert isinstance(error, RejectedError)
    assert error.code == "CHANNEL_RECEIPT_KEY"


def test_other_identity_limits_and_session_id() -> None:
    for change in (
        {"identity": replace_identity(security_mode="production")},
        {"limits": Limits(max_inflight=33)},
        {"session_id": bytes(16)},
    ):
        error = attempt(make_pair(), rewrite(lambda hello, c=change: replace(hello, **c)))
        assert isinstance(error, RejectedError)
        assert error.code == "FAKE_CHANNEL_BINDING"


def replace_identity(**changes: str) -> Identity:
    fields = {"runtime_version": IDENTITY.runtime_version, "security_mode": IDENTITY.security_mode, **changes}
    return Identity(fields["runtime_version"], fields["security_mode"], IDENTITY.models, IDENTITY.config_digest)


def test_evidence_of_another_session() -> None:
    earlier = make_pair()
    earlier.run()
    offer = next(event for event in earlier.client_events if isinstance(event, ServerOffer))
    old = EvidenceField("local", offer.evidence.document)
    error = attempt(make_pair(), rewrite(lambda hello: replace(hello, evidence=old)))
    assert isinstance(error, RejectedError)
    assert error.code == "FAKE_CHANNEL_BINDING"


def test_a_whole_earlier_answer_replayed() -> None:
    captured: list[bytes] = []
    attempt(make_pair(), lambda kind, data: captured.append(data) or data if kind is FrameType.SERVER_HELLO else data)
    pair = make_pair()
    error = attempt(pair, lambda kind, data: captured[0] if kind is FrameType.SERVER_HELLO else data)
    assert isinstance(error, RejectedError)
    assert not pair.client.established


def test_verified_evidence_of_another_offer_is_not_accepted() -> None:
    pair, other = make_pair(), make_pair()
    offers = []
    for side in (pair, other):
        side.server_step(bytes(side.client.data_to_send()))
        (offer,) = side.client.receive_data(side.server.data_to_send())
        assert isinstance(offer, ServerOffer)
        offers.append(offer)
    verified = other.attester.verify(offers[1].evidence, offers[1].expected)
    with pytest.raises(RejectedError) as raised:
        pair.client.accept(verified)
    assert raised.value.code == "CHANNEL_EVIDENCE"
    assert pair.client.data_to_send() == b""


@pytest.mark.parametrize("change", [{"receipt_key": b"\x01" * 32}, {"digest": b"\x01" * 32}, {"format": Format.NITRO}])
def test_each_part_of_verified_evidence_must_be_the_offers(change: dict[str, Any]) -> None:
    pair = make_pair()
    pair.server_step(bytes(pair.client.data_to_send()))
    (offer,) = pair.client.receive_data(pair.server.data_to_send())
    assert isinstance(offer, ServerOffer)
    verified = pair.attester.verify(offer.evidence, offer.expected)
    with pytest.raises(RejectedError) as raised:
        pair.client.accept(replace(verified, **change))
    assert raised.value.code == "CHANNEL_EVIDENCE"
    with pytest.raises(RuntimeError):
        pair.client.accept(verified)


def test_downgraded_suite_list() -> None:
    def relay(kind: FrameType, data: bytes) -> bytes:
        if kind is not FrameType.CLIENT_HELLO:
            return data
        hello = ClientHello.decode(data[HEADER_BYTES:])
        return encode_frame(kind, replace(hello, suites=(1,)).encode())

    pair = make_pair(suites=(Suite.HYBRID_AES256, Suite.X25519_CHACHA20))
    error = attempt(pair, relay)
    assert isinstance(error, RejectedError)
    assert error.code == "FAKE_CHANNEL_BINDING"


def test_suite_that_was_not_offered() -> None:
    pair = make_pair(suites=(Suite.HYBRID_AES256,))
    key = hpke.generate(Suite.X25519_CHACHA20.kem).public
    change = rewrite(lambda hello: replace(hello, suite=Suite.X25519_CHACHA20, kem_public_key=key))
    error = attempt(pair, change)
    assert isinstance(error, RejectedError)
    assert error.code == "CHANNEL_SUITE"


def test_evidence_format_that_was_not_asked_for() -> None:
    change = rewrite(lambda hello: replace(hello, evidence=replace(hello.evidence, format="nitro")))
    error = attempt(make_pair(), change)
    assert isinstance(error, RejectedError)
    assert error.code == "CHANNEL_EVIDENCE_FORMAT"


def test_gpu_evidence_is_the_one_that_the_identity_names() -> None:
    named = Identity("1", "production", (), b"\x01" * 32, gpu_evidence_digest=b"\x02" * 32)
    for endorsements in ({}, {"nvidia-gpu": b"another"}):
        evidence = EvidenceField("local", b"x", endorsements)
        error = attempt(make_pair(), rewrite(lambda hello, e=evidence: replace(hello, identity=named, evidence=e)))
        assert isinstance(error, RejectedError)
        assert error.code == "CHANNEL_GPU_EVIDENCE"


def test_finish_of_another_session() -> None:
    other = make_pair()
    other.server_step(bytes(other.client.data_to_send()))
    other.client_step(bytes(other.server.data_to_send()))
    finish = bytes(other.client.data_to_send())
    pair = make_pair()
    error = attempt(pair, lambda kind, data: finish if kind is FrameType.CLIENT_FINISH else data)
    assert isinstance(error, RejectedError)
    assert error.code == "HPKE_OPEN_FAILED"
    assert not pair.server.established
    assert not pair.client.established


def test_secrets_do_not_outlive_their_use() -> None:
    pair = established_pair()
    assert pair.server._kem_key is None
    assert pair.client._keys is None
    for end in ("eof", "alert", "fault"):
        pair = make_pair()
        pair.server_step(bytes(pair.client.data_to_send()))
        assert pair.server._kem_key is not None
        if end == "eof":
            with pytest.raises(UnavailableError):
                pair.server.eof_received()
        elif end == "alert":
            pair.server.alert(AlertCode.TIMEOUT)
        else:
            with pytest.raises(MalformedError):
                list(pair.server.receive_data(b"\xff"))
        assert pair.server._kem_key is None


# Alerts and what a server says to a hello it cannot take.


def answer(server: ServerChannel, hello: ClientHello) -> tuple[EphemeralError, Alert]:
    with pytest.raises((MalformedError, RejectedError)) as raised:
        list(server.receive_data(encode_frame(FrameType.CLIENT_HELLO, hello.encode())))
    data = bytes(server.data_to_send())
    assert data[0] == FrameType.ALERT
    with pytest.raises(RuntimeError):
        server.receive_data(b"")
    return raised.value, Alert.decode(data[HEADER_BYTES:])


@pytest.mark.parametrize(
    ("suites", "formats", "code"),
    [
        ((), ("local",), AlertCode.NO_COMMON_SUITE),
        ((4, 9, 70_000), ("local",), AlertCode.NO_COMMON_SUITE),
        ((1,), (), AlertCode.NO_COMMON_FORMAT),
        ((1,), ("tdx", "moon"), AlertCode.NO_COMMON_FORMAT),
    ],
)
def test_no_common_ground(suites: tuple[int, ...], formats: tuple[str, ...], code: AlertCode) -> None:
    error, alert = answer(ServerChannel(formats=(Format.LOCAL,)), ClientHello(suites, b"n" * 32, formats))
    assert isinstance(error, RejectedError)
    assert alert.code == code


@pytest.mark.parametrize(
    ("suites", "chosen"),
    [((9, 1, 2), 1), ((2, 1), 2), ((3, 3, 1), 3), ((65_536, 2), 2)],
    ids=["unknown-first", "order", "duplicate", "huge"],
)
def test_the_first_suite_that_is_known_is_taken(suites: tuple[int, ...], chosen: int) -> None:
    server = ServerChannel(formats=(Format.LOCAL,))
    hello = ClientHello(suites, b"n" * 32, ("moon", "local", "local"), {9: [1, {2: b"x"}]})
    (event,) = server.receive_data(encode_frame(FrameType.CLIENT_HELLO, hello.encode()))
    assert isinstance(event, HelloReceived)
    assert event.suite == chosen
    assert event.formats == ("local",)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (b"\x01\x00\x00\x02\x00\x00\x00\x01", AlertCode.VERSION),
        (b"\x01\x01\x00\x01\x00\x00\x00\x01", AlertCode.MALFORMED),
        (b"\x05\x00\x00\x01\x00\x00\x00\x01", AlertCode.MALFORMED),
        (b"\x00", AlertCode.MALFORMED),
        (b"\x01\x00\x00\x01\xff\xff\xff\xff", AlertCode.MALFORMED),
        (b"\x01\x00\x00\x01\x00\x00\x00\x00", AlertCode.MALFORMED),
    ],
    ids=["version", "reserved", "order", "type", "length", "empty"],
)
def test_a_server_says_why_a_frame_is_refused(header: bytes, code: AlertCode) -> None:
    server = ServerChannel(formats=(Format.LOCAL,))
    with pytest.raises(MalformedError):
        list(server.receive_data(header))
    data = bytes(server.data_to_send())
    assert Alert.decode(data[HEADER_BYTES:]).code == code


def test_an_alert_ends_the_clients_handshake() -> None:
    pair = make_pair()
    pair.server_step(bytes(pair.client.data_to_send()))
    pair.server.data_to_send()
    pair.server.alert(AlertCode.BUSY, "come\nback \x1b[31mlater é")
    (event,) = pair.client.receive_data(pair.server.data_to_send())
    assert isinstance(event, AlertReceived)
    assert event.describe() == 'unauthenticated alert 5 (busy): "come\\nback \\x1b[31mlater \\xe9"'
    assert pair.client.state is State.FAILED
    assert pair.client.data_to_send() == b""
    with pytest.raises(RuntimeError):
        pair.server.alert(AlertCode.BUSY)


def test_a_client_may_alert_too() -> None:
    pair = make_pair()
    pair.server_step(bytes(pair.client.data_to_send()))
    pair.client.alert(AlertCode.INTERNAL, "never mind")
    (event,) = pair.server.receive_data(pair.client.data_to_send())
    assert isinstance(event, AlertReceived)
    assert pair.server.state is State.FAILED


def test_an_alert_behind_server_finish_is_fatal() -> None:
    pair = established_pair()
    alert = encode_frame(FrameType.ALERT, Alert(5, "busy").encode())
    for side in (pair.client, pair.server):
        with pytest.raises(MalformedError, match="alert frame out of order"):
            list(side.receive_data(alert))
        assert side.state is State.FAILED


def test_no_alert_of_ours_once_established() -> None:
    pair = established_pair()
    for side in (pair.client, pair.server):
        with pytest.raises(RuntimeError):
            side.alert(AlertCode.INTERNAL)


def test_frames_out_of_order() -> None:
    for kind in (FrameType.CLIENT_FINISH, FrameType.RECORD, FrameType.SERVER_HELLO, FrameType.SERVER_FINISH):
        with pytest.raises(MalformedError, match="out of order"):
            list(ServerChannel(formats=(Format.LOCAL,)).receive_data(encode_frame(kind, b"x")))
    for kind in (FrameType.CLIENT_HELLO, FrameType.RECORD, FrameType.CLIENT_FINISH, FrameType.SERVER_FINISH):
        with pytest.raises(MalformedError, match="out of order"):
            list(ClientChannel(formats=(Format.LOCAL,)).receive_data(encode_frame(kind, b"x")))


def test_a_second_hello_while_evidence_is_made() -> None:
    hello = bytes(ClientChannel(formats=(Format.LOCAL,)).data_to_send())
    server = ServerChannel(formats=(Format.LOCAL,))
    events = server.receive_data(hello + hello)
    assert isinstance(next(events), HelloReceived)
    with pytest.raises(MalformedError, match="out of order"):
        next(events)


@pytest.mark.parametrize(
    ("suite", "key"), [(Suite.X25519_CHACHA20, bytes(32)), (Suite.HYBRID_CHACHA20, b"\xff" * 1216)]
)
def test_a_kem_key_that_is_none(suite: Suite, key: bytes) -> None:
    """Even evidence that binds such a key does not make it one."""
    client = ClientChannel(suites=(suite,), formats=(Format.LOCAL,))
    server = ServerChannel(formats=(Format.LOCAL,), make_key=lambda kem: replace(hpke.generate(kem), public=key))
    pair = Pair(client, server)
    error = attempt(pair, lambda _, data: data)
    assert isinstance(error, MalformedError)
    assert client.state is State.FAILED
    assert client.data_to_send() == b""


def test_arguments_that_no_caller_may_give() -> None:
    for arguments in (
        {"suites": (), "formats": (Format.LOCAL,)},
        {"formats": ()},
        {"formats": (Format.LOCAL,), "nonce": b"short"},
    ):
        with pytest.raises(ValueError, match=r"at least one|32 bytes"):
            ClientChannel(**arguments)  # type: ignore[arg-type]
    pair = make_pair()
    list(pair.server.receive_data(pair.client.data_to_send()))
    for key, session_id in ((b"short", None), (RECEIPT_KEY.public.raw, b"short")):
        with pytest.raises(ValueError, match="16 bytes and a receipt key 32"):
            pair.server.prepare(key, IDENTITY, session_id=session_id)


def test_a_second_offer_while_the_first_is_verified() -> None:
    pair = make_pair()
    pair.server_step(bytes(pair.client.data_to_send()))
    hello = bytes(pair.server.data_to_send())
    events = pair.client.receive_data(hello + hello)
    assert isinstance(next(events), ServerOffer)
    with pytest.raises(MalformedError, match="out of order"):
        next(events)


def test_out_of_order_use_is_the_callers_bug() -> None:
    pair = make_pair()
    verified = FakeAttester()
    expected = ExpectedBinding(RECEIPT_KEY.public.raw, b"b" * 32, b"n" * 32)
    evidence = verified.attest(expected)
    with pytest.raises(RuntimeError):
        pair.client.accept(verified.verify(evidence, expected))
    with pytest.raises(RuntimeError):
        pair.server.prepare(RECEIPT_KEY.public.raw, IDENTITY)
    with pytest.raises(RuntimeError):
        pair.server.send_hello(evidence)
    list(pair.server.receive_data(pair.client.data_to_send()))
    with pytest.raises(RuntimeError):
        pair.server.send_hello(evidence)
    pair.server.prepare(RECEIPT_KEY.public.raw, IDENTITY)
    with pytest.raises(RuntimeError):
        pair.server.prepare(RECEIPT_KEY.public.raw, IDENTITY)


def test_evidence_that_fits_no_frame() -> None:
    pair = make_pair()
    list(pair.server.receive_data(pair.client.data_to_send()))
    pair.server.prepare(RECEIPT_KEY.public.raw, IDENTITY)
    with pytest.raises(MalformedError, match="server_hello of"):
        pair.server.send_hello(Evidence(Format.LOCAL, bytes(3 << 20)))


def test_a_relay_sees_no_plaintext() -> None:
    from ephemeralml.channel import Body, Request

    prompt = b"the prompt that nobody may see"
    pair = make_pair()
    pair.run()
    pair.client.send(Request(1, "POST", "/v1/embeddings", {"authorization": "Bearer secret"}, None, fin=False))
    pair.client.send(Body(1, prompt, fin=True))
    pair.run()
    assert len(pair.captured) > 500
    for secret in (prompt, b"Bearer", b"/v1/embeddings", b"POST"):
        assert secret not in pair.captured
