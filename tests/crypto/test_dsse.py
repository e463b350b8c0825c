"""DSSE envelopes: one signature, one key id, one way to write them."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import dsse
from ephemeralml.crypto.keys import PrivateKey, PublicKey
from ephemeralml.errors import MalformedError, RejectedError

TYPE = "application/vnd.example+json"
PAYLOAD = b'{"a": 1}'
KEY = PrivateKey.from_seed(bytes(range(32)))
OTHER = PrivateKey.from_seed(bytes(32))
LIMIT = 10_000


def parse(data: bytes) -> dsse.Envelope:
    return dsse.parse(data, max_bytes=LIMIT)


def document() -> dict[str, Any]:
    return json.loads(dsse.seal(TYPE, PAYLOAD, KEY))


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    envelope = document()
    change(envelope)
    return json.dumps(envelope).encode()


def test_pre_authentication_encoding() -> None:
    """The example of the DSSE protocol's text."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == expected


def test_encoding_counts_bytes_of_utf8() -> None:
    assert dsse.pae("ü", "ü".encode()) == b"DSSEv1 2 \xc3\xbc 2 \xc3\xbc"


def test_round_trip() -> None:
    envelope = parse(dsse.seal(TYPE, PAYLOAD, KEY))
    assert (envelope.payload_type, envelope.payload, envelope.keyid) == (TYPE, PAYLOAD, KEY.public.keyid)
    assert envelope.verify((OTHER.public, KEY.public), payload_type=TYPE) == KEY.public
    assert envelope.signature == KEY.sign(dsse.pae(TYPE, PAYLOAD))


def test_unsigned() -> None:
    envelope = parse(dsse.seal(TYPE, PAYLOAD, None))
    assert (envelope.keyid, envelope.signature) == (None, None)
    with pytest.raises(RejectedError, match="not signed") as caught:
        envelope.verify((KEY.public,), payload_type=TYPE)
    assert caught.value.code == "UNSIGNED"


def test_another_payload_type() -> None:
    with pytest.raises(RejectedError) as caught:
        parse(dsse.seal("application/x", PAYLOAD, KEY)).verify((KEY.public,), payload_type=TYPE)
    assert (caught.value.code, caught.value.expected) == ("PAYLOAD_TYPE_MISMATCH", TYPE)


@pytest.mark.parametrize("keys", [(), (OTHER.public,)])
def test_unknown_signer(keys: tuple[PublicKey, ...]) -> None:
    with pytest.raises(RejectedError, match=KEY.public.keyid) as caught:
        parse(dsse.seal(TYPE, PAYLOAD, KEY)).verify(keys, payload_type=TYPE)
    assert caught.value.code == "SIGNER_UNKNOWN"


def spoil_payload(envelope: dict[str, Any]) -> None:
    envelope["payload"] = base64.b64encode(PAYLOAD + b" ").decode()


def spoil_signature(envelope: dict[str, Any]) -> None:
    envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()


def shorten_signature(envelope: dict[str, Any]) -> None:
    envelope["signatures"][0]["sig"] = ""


def borrow_key_id(envelope: dict[str, Any]) -> None:
    envelope["signatures"][0]["sig"] = base64.b64encode(OTHER.sign(dsse.pae(TYPE, PAYLOAD))).decode()


