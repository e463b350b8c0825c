"""Payloads of the handshake: closed maps, exact sizes, one encoding."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.channel import Suite
from ephemeralml.channel.hello import (
    MAX_HELLO_ITEMS,
    Alert,
    ClientFinish,
    ClientHello,
    EvidenceField,
    Identity,
    Limits,
    ModelEntry,
    ServerFinish,
    ServerHello,
)
from ephemeralml.crypto import cbor
from ephemeralml.errors import MalformedError, RejectedError

MODEL = ["minilm", "1.0.0", b"m" * 32, "sha256-manifest"]
IDENTITY: dict[int, Any] = {1: "0.1.0", 2: "production", 3: [MODEL], 4: b"c" * 32}
LIMITS: dict[int, Any] = {1: 1 << 20, 2: 32, 3: 300, 4: 1 << 24}
EVIDENCE: dict[int, Any] = {1: "nitro", 2: b"document"}
CLIENT_HELLO: dict[int, Any] = {1: [3, 2, 1, 77], 2: b"n" * 32, 3: ["nitro"]}
SERVER_HELLO: dict[int, Any] = {
    1: 1, 2: b"s" * 16, 3: b"k" * 32, 4: b"r" * 32, 5: cbor.encode(IDENTITY), 6: LIMITS, 7: EVIDENCE,
}  # fmt: skip
FINISH: dict[int, Any] = {1: b"e" * 80, 2: b"f" * 32}


def client_hello(value: Any) -> ClientHello:
    return ClientHello.decode(cbor.encode(value))


def server_hello(value: Any, offered: tuple[int, ...] = (1, 2, 3)) -> ServerHello:
    return ServerHello.decode(cbor.encode(value), offered=offered)


def identity(value: Any) -> Identity:
    return Identity.decode(cbor.encode(value))


READERS: dict[str, tuple[Any, dict[int, Any]]] = {
    "client_hello": (client_hello, CLIENT_HELLO),
    "server_hello": (server_hello, SERVER_HELLO),
    "identity": (identity, IDENTITY),
    "limits": (Limits.parse, LIMITS),
    "evidence": (EvidenceField.parse, EVIDENCE),
    "client_finish": (lambda v: ClientFinish.decode(cbor.encode(v), suite=Suite.X25519_CHACHA20), FINISH),
    "server_finish": (lambda v: ServerFinish.decode(cbor.encode(v)), {1: b"f" * 32}),
    "alert": (lambda v: Alert.decode(cbor.encode(v)), {1: 5, 2: "busy"}),
}
EACH = pytest.mark.parametrize("name", READERS)


@EACH
def test_the_whole_map_is_read(name: str) -> None:
    read, fields = READERS[name]
    assert read(fields) is not None


@EACH
def test_closed_maps(name: str) -> None:
    read, fields = READERS[name]
    for extra in (9, 0, "1", b"1", -1):
        with pytest.raises(MalformedError, match="unknown key"):
            read({**fields, extra: 1})
    for key in fields:
        with pytest.raises(MalformedError, match=f"lacks key {key}"):
            read({k: v for k, v in fields.items() if k != key})
    for other in ([1], 1, b"", None):
        with pytest.raises(MalformedError, match="not a map"):
            read(other)


@EACH
def test_every_field_of_another_type(name: str) -> None:
    read, fields = READERS[name]
    for key, value in fields.items():
        for wrong in (None, True, -1, b"", "x", [], {}, 2**64 - 1, [None], {1: 1}):
            if type(wrong) is type(value) or (name == "alert" and key == 1 and wrong == 2**64 - 1):
                continue
            if (name == "limits" and type(wrong) is int) or (type(wrong) is list and type(value) is list):
                continue
            with pytest.raises((MalformedError, RejectedError)):
                read({**fields, key: wrong})


@pytest.mark.parametrize(
    ("name", "key", "sizes"),
    [
        ("client_hello", 2, (0, 31, 33)), ("server_hello", 2, (0, 15, 17)), ("server_hello", 3, (0, 31, 33, 1216)),
        ("server_hello", 4, (0, 31, 33)), ("identity", 4, (0, 31, 33)), ("client_finish", 1, (0, 79, 81, 1168)),
        ("client_finish", 2, (0, 31, 33)), ("server_finish", 1, (0, 31, 33)),
    ],
)  # fmt: skip
def test_sizes(name: str, key: int, sizes: tuple[int, ...]) -> None:
    read, fields = READERS[name]
    for size in sizes:
        with pytest.raises(MalformedError, match="bytes, not"):
            read({**fields, key: bytes(size)})


@pytest.mark.parametrize("suite", [Suite.HYBRID_CHACHA20, Suite.HYBRID_AES256])
def test_hybrid_sizes(suite: Suite) -> None:
    assert server_hello({**SERVER_HELLO, 1: int(suite), 3: bytes(1216)}).suite is suite
    assert ClientFinish.decode(cbor.encode({1: bytes(1168), 2: bytes(32)}), suite=suite)
    for size in (32, 1215, 1217):
        with pytest.raises(MalformedError):
            server_hello({**SERVER_HELLO, 1: int(suite), 3: bytes(size)})
    for size in (80, 1167, 1169):
        with pytest.raises(MalformedError):
            ClientFinish.decode(cbor.encode({1: bytes(size), 2: bytes(32)}), suite=suite)


def test_suites_offered_and_known() -> None:
    for number, offered in ((2, (1,)), (4, (4,)), (0, (0, 1))):
        with pytest.raises(RejectedError) as raised:
            server_hello({**SERVER_HELLO, 1: number}, offered)
        assert raised.value.code == "CHANNEL_SUITE"


def test_unknown_suites_and_extensions_are_read_over() -> None:
    hello = client_hello({**CLIENT_HELLO, 4: {1: b"x", 99: [1, "y"]}})
    assert hello.suites == (3, 2, 1, 77)
    assert hello.extensions == {1: b"x", 99: [1, "y"]} or hello.extensions[99] == (1, "y")
    for bad in ({"x": 1}, {-1: 1}, [], None):
        with pytest.raises(MalformedError, match="extensions"):
            client_hello({**CLIENT_HELLO, 4: bad})


def test_empty_lists_are_read_as_such() -> None:
    hello = client_hello({**CLIENT_HELLO, 1: [], 3: []})
    assert hello.suites == ()
    assert hello.formats == ()


@pytest.mark.parametrize("key", [1, 3])
@pytest.mark.parametrize("wrong", [[None], [-1], [b"x"], [[1]]])
def test_lists_of_something_else(key: int, wrong: list[Any]) -> None:
    with pytest.raises(MalformedError):
        client_hello({**CLIENT_HELLO, key: wrong})


def test_a_hello_of_very_many_items() -> None:
    with pytest.raises(MalformedError, match="items"):
        client_hello({**CLIENT_HELLO, 1: [1] * (MAX_HELLO_ITEMS + 1)})


@pytest.mark.parametrize(
    "entry",
    [
        MODEL[:3], [*MODEL, 1], [1, *MODEL[1:]], [MODEL[0], None, *MODEL[2:]], [*MODEL[:2], b"m" * 31, MODEL[3]],
        [*MODEL[:2], "m" * 32, MODEL[3]], [*MODEL[:3], b"scheme"], {1: 2}, "model",
    ],
)  # fmt: skip
def test_model_entries(entry: Any) -> None:
    with pytest.raises(MalformedError):
        identity({**IDENTITY, 3: [entry]})


def test_one_version_of_a_model_once() -> None:
    other = [MODEL[0], "2.0.0", *MODEL[2:]]
    assert len(identity({**IDENTITY, 3: [MODEL, other]}).models) == 2
    with pytest.raises(MalformedError, match="twice"):
        identity({**IDENTITY, 3: [MODEL, [*MODEL[:2], b"o" * 32, MODEL[3]]]})


def test_an_identity_is_its_encoding() -> None:
    gpu = {**IDENTITY, 5: b"g" * 32}
    read = identity(gpu)
    assert read.encoded == cbor.encode(gpu)
    assert read == Identity("0.1.0", "production", (ModelEntry(*MODEL),), b"c" * 32, b"g" * 32)
    assert read.gpu_evidence_digest == b"g" * 32
    for wrong in (b"g" * 31, None, "g"):
        with pytest.raises(MalformedError):
            identity({**IDENTITY, 5: wrong})


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [(1, 1 << 20, True), (1, (1 << 20) + 1, False), (1, 64, True), (1, 63, False), (1, 0, False),
     (2, 1, True), (2, 0, False), (3, 0, True), (4, 0, True)],
)  # fmt: skip
def test_limits(key: int, value: int, good: bool) -> None:
    if good:
        limits = Limits.parse({**LIMITS, key: value})
        assert cbor.decode(limits.encode(), max_bytes=100) == {**LIMITS, key: value}
    else:
        with pytest.raises(MalformedError):
            Limits.parse({**LIMITS, key: value})


def test_evidence_with_endorsements() -> None:
    evidence = EvidenceField.parse({**EVIDENCE, 3: {"nvidia-gpu": b"bundle"}})
    assert evidence.endorsements == {"nvidia-gpu": b"bundle"}
    assert evidence.fields() == {**EVIDENCE, 3: {"nvidia-gpu": b"bundle"}}
    for wrong in (None, [], {1: b""}, {"x": "y"}):
        with pytest.raises(MalformedError):
            EvidenceField.parse({**EVIDENCE, 3: wrong})


def test_alert_texts() -> None:
    assert Alert.decode(Alert(1, "é" * 150).encode()).text == "é" * 100
    assert len(Alert(1, "€" * 99).encode()) < 256
    Alert.decode(cbor.encode({1: 1, 2: "x" * 200}))
    with pytest.raises(MalformedError, match="200 bytes"):
        Alert.decode(cbor.encode({1: 1, 2: "x" * 201}))
    with pytest.raises(MalformedError, match="200 bytes"):
        Alert.decode(cbor.encode({1: 1, 2: "é" * 101}))
    assert Alert(99, 'say "\\\x00').describe() == 'unauthenticated alert 99 (unknown): "say "\\\\\\x00"'


@EACH
def test_trailing_and_indefinite_bytes(name: str) -> None:
    readers: dict[str, Any] = {
        "client_hello": ClientHello.decode,
        "server_hello": lambda b: ServerHello.decode(b, offered=(1,)),
        "identity": Identity.decode,
        "client_finish": lambda b: ClientFinish.decode(b, suite=Suite.X25519_CHACHA20),
        "server_finish": ServerFinish.decode,
        "alert": Alert.decode,
    }
    if name not in readers:
        return
    good = cbor.encode(READERS[name][1])
    readers[name](good)
    for bad in (good + b"\x00", b"\xbf" + good[1:] + b"\xff", good[:-1], b"\xb8" + bytes((good[0] & 31,)) + good[1:]):
        with pytest.raises(MalformedError):
            readers[name](bad)


@pytest.mark.fuzz
@given(
    st.binary(max_size=120)
    | st.dictionaries(
        st.integers(0, 8),
        st.integers(0, 3)
        | st.binary(max_size=33)
        | st.text(max_size=5)
        | st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=3),
    ).map(cbor.encode)
)
def test_only_our_errors_leave(data: bytes) -> None:
    for read in (
        ClientHello.decode,
        lambda b: ServerHello.decode(b, offered=(1, 2, 3)),
        Identity.decode,
        lambda b: ClientFinish.decode(b, suite=Suite.HYBRID_AES256),
        ServerFinish.decode,
        Alert.decode,
    ):
        try:
            read(data)
        except (MalformedError, RejectedError):
            continue


@pytest.mark.fuzz
@given(st.data())
def test_mutated_hellos(data: st.DataObject) -> None:
    raw = bytearray(cbor.encode(data.draw(st.sampled_from([CLIENT_HELLO, SERVER_HELLO, FINISH]))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    test_only_our_errors_leave.hypothesis.inner_test(bytes(raw))  # type: ignore[attr-defined]
