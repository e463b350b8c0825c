"""Makes the channel's known-answer vectors: `python tests/vectors/channel/generate.py`.

Written from the channel's specification with hashlib, hmac and bare ciphers,
and imports nothing of the package, so that the vectors are a second opinion.
HPKE over X25519 (RFC 9180) is done here with a fixed ephemeral key. ML-KEM
cannot be made to repeat itself, so for the hybrid suites one sealed session
secret each is recorded in `hybrid.json`; `--record` draws new ones.
"""

import argparse
import hashlib
import hmac
import json
import struct
from pathlib import Path
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

FOLDER = Path(__file__).resolve().parent
VECTORS = FOLDER / "vectors.json"
RECORDED = FOLDER / "hybrid.json"

LABEL = b"ephemeralml/channel/1/"


def fill(name: str, count: int) -> bytes:
    """Return *count* bytes that look random and depend on *name* alone."""
    return hashlib.shake_256(b"ephemeralml channel vectors: " + name.encode()).digest(count)


def lp(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    assert length <= 32
    return hmac.digest(prk, info + b"\x01", "sha256")[:length]


def canonical(value: Any) -> bytes:
    return cbor2.dumps(value, canonical=True)


def frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BBHI", kind, 0, 1, len(payload)) + payload


def hpke_x25519(ephemeral: bytes, recipient: bytes, info: bytes, plaintext: bytes) -> bytes:
    """RFC 9180 base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, empty aad."""
    private = X25519PrivateKey.from_private_bytes(ephemeral)
    enc = private.public_key().public_bytes_raw()
    dh = private.exchange(X25519PublicKey.from_public_bytes(recipient))
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x03"

    def labeled_extract(suite_id: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return extract(salt, b"HPKE-v1" + suite_id + label + ikm)

    def labeled_expand(suite_id: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
        return expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite_id + label + info, length)

    eae = labeled_extract(kem, b"", b"eae_prk", dh)
    shared = labeled_expand(kem, eae, b"shared_secret", enc + recipient, 32)
    context = (
        b"\x00" + labeled_extract(suite, b"", b"psk_id_hash", b"") + labeled_extract(suite, b"", b"info_hash", info)
    )
    secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, secret, b"key", context, 32)
    nonce = labeled_expand(suite, secret, b"base_nonce", context, 12)
    return enc + ChaCha20Poly1305(key).encrypt(nonce, plaintext, b"")


def hpke_hybrid(suite: int, public: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Seal to an X-Wing key; another result every time."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

    aead = hpke.AEAD.AES_256_GCM if suite == 3 else hpke.AEAD.CHACHA20_POLY1305
    key = hpke.MLKEM768X25519PublicKey(
        MLKEM768PublicKey.from_public_bytes(public[:1184]), X25519PublicKey.from_public_bytes(public[1184:])
    )
    return hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, aead).encrypt(plaintext, key, info)


def kem_key(suite: int) -> dict[str, bytes]:
    x25519 = fill(f"{suite} kem x25519", 32)
    public = X25519PrivateKey.from_private_bytes(x25519).public_key().public_bytes_raw()
    if suite == 1:
        return {"x25519_private": x25519, "public": public}
    seed = fill(f"{suite} kem ml-kem seed", 64)
    lattice = MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    return {"x25519_private": x25519, "ml_kem_seed": seed, "public": lattice + public}


def next_generation(key: bytes, iv: bytes) -> tuple[bytes, bytes]:
    prk = extract(LABEL + b"rekey", key + iv)
    return expand(prk, b"key", 32), expand(prk, b"iv", 12)


def record(suite: int, key: bytes, iv: bytes, session_id: bytes, sequence: int, plaintext: bytes) -> bytes:
    nonce = (int.from_bytes(iv, "big") ^ sequence).to_bytes(12, "big")
    aad = b"\x05\x00\x00\x01" + session_id + struct.pack(">Q", sequence)
    return (AESGCM if suite == 3 else ChaCha20Poly1305)(key).encrypt(nonce, plaintext, aad)


def records(suite: int, keys: dict[str, bytes], session_id: bytes) -> list[dict[str, Any]]:
    plaintexts = {
        "c2s": canonical([0, 1, "POST", "/v1/embeddings", {"content-type": "application/json"}, None, False]),
        "s2c": canonical([1, 1, b'{"object":"list"}', True]),
    }
    made = []
    for direction, plaintext in plaintexts.items():
        key, iv = keys[f"key_{direction}"], keys[f"iv_{direction}"]
        for generation in range(3):
            first = generation << 16
            for sequence in {0: (0, 1, 65535)}.get(generation, (first, first + 1)):
                payload = record(suite, key, iv, session_id, sequence, plaintext)
                made.append({
                    "direction": direction, "generation": generation, "sequence": sequence, "key": key, "iv": iv,
                    "plaintext": plaintext, "payload": payload, "frame": frame(5, payload),
                })  # fmt: skip
            key, iv = next_generation(key, iv)
    return made


def handshake(suite: int, recorded: dict[str, str], *, record_anew: bool) -> dict[str, Any]:
    kem = kem_key(suite)
    session_id, receipt = fill(f"{suite} session id", 16), fill("receipt key", 32)
    nonce, secret = fill(f"{suite} nonce", 32), fill(f"{suite} session secret", 32)
    client_hello = canonical({1: [suite, 9999], 2: nonce, 3: ["nitro", "local"], 4: {7: "ignored"}})
    identity = canonical({
        1: "0.1.0", 2: "production",
        3: [["minilm", "1.0.0", fill("model hash", 32), "sha256-manifest"]], 4: fill("config", 32),
    })  # fmt: skip
    limits = {1: 1 << 20, 2: 32, 3: 300, 4: 16 << 20}
    evidence = {1: "local", 2: fill("evidence", 100)}
    server_hello = canonical(
        {1: suite, 2: session_id, 3: kem["public"], 4: receipt, 5: identity, 6: limits, 7: evidence}
    )
    binding = sha256(
        lp(LABEL + b"binding") + lp(client_hello) + struct.pack(">H", suite) + lp(session_id) + lp(kem["public"])
        + lp(receipt) + lp(sha256(identity)) + lp(canonical(limits))
    )  # fmt: skip
    th1 = sha256(lp(LABEL + b"transcript") + lp(client_hello) + lp(server_hello))
    info = lp(LABEL + b"hpke") + th1
    if suite == 1:
        sealed = hpke_x25519(fill("ephemeral", 32), kem["public"], info, secret)
    elif record_anew:
        sealed = hpke_hybrid(suite, kem["public"], info, secret)
        recorded[str(suite)] = sealed.hex()
    else:
        sealed = bytes.fromhex(recorded[str(suite)])
    th2 = sha256(lp(LABEL + b"transcript2") + th1 + lp(sealed))
    prk = extract(th2, secret)
    keys = {f"{what}_{way}": expand(prk, LABEL + f"{what} {way}".encode(), size)
            for what, size in (("key", 32), ("iv", 12)) for way in ("c2s", "s2c")}  # fmt: skip
    confirm = {side: hmac.digest(expand(prk, LABEL + b"confirm " + side.encode(), 32), th2, "sha256")
               for side in ("client", "server")}  # fmt: skip
    return {
        "suite": suite, "client_nonce": nonce, "session_id": session_id, "kem": kem, "receipt_public_key": receipt,
        "evidence_document": evidence[2], "identity": identity, "limits": canonical(limits),
        "client_hello": client_hello, "server_hello": server_hello, "binding": binding, "th1": th1,
        "hpke_info": info, "session_secret": secret, "sealed": sealed, "th2": th2, "prk": prk, **keys,
        "confirm_client": confirm["client"], "confirm_server": confirm["server"],
        "client_finish_frame": frame(3, canonical({1: sealed, 2: confirm["client"]})),
        "server_finish_frame": frame(4, canonical({1: confirm["server"]})),
        "records": records(suite, keys, session_id),
    }  # fmt: skip


def as_hex(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: as_hex(item) for key, item in value.items()}
    return [as_hex(item) for item in value] if isinstance(value, list) else value


def generate(*, record_anew: bool = False) -> str:
    """Return the vectors as they stand in `vectors.json`."""
    recorded: dict[str, str] = {} if record_anew else json.loads(RECORDED.read_text())
    made = [handshake(suite, recorded, record_anew=record_anew) for suite in (1, 2, 3)]
    if record_anew:
        RECORDED.write_text(json.dumps(recorded, indent=1) + "\n")
    return json.dumps({"channel_version": 1, "handshakes": as_hex(made)}, indent=1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="draw new sealed secrets for the hybrid suites")
    VECTORS.write_text(generate(record_anew=parser.parse_args().record))


if __name__ == "__main__":
    main()