@pytest.mark.parametrize("change", [spoil_payload, spoil_signature, shorten_signature, borrow_key_id])
def test_signature_that_does_not_fit(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(RejectedError) as caught:
        parse(changed(change)).verify((KEY.public, OTHER.public), payload_type=TYPE)
    assert caught.value.code == "SIGNATURE_INVALID"


def test_right_signature_under_another_key_id() -> None:
    data = changed(lambda envelope: envelope["signatures"][0].update(keyid=OTHER.public.keyid))
    with pytest.raises(RejectedError) as caught:
        parse(data).verify((KEY.public, OTHER.public), payload_type=TYPE)
    assert caught.value.code == "SIGNATURE_INVALID"


def test_type_is_signed_too() -> None:
    envelope = parse(changed(lambda envelope: envelope.update(payloadType="application/other")))
    with pytest.raises(RejectedError) as caught:
        envelope.verify((KEY.public,), payload_type="application/other")
    assert caught.value.code == "SIGNATURE_INVALID"


def signature(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda envelope: envelope["signatures"][0].update(fields)


def top(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda envelope: envelope.update(fields)


MALFORMED = {
    "unknown field": top(extra=1),
    "no payload": lambda envelope: envelope.pop("payload"),
    "no type": lambda envelope: envelope.pop("payloadType"),
    "no signatures": lambda envelope: envelope.pop("signatures"),
    "type is a number": top(payloadType=1),
    "type is null": top(payloadType=None),
    "type with an escape sequence": top(payloadType="\x1b[31m"),
    "type beyond ASCII": top(payloadType="application/ü"),
    "type too long": top(payloadType="a" * 256),
    "payload is bytes of ints": top(payload=[1, 2]),
    "payload is null": top(payload=None),
    "payload in base64url": top(payload="_-8="),
    "payload without padding": top(payload="YQ"),
    "payload with loose bits": top(payload="YR=="),
    "payload with a newline": top(payload="YWJj\nYWJj"),
    "payload with a space": top(payload="YWJj YWJj"),
    "payload beyond ASCII": top(payload="YWJjü"),
    "payload padded twice": top(payload="YWI=YWI="),
    "payload too long": top(payload=base64.b64encode(bytes(LIMIT + 1)).decode()),
    "signatures is an object": top(signatures={}),
    "signatures is null": top(signatures=None),
    "two signatures": lambda envelope: envelope["signatures"].append(envelope["signatures"][0]),
    "signature is text": top(signatures=["x"]),
    "signature is a number": top(signatures=[1]),
    "signature is null": top(signatures=[None]),
    "signature with a third field": signature(cert="x"),
    "signature without key id": lambda envelope: envelope["signatures"][0].pop("keyid"),
    "signature without sig": lambda envelope: envelope["signatures"][0].pop("sig"),
    "key id is a number": signature(keyid=1),
    "key id is null": signature(keyid=None),
    "key id is empty": signature(keyid=""),
    "key id in upper case": signature(keyid=KEY.public.keyid.upper()),
    "key id with a newline": signature(keyid=KEY.public.keyid + "\n"),
    "key id too long": signature(keyid=KEY.public.keyid + "00"),
    "sig is a number": signature(sig=1),
    "sig is not base64": signature(sig="?"),
}


@pytest.mark.parametrize("change", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(MalformedError, match="DSSE"):
        parse(changed(change))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b'{"payload":"","payload":""}', PAYLOAD])
def test_no_envelope(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse(data)


def test_limit_is_of_the_payload() -> None:
    assert len(parse(dsse.seal(TYPE, bytes(LIMIT), KEY)).payload) == LIMIT
    with pytest.raises(MalformedError, match="at most"):
        dsse.parse(dsse.seal(TYPE, b"12", KEY), max_bytes=1)
    with pytest.raises(MalformedError, match="at most"):
        parse(b" " * 200_000 + dsse.seal(TYPE, PAYLOAD, KEY))


def test_longest_type() -> None:
    assert parse(dsse.seal("a" * 255, PAYLOAD, KEY)).payload_type == "a" * 255


def test_what_looks_like_an_envelope() -> None:
    assert dsse.looks_like_envelope(document())
    assert dsse.looks_like_envelope({"signatures": []})
    assert dsse.looks_like_envelope({"payloadType": TYPE})
    assert not dsse.looks_like_envelope({"schema": "x", "payload": ""})


@given(st.binary(max_size=200))
def test_any_payload_survives(payload: bytes) -> None:
    envelope = parse(dsse.seal(TYPE, payload, KEY))
    assert envelope.payload == payload
    assert envelope.verify((KEY.public,), payload_type=TYPE) == KEY.public


@pytest.mark.fuzz
@given(st.data())
def test_edited_envelopes_never_verify(data: st.DataObject) -> None:
    text = bytearray(dsse.seal(TYPE, PAYLOAD, KEY))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        text[start : start + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        envelope = parse(bytes(text))
        envelope.verify((KEY.public,), payload_type=TYPE)
    except (MalformedError, RejectedError):
        return
    assert json.loads(text) == document()
