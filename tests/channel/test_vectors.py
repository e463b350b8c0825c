"""The package against its known answers, which `tests/vectors/channel/generate.py` makes without it."""

import importlib.util
import json
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ephemeralml.attestation.evidence import AppraisalTime, Evidence, Format, TimeBasis, VerifiedEvidence
from ephemeralml.attestation.verdict import Assurance
from ephemeralml.channel import (
    ClientChannel,
    Established,
    HelloReceived,
    Identity,
    ServerChannel,
    ServerOffer,
    Suite,
    key_schedule,
)
from ephemeralml.channel.frames import FrameType, encode_frame
from ephemeralml.channel.key_schedule import DirectionKey
from ephemeralml.channel.records import Opener, Sealer
from ephemeralml.crypto.hpke import Kem, RecipientKey

FOLDER = Path(__file__).resolve().parent.parent / "vectors" / "channel"
VECTORS = json.loads((FOLDER / "vectors.json").read_text())
HANDSHAKES = VECTORS["handshakes"]
BY_SUITE = pytest.mark.parametrize("vector", HANDSHAKES, ids=lambda v: f"suite{v['suite']}")


def raw(vector: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(vector[name])


def recipient(vector: dict[str, Any]) -> RecipientKey:
    kem = {name: bytes.fromhex(value) for name, value in vector["kem"].items()}
    x25519 = X25519PrivateKey.from_private_bytes(kem["x25519_private"])
    if vector["suite"] == 1:
        return RecipientKey(Kem.X25519, kem["public"], x25519)
    lattice = MLKEM768PrivateKey.from_seed_bytes(kem["ml_kem_seed"])
    return RecipientKey(Kem.X_WING, kem["public"], library.MLKEM768X25519PrivateKey(lattice, x25519))


def believed(evidence: Evidence, receipt_key: bytes) -> VerifiedEvidence:
    at = AppraisalTime(TimeBasis.NOW, None, "clock")
    return VerifiedEvidence(
        evidence.format, evidence.digest, receipt_key, None, MappingProxyType({}), True, False, Assurance.DOCUMENT, at
    )


def test_the_generator_makes_the_same_bytes_again() -> None:
    assert load_generator().generate() == (FOLDER / "vectors.json").read_text()


def test_the_generator_shares_no_code_with_the_package() -> None:
    source = (FOLDER / "generate.py").read_text()
    assert "import ephemeralml" not in source
    assert "from ephemeralml" not in source


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("channel_vectors_generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@BY_SUITE
def test_key_schedule(vector: dict[str, Any]) -> None:
    inputs = key_schedule.BindingInputs(
        client_hello=raw(vector, "client_hello"),
        suite=vector["suite"],
        session_id=raw(vector, "session_id"),
        kem_public_key=bytes.fromhex(vector["kem"]["public"]),
        receipt_key=raw(vector, "receipt_public_key"),
        identity=raw(vector, "identity"),
        limits=raw(vector, "limits"),
    )
    assert inputs.binding() == raw(vector, "binding")
    th1 = key_schedule.transcript(raw(vector, "client_hello"), raw(vector, "server_hello"))
    assert th1 == raw(vector, "th1")
    assert key_schedule.hpke_info(th1) == raw(vector, "hpke_info")
    th2 = key_schedule.transcript2(th1, raw(vector, "sealed"))
    assert th2 == raw(vector, "th2")
    keys = key_schedule.derive(raw(vector, "session_secret"), th2)
    assert keys.c2s == DirectionKey(raw(vector, "key_c2s"), raw(vector, "iv_c2s"))
    assert keys.s2c == DirectionKey(raw(vector, "key_s2c"), raw(vector, "iv_s2c"))
    assert keys.confirm_client == raw(vector, "confirm_client")
    assert keys.confirm_server == raw(vector, "confirm_server")


@BY_SUITE
def test_records(vector: dict[str, Any]) -> None:
    suite, session_id = Suite(vector["suite"]), raw(vector, "session_id")
    for item in vector["records"]:
        key = DirectionKey(raw(item, "key"), raw(item, "iv"))
        if item["generation"] and item["sequence"] == item["generation"] << 16:
            continue  # made from the generation before: see the next test
        sealer = Sealer(suite, key, session_id, sequence=item["sequence"])
        assert sealer.seal_frame((raw(item, "plaintext"),)) == raw(item, "frame")
        opener = Opener(suite, key, session_id, sequence=item["sequence"])
        assert opener.open(raw(item, "payload")) == raw(item, "plaintext")


@BY_SUITE
@pytest.mark.parametrize("direction", ["c2s", "s2c"])
def test_records_across_generations(vector: dict[str, Any], direction: str) -> None:
    suite, session_id = Suite(vector["suite"]), raw(vector, "session_id")
    items = [item for item in vector["records"] if item["direction"] == direction]
    for before, after in ((0, 1), (1, 2)):
        first = next(item for item in items if item["generation"] == before)
        key = DirectionKey(raw(first, "key"), raw(first, "iv"))
        sealer = Sealer(suite, key, session_id, sequence=(after << 16) - 1)
        opener = Opener(suite, key, session_id, sequence=(after << 16) - 1)
        opener.open(sealer.seal(b"last of its generation"))
        for item in (item for item in items if item["generation"] == after):
            assert sealer.seal(raw(item, "plaintext")) == raw(item, "payload")
            assert opener.open(raw(item, "payload")) == raw(item, "plaintext")


@BY_SUITE
def test_both_ends_say_exactly_this(vector: dict[str, Any]) -> None:
    draws = iter((raw(vector, "client_nonce"), raw(vector, "session_secret")))
    client = ClientChannel(
        suites=[vector["suite"], 9999],  # type: ignore[list-item]
        formats=(Format.NITRO, Format.LOCAL),
        extensions={7: "ignored"},
        random=lambda _: next(draws),
        seal=lambda *_: raw(vector, "sealed"),
    )
    server = ServerChannel(
        formats=(Format.LOCAL,), random=lambda _: raw(vector, "session_id"), make_key=lambda _: recipient(vector)
    )

    up = bytes(client.data_to_send())
    assert up == encode_frame(FrameType.CLIENT_HELLO, raw(vector, "client_hello"))
    (hello,) = server.receive_data(up)
    assert isinstance(hello, HelloReceived)
    prepared = server.prepare(raw(vector, "receipt_public_key"), Identity.decode(raw(vector, "identity")))
    assert prepared.binding == raw(vector, "binding")
    server.send_hello(Evidence(Format.LOCAL, raw(vector, "evidence_document")))
    down = bytes(server.data_to_send())
    assert down == encode_frame(FrameType.SERVER_HELLO, raw(vector, "server_hello"))

    (offer,) = client.receive_data(down)
    assert isinstance(offer, ServerOffer)
    assert offer.binding == raw(vector, "binding")
    client.accept(believed(offer.evidence, offer.receipt_key))
    up = bytes(client.data_to_send())
    assert up == raw(vector, "client_finish_frame")
    assert [type(event) for event in server.receive_data(up)] == [Established]
    down = bytes(server.data_to_send())
    assert down == raw(vector, "server_finish_frame")
    assert [type(event) for event in client.receive_data(down)] == [Established]
