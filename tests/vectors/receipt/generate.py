"""The project's own broken receipts, each named for its fault (air-v1, section 9).

Everything is made from a fixed key and fixed claims, so the same vectors come
out every time; `python -m tests.vectors.receipt.generate` prints them as JSON
for other implementations.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cbor2

from ephemeralml.receipt import Profile, ReceiptPolicy
from ephemeralml.receipt.claims import CLAIMS, KeyOrder
from tests.vectors.receipt import lab
from tests.vectors.receipt.lab import (
    IAT,
    OTHER_KEY,
    PUBLIC,
    Raw,
    changed,
    claims,
    pairs,
    raw_map,
    registers,
    seal,
    without,
)

L = 2**252 + 27742317777372353535851937790883648493


@dataclass(frozen=True)
class Broken:
    """One receipt and the failing rows that it must give, and no others."""

    name: str
    receipt: bytes
    rows: tuple[tuple[str, str], ...]
    """Check and code of every failing row, in order."""
    public_key: bytes = PUBLIC
    policy: ReceiptPolicy = field(default_factory=ReceiptPolicy)
    profile: Profile = Profile.STRICT
    now: int | None = IAT + 10


def one(name: str, receipt: bytes, check: str, code: str, **settings: Any) -> Broken:
    """Return a vector with exactly one failing row."""
    return Broken(name, receipt, ((check, code),), **settings)


def envelopes() -> Iterator[Broken]:
    """SIZE, COSE_DECODE, UNPROTECTED."""
    good = seal(pairs())
    yield one("too-large", good + bytes(65_537 - len(good)), "SIZE", "RECEIPT_TOO_LARGE")
    body = good[2:]
    payload = raw_map(pairs())
    deep = b"\xa1\x01" + b"\x81" * 8 + b"\x00"
    for name, receipt in (
        ("empty", b""),
        ("truncated", good[:-1]),
        ("trailing-byte", good + b"\x00"),
        ("second-item", good + good),
        ("no-tag", good[1:]),
        ("other-tag", b"\xd1" + good[1:]),
        ("tag-twice", b"\xd2" + good),
        ("tag-61-around", b"\xd8\x3d" + good),
        ("tag-55799-around", b"\xd9\xd9\xf7" + good),
        ("array-of-3", b"\xd2\x83" + body[: -len(lab.bstr(bytes(64)))]),
        ("array-of-5", b"\xd2\x85" + body + b"\x40"),
        ("map-instead-of-array", b"\xd2\xa2" + body),
        ("protected-is-a-map", b"\xd2\x84" + lab.PROTECTED + b"\xa0" + lab.bstr(payload) + lab.bstr(bytes(64))),
        ("protected-holds-no-map", seal(pairs(), protected=b"\x80")),
        ("protected-holds-two-maps", seal(pairs(), protected=lab.PROTECTED + b"\xa0")),
        ("protected-repeats-alg", seal(pairs(), protected=bytes.fromhex("a301270127") + b"\x03\x18\x3d")),
        ("unprotected-is-no-map", seal(pairs(), unprotected=b"\x80")),
        ("unprotected-repeats-kid", seal(pairs(), unprotected=b"\xa2\x04\x41\x01\x04\x41\x02")),
        ("unprotected-too-deep", seal(pairs(), unprotected=deep)),
        ("payload-is-text", b"\xd2\x84" + lab.bstr(lab.PROTECTED) + b"\xa0\x61\x61" + lab.bstr(bytes(64))),
        ("signature-is-nil", seal(pairs())[: -len(lab.bstr(bytes(64)))] + b"\xf6"),
        ("length-of-2-to-40", b"\xd2\x84\x5b\x00\x00\x01\x00\x00\x00\x00\x00"),
        ("array-of-2-to-40", b"\xd2\x9b\x00\x00\x01\x00\x00\x00\x00\x00"),
        ("nested-60000-deep", b"\x81" * 60_000),
        ("tags-60000-deep", b"\xd2" * 60_000),
    ):
        yield one(f"cose-{name}", receipt, "COSE_DECODE", "COSE_DECODE_FAILED")
    yield one("unprotected-kid", seal(pairs(), unprotected=b"\xa1\x04\x41\x01"), "UNPROTECTED", "NON_EMPTY_UNPROTECTED")


def headers() -> Iterator[Broken]:
    """ALG, CONTENT_TYPE, PROTECTED, PAYLOAD."""
    for name, protected in (
        ("missing", "a103183d"),
        ("es256", "a2012603183d"),
        ("19", "a2013203183d"),
        ("text", "a20165456444534103183d"),
        ("true", "a201f503183d"),
    ):
        yield one(f"alg-{name}", seal(pairs(), protected=bytes.fromhex(protected)), "ALG", "BAD_ALG")
    for name, protected in (("missing", "a10127"), ("60", "a2012703183c"), ("text", "a201270363637774")):
        yield one(
            f"content-type-{name}",
            seal(pairs(), protected=bytes.fromhex(protected)),
            "CONTENT_TYPE",
            "BAD_CONTENT_TYPE",
        )
    empty = (("ALG", "BAD_ALG"), ("CONTENT_TYPE", "BAD_CONTENT_TYPE"))
    yield Broken("protected-empty", seal(pairs(), protected=b""), empty)
    yield Broken("protected-empty-map", seal(pairs(), protected=b"\xa0"), empty)
    for name, protected in (("kid", "a3012703183d0441ff"), ("text", "a3012703183d616100")):
        yield one(
            f"protected-extra-{name}",
            seal(pairs(), protected=bytes.fromhex(protected)),
            "PROTECTED",
            "EXTRA_PROTECTED_HEADER",
        )
    for name, protected in (
        ("order", "a203183d0127"),
        ("overlong", "a201380703183d"),
        ("overlong-head", "b802012703183d"),
        ("indefinite", "bf012703183dff"),
    ):
        yield one(f"protected-{name}", seal(pairs(), protected=bytes.fromhex(protected)), "PROTECTED", "NON_CANONICAL")
    nil = b"\xd2\x84" + lab.bstr(lab.PROTECTED) + b"\xa0\xf6" + lab.bstr(bytes(64))
    yield one("payload-nil", nil, "PAYLOAD", "MISSING_PAYLOAD")
    yield one("payload-empty", seal(b""), "PAYLOAD", "MISSING_PAYLOAD")


def claim_maps() -> Iterator[Broken]:
    """CLAIMS_DECODE and EAT_PROFILE."""
    good = raw_map(pairs())
    for name, payload in (
        ("array", b"\x80"),
        ("text", b"\x61a"),
        ("garbage", b"\xff\xff"),
        ("truncated", good[:-1]),
        ("trailing-byte", good + b"\x00"),
        ("tagged", b"\xd9\xd9\xf7" + good),
        ("too-deep", raw_map([*pairs(), (99, Raw(b"\x81" * 5 + b"\x00"))])),
        ("bad-utf8", raw_map(changed(1, Raw(b"\x61\xff")))),
        ("map-of-2-to-40", b"\xbb\x00\x00\x01\x00\x00\x00\x00\x00"),
    ):
        yield one(f"payload-{name}", seal(payload), "CLAIMS_DECODE", "PAYLOAD_NOT_MAP")

    def claim(name: str, body: list[tuple[Any, Any]], code: str) -> Broken:
        return one(name, seal(body), "CLAIMS_DECODE", code)

    yield claim("duplicate-claim", [*pairs(), (1, "acme")], "DUPLICATE_KEY")
    yield claim("duplicate-measurement", registers(lambda old: [*old, ("pcr0", b"\x01" * 48)]), "DUPLICATE_KEY")
    yield claim("unknown-claim", [*pairs(), (4, IAT)], "UNKNOWN_CLAIM:4")
    yield claim("unknown-claim-negative", [*pairs(), (-65550, 1)], "UNKNOWN_CLAIM:-65550")
    yield claim("unknown-claim-text", [*pairs(), ("iss", "x")], "UNKNOWN_CLAIM:iss")
    yield claim("unknown-claim-control", [*pairs(), ("a\n\x1b[31mé", 1)], "UNKNOWN_CLAIM:a\\x0a\\x1b[31m\\xe9")
    yield claim("unknown-claim-long", [*pairs(), ("k" * 300, 1)], "UNKNOWN_CLAIM:" + "k" * 64)
    yield claim("unknown-claim-bytes", [*pairs(), (b"\x01\x02", 1)], "UNKNOWN_CLAIM:h'0102'")
    yield claim("unknown-claim-true", [(True, "x"), *pairs()], "UNKNOWN_CLAIM:a boolean")
    yield claim("unknown-claim-float", [(1.0, "x"), *pairs()], "UNKNOWN_CLAIM:a floating-point number")
    yield claim("unknown-measurement", registers(lambda old: [*old, ("pcr5", bytes(48))]), "UNKNOWN_MEASUREMENT:pcr5")
    yield claim("unknown-measurement-int", registers(lambda old: [*old, (0, bytes(48))]), "UNKNOWN_MEASUREMENT:0")
    for spec in CLAIMS:
        if spec.required:
            yield claim(f"missing-{spec.name}", without(spec.key), f"MISSING_CLAIM:{spec.name}")
        if spec.kind is not str:
            yield claim(f"text-{spec.name}", changed(spec.key, "text"), f"WRONG_TYPE:{spec.name}")
        else:
            yield claim(f"bytes-{spec.name}", changed(spec.key, b"bytes"), f"WRONG_TYPE:{spec.name}")
    for name in ("pcr0", "pcr1", "pcr2", "measurement_type"):
        dropped = registers(lambda old, name=name: [entry for entry in old if entry[0] != name])
        yield claim(f"missing-{name}", dropped, f"MISSING_CLAIM:enclave_measurements.{name}")
        typed = registers(lambda old, name=name: [(key, 1 if key == name else value) for key, value in old])
        yield claim(f"integer-{name}", typed, f"WRONG_TYPE:enclave_measurements.{name}")
    for name, key, value in (
        ("null-nonce", 10, None),
        ("null-model_hash_scheme", -65549, None),
        ("nonce-list", 10, [lab.NONCE]),
        ("float-iat", 6, 1.79e9),
        ("tagged-iat", 6, cbor2.CBORTag(1, IAT)),
        ("negative-iat", 6, -1),
        ("boolean-sequence_number", -65545, True),
        ("negative-sequence_number", -65545, -1),
        ("bignum-sequence_number", -65545, Raw(b"\xc2\x41\x01")),
        ("indefinite-list-measurements", -65543, Raw(b"\x9f\xff")),
    ):
        wrong = next(spec.name for spec in CLAIMS if spec.key == key)
        yield claim(name, changed(key, value), f"WRONG_TYPE:{wrong}")
    null = registers(lambda old: [*old[:3], ("pcr8", None), *old[3:]])
    yield claim("null-pcr8", null, "WRONG_TYPE:enclave_measurements.pcr8")
    other = changed(265, "https://example.com/other")
    yield one("profile-other", seal(other), "EAT_PROFILE", "WRONG_PROFILE")
    worse = [(265, "tag:other"), (4, 1), (4, 1), (1, 5)]
    yield one("profile-other-and-nothing-else-judged", seal(worse), "EAT_PROFILE", "WRONG_PROFILE")


def encodings() -> Iterator[Broken]:
    """ENCODING."""
    good = seal(pairs())
    payload = raw_map(pairs())
    mixed_top = [(key, sorted(value) if key == -65543 else value) for key, value in pairs()]
    mixed_measurements = sorted(pairs(), key=lambda entry: entry[0])

    def encoding(name: str, receipt: bytes, **settings: Any) -> Broken:
        return one(f"encoding-{name}", receipt, "ENCODING", "NON_CANONICAL", **settings)

    yield encoding("overlong-tag", b"\xd8\x12" + good[1:])
    yield encoding("overlong-array", b"\xd2\x98\x04" + good[2:])
    yield encoding("indefinite-array", b"\xd2\x9f" + good[2:] + b"\xff")
    yield encoding("indefinite-unprotected", seal(pairs(), unprotected=b"\xbf\xff"))
    yield encoding("overlong-protected", good[:2] + b"\x58\x06" + good[3:])
    tail = lab.bstr(good[-64:])
    start = len(good) - len(tail) - len(payload)
    yield encoding("chunked-payload", good[: start - 3] + b"\x5f" + lab.bstr(payload) + b"\xff" + tail)
    yield encoding("overlong-map", seal(b"\xb8" + bytes([payload[0] & 31]) + payload[1:]))
    yield encoding("indefinite-map", seal(b"\xbf" + payload[1:] + b"\xff"))
    yield encoding("overlong-integer", seal(changed(-65545, Raw(b"\x18\x07"))))
    yield encoding("overlong-text", seal(changed(1, Raw(b"\x78\x04acme"))))
    yield encoding("chunked-text", seal(changed(1, Raw(b"\x7f\x62ac\x62me\xff"))))
    yield encoding("reversed", seal(pairs()[::-1]))
    yield encoding("g0-in-strict", seal(claims().encode(KeyOrder.G0)))
    for name, body in (("g0-measurements-only", mixed_top), ("g0-claims-only", mixed_measurements)):
        yield encoding(name, seal(body), profile=Profile.COMPAT)
    g0 = sorted(mixed_top, key=lambda entry: entry[0])
    swapped = [g0[1], g0[0], *g0[2:]]
    yield encoding("g0-nearly", seal(swapped), profile=Profile.COMPAT)


def signatures() -> Iterator[Broken]:
    """SIG."""
    good = pairs()
    message = lab.sig_structure(lab.PROTECTED, raw_map(good))
    signature = lab.KEY.sign(message)
    for size in (0, 63, 65):
        cut = (signature + b"\x00")[:size]
        yield one(f"signature-of-{size}", seal(good, signature=cut), "SIG", "BAD_SIG_LENGTH")
    s = int.from_bytes(signature[32:], "little")
    identity = b"\x01" + bytes(31)
    for name, value, key in (
        ("by-another-key", OTHER_KEY.sign(message), PUBLIC),
        ("under-another-key", signature, OTHER_KEY.public.raw),
        ("flipped", bytes([signature[0] ^ 1]) + signature[1:], PUBLIC),
        ("s-plus-order", signature[:32] + (s + L).to_bytes(32, "little"), PUBLIC),
        ("small-order-key", identity + bytes(32), identity),
        ("small-order-key-and-r-of-good", signature, identity),
        ("small-order-r", identity + signature[32:], PUBLIC),
        ("key-is-no-point", signature, b"\x02" + bytes(31)),
        ("over-the-payload-alone", lab.KEY.sign(raw_map(good)), PUBLIC),
    ):
        yield one(f"signature-{name}", seal(good, signature=value), "SIG", "SIG_FAILED", public_key=key)


def values() -> Iterator[Broken]:
    """Layer L3."""

    def value(name: str, check: str, code: str, **changes: Any) -> Broken:
        return one(name, seal(claims(**changes).encode()), check, code)

    for name, cti in (("zero", bytes(16)), ("15", bytes(range(1, 16))), ("17", bytes(range(1, 18))), ("empty", b"")):
        yield value(f"cti-{name}", "CTI", "BAD_CTI_LENGTH", cti=cti)
    yield value("iat-zero", "BOUNDS", "OUT_OF_RANGE:iat", iat=0)
    for claim, most in (("iss", 256), ("model_id", 256), ("model_version", 128), ("policy_version", 256)):
        yield value(f"{claim}-empty", "BOUNDS", f"OUT_OF_RANGE:{claim}", **{claim: ""})
        yield value(f"{claim}-long", "BOUNDS", f"OUT_OF_RANGE:{claim}", **{claim: "x" * (most + 1)})
        umlauts = "é" * (most // 2) + "x"
        yield value(f"{claim}-long-in-bytes", "BOUNDS", f"OUT_OF_RANGE:{claim}", **{claim: umlauts})
    for size in (0, 7, 65):
        yield value(f"nonce-of-{size}", "BOUNDS", "OUT_OF_RANGE:eat_nonce", eat_nonce=b"n" * size)
    for claim in ("request_hash", "response_hash", "attestation_doc_hash"):
        for size in (0, 31, 33):
            yield value(f"{claim}-of-{size}", "BOUNDS", f"BAD_HASH_LENGTH:{claim}", **{claim: b"h" * size})
    yield value("model_hash-zero", "MHASH_PRESENT", "ZERO_MODEL_HASH", model_hash=bytes(32))
    for size in (0, 31, 33):
        yield value(f"model_hash-of-{size}", "MHASH_PRESENT", "BAD_HASH_LENGTH:model_hash", model_hash=b"h" * size)
    for slot in ("pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr8"):
        for size in (47, 49):
            yield value(f"{slot}-of-{size}", "MEAS", "BAD_MEASUREMENT_LENGTH", **{slot: b"r" * size})
    tdx = {"measurement_type": "tdx-mrtd-rtmr", "pcr8": bytes(48)}
    yield value("tdx-pcr8", "MEAS", "TDX_PCR8_FORBIDDEN", **tdx)
    yield value("mtype-unknown", "MTYPE", "UNKNOWN_MTYPE:sev-snp", measurement_type="sev-snp")
    yield value("mtype-control", "MTYPE", "UNKNOWN_MTYPE:\\x00\\u2028", measurement_type="\x00\u2028")
    yield value("mtype-long", "MTYPE", "UNKNOWN_MTYPE:" + "m" * 64, measurement_type="m" * 400)
    yield value("scheme-unknown", "MHASH_SCHEME", "UNKNOWN_MODEL_HASH_SCHEME:sha512", model_hash_scheme="sha512")
    yield value("mode-unknown", "SECURITY_MODE", "UNKNOWN_SECURITY_MODE:GatewayOnly", security_mode="GatewayOnly")
    yield value("mode-case", "SECURITY_MODE", "UNKNOWN_SECURITY_MODE:Production", security_mode="Production")
    both = (("BOUNDS", "OUT_OF_RANGE:security_mode"), ("SECURITY_MODE", "UNKNOWN_SECURITY_MODE:" + "f" * 64))
    yield Broken("mode-of-65-compat", seal(claims(security_mode="f" * 65).encode()), both, profile=Profile.COMPAT)


def demands() -> Iterator[Broken]:
    """Layer L4 but for REPLAY."""
    good = seal(pairs())

    def demand(name: str, check: str, code: str, *, now: int | None = IAT + 10, **policy: Any) -> Broken:
        return one(name, good, check, code, policy=ReceiptPolicy(**policy), now=now)

    yield demand("clock-none", "FRESH", "CLOCK_ERROR", now=None)
    yield demand("clock-negative", "FRESH", "CLOCK_ERROR", now=-1)
    yield demand("future", "FRESH", "TIMESTAMP_FUTURE", now=IAT - 61)
    yield demand("future-with-max-age", "FRESH", "TIMESTAMP_FUTURE", now=IAT - 61, max_age=100)
    yield demand("stale", "FRESH", "TIMESTAMP_STALE", now=IAT + 101, max_age=100)
    yield demand("model-hash", "MHASH", "MODEL_HASH_MISMATCH", model_hash=b"\xff" * 32)
    yield demand("manifest-hash", "MHASH", "MODEL_HASH_MISMATCH", manifest_hash=b"\xff" * 32)
    yield demand("request-hash", "RHASH", "REQUEST_HASH_MISMATCH", request_hash=b"\xff" * 32)
    yield demand("response-hash", "OHASH", "RESPONSE_HASH_MISMATCH", response_hash=b"\xff" * 32)
    yield demand("document-hash", "ADHASH", "ATTESTATION_DOC_HASH_MISMATCH", document_hash=b"\xff" * 32)
    yield demand("model-id", "MODEL", "MODEL_ID_MISMATCH", model_id="minilm")
    yield demand("mode", "SECURITY_MODE_POLICY", "SECURITY_MODE_MISMATCH", security_modes=frozenset({"evaluation"}))
    evaluation = seal(claims(security_mode="evaluation").encode())
    yield one("mode-evaluation", evaluation, "SECURITY_MODE_POLICY", "EVALUATION_MODE_REJECTED")
    yield demand("platform", "PLATFORM", "PLATFORM_MISMATCH", platform="tdx-mrtd-rtmr")
    yield demand("nonce", "NONCE", "NONCE_MISMATCH", nonce=bytes(8))
    yield demand("nonce-prefix", "NONCE", "NONCE_MISMATCH", nonce=lab.NONCE[:4])
    yield demand("nonce-longer", "NONCE", "NONCE_MISMATCH", nonce=lab.NONCE + b"\x00")
    silent = seal(claims(eat_nonce=None).encode())
    for name, policy in (("missing", ReceiptPolicy(nonce=lab.NONCE)), ("required", ReceiptPolicy(nonce_required=True))):
        yield one(f"nonce-{name}", silent, "NONCE", "NONCE_MISSING", policy=policy)
    yield demand("register", "EXPECT_PCR", "RECEIPT_MEASUREMENTS_MISMATCH:pcr1", registers={"pcr1": bytes(48)})
    yield demand("register-absent", "EXPECT_PCR", "RECEIPT_MEASUREMENTS_MISMATCH:pcr8", registers={"pcr8": bytes(48)})


def broken() -> list[Broken]:
    """Return every vector."""
    parts = (envelopes, headers, claim_maps, encodings, signatures, values, demands)
    return [vector for part in parts for vector in part()]


def main() -> None:
    """Print the vectors as one JSON document."""
    document = [
        {
            "name": vector.name,
            "receipt_hex": vector.receipt.hex(),
            "public_key_hex": vector.public_key.hex(),
            "profile": vector.profile.value,
            "failing": [{"check": check, "code": code} for check, code in vector.rows],
        }
        for vector in broken()
    ]
    json.dump(document, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
