"""Certification paths: attestation section 2, rows N6 and N7; each test breaks one rule."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cbor2
import pytest
from cryptography import x509 as library
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import x509
from ephemeralml.crypto.x509 import P384_RULES, LinkCache, check_validity, load_der, verify_path
from ephemeralml.errors import MalformedError, RejectedError
from tests.fakes import pki

CRITICAL_POLICY = ("2.5.29.36", bytes.fromhex("3003800100"), True)
UNKNOWN_CRITICAL = ("1.3.6.1.4.1.99999.1", b"\x05\x00", True)
UNKNOWN_HARMLESS = ("1.3.6.1.4.1.99999.1", b"\x05\x00", False)
BROKEN_SAN = ("2.5.29.17", b"\x30\x05\x01", False)


def specs_but(index: int, **changes: object) -> list[pki.Spec]:
    """A faultless chain, with *changes* to the certificate at *index*."""
    specs = pki.nitro_like()
    specs[index] = specs[index].but(**changes)
    return specs


def refused(specs: list[pki.Spec], why: str) -> None:
    with pytest.raises(RejectedError, match=why) as caught:
        verify_path(pki.chain(specs), rules=P384_RULES)
    assert caught.value.code == "CERT_CHAIN_INVALID"


def real_chain(shared: Path, name: str) -> list[bytes]:
    document = cbor2.loads((shared / "evidence" / name).read_bytes())
    payload = cbor2.loads(document[2])
    return [*payload["cabundle"], payload["certificate"]]


def test_faultless_chain() -> None:
    chain = pki.chain(pki.nitro_like())
    verify_path(chain, rules=P384_RULES)
    check_validity(chain, pki.NOW)


@pytest.mark.parametrize("name", ["nitro-evervault-2022-pcr8.bin", "nitro-evervault-2022-debug.bin"])
def test_real_chains(shared: Path, name: str) -> None:
    chain = [load_der(der) for der in real_chain(shared, name)]
    verify_path(chain, rules=P384_RULES)
    with pytest.raises(RejectedError, match="CA") as caught:
        check_validity(chain, pki.NOW)
    assert caught.value.code == "CERT_TIME_INVALID"
    check_validity(chain, chain[-1].not_valid_before_utc + timedelta(hours=1))


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_wrong_issuer_name(index: int) -> None:
    refused(specs_but(index, issuer="somebody else"), f"certificate {index + 1} of 5 .*names another issuer")


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_signed_by_another_key(index: int) -> None:
    refused(specs_but(index, signed_by="another"), f"certificate {index + 1} of 5 .*signature does not verify")


def test_root_self_signature_is_not_looked_at() -> None:
    chain = pki.chain(specs_but(0, signed_by="another", issuer="another name"))
    verify_path(chain, rules=P384_RULES)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ca": None}, "not marked as a CA"),
        ({"ca": False}, "not marked as a CA"),
        ({"constraints_critical": False}, "not marked as a CA"),
        ({"key_usage": None}, "not keyCertSign"),
        ({"key_usage": pki.usage(digital_signature=True)}, "not keyCertSign"),
    ],
)
def test_ca_that_is_none(index: int, changes: dict[str, object], why: str) -> None:
    role = "CA" if index else "root"
    refused(specs_but(index, **changes), rf"certificate {index + 1} of 5 \({role}\): .*{why}")


@pytest.mark.parametrize(("index", "granted"), [(0, 2), (1, 1), (2, 0), (0, 0)])
def test_path_length_exceeded(index: int, granted: int) -> None:
    refused(specs_but(index, path_length=granted), f"allows {granted} CAs below itself, there are {3 - index}")


def test_path_length_just_enough() -> None:
    verify_path(pki.chain(specs_but(0, path_length=3)), rules=P384_RULES)


def test_self_issued_ca_counts_for_path_length() -> None:
    specs = [pki.ca("root", path_length=0), pki.ca("root", serial=77), pki.leaf()]
    refused(specs, "allows 0 CAs below itself, there are 1")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ca": True}, "it is a CA"),
        ({"ca": True, "constraints_critical": False}, "it is a CA"),
        ({"key_usage": None}, "not digitalSignature"),
        ({"key_usage": pki.usage(cert_sign=True)}, "not digitalSignature"),
    ],
)
def test_leaf_that_is_none(changes: dict[str, object], why: str) -> None:
    refused(specs_but(4, **changes), rf"certificate 5 of 5 \(leaf\): .*{why}")


def test_leaf_without_basic_constraints_is_no_ca() -> None:
    verify_path(pki.chain(specs_but(4, ca=None)), rules=P384_RULES)


@pytest.mark.parametrize("index", [0, 2, 4])
@pytest.mark.parametrize("extension", [UNKNOWN_CRITICAL, CRITICAL_POLICY])
def test_critical_extension_nobody_understands(index: int, extension: tuple[str, bytes, bool]) -> None:
    refused(specs_but(index, extra=(extension,)), f"certificate {index + 1} of 5 .*critical extension")


def test_harmless_unknown_extension() -> None:
    verify_path(pki.chain(specs_but(4, extra=(UNKNOWN_HARMLESS,))), rules=P384_RULES)


def test_extension_that_does_not_parse() -> None:
    refused(specs_but(4, extra=(BROKEN_SAN,)), "extensions do not parse")


@pytest.mark.parametrize(("index", "kind"), [(0, "p256"), (2, "p256"), (4, "p256"), (4, "rsa"), (4, "ed25519")])
def test_key_of_another_kind(index: int, kind: str) -> None:
    specs = specs_but(index, kind=kind, subject=f"certificate with {kind}")
    refused(specs, f"certificate {index + 1} of 5 .*key is not of the kind P-384")


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA512()])
def test_signature_with_another_hash(algorithm: hashes.HashAlgorithm) -> None:
    refused(specs_but(3, hash=algorithm), "certificate 4 of 5 .*signature is not of the kind P-384")


def test_two_signature_algorithms_in_one_certificate() -> None:
    chain = pki.chain(pki.nitro_like())
    sha384 = bytes.fromhex("06082a8648ce3d040303")
    raw = pki.der(chain[4])
    inner = raw.index(sha384)
    mixed = raw[:inner] + bytes.fromhex("06082a8648ce3d040302") + raw[inner + len(sha384) :]
    with pytest.raises(RejectedError, match="two signature algorithms"):
        verify_path([*chain[:4], load_der(mixed)], rules=P384_RULES)


def test_certificate_twice() -> None:
    chain = pki.chain(pki.nitro_like())
    for broken in ([*chain, chain[-1]], [chain[0], *chain], [chain[-1], *chain]):
        with pytest.raises(RejectedError, match="holds a certificate twice"):
            verify_path(broken, rules=P384_RULES)


def test_order_matters() -> None:
    chain = pki.chain(pki.nitro_like())
    for broken in (chain[::-1], [chain[0], chain[2], chain[1], *chain[3:]], [chain[0], *chain[2:]]):
        with pytest.raises(RejectedError):
            verify_path(broken, rules=P384_RULES)


@pytest.mark.parametrize("count", [0, 1, 10])
def test_number_of_certificates(count: int) -> None:
    specs = [pki.ca(f"authority {index}") for index in range(count)]
    with pytest.raises(RejectedError, match=f"chain of {count} certificates"):
        verify_path(pki.chain(specs) if specs else [], rules=P384_RULES)


def test_nine_certificates_are_allowed() -> None:
    specs = [*(pki.ca(f"authority {index}") for index in range(8)), pki.leaf()]
    verify_path(pki.chain(specs), rules=P384_RULES)


# --- time ---


@pytest.mark.parametrize("index", range(5))
def test_each_certificate_is_judged_at_the_instant(index: int) -> None:
    begin, end = pki.NOW - timedelta(minutes=5), pki.NOW + timedelta(minutes=5)
    chain = pki.chain(specs_but(index, begin=begin, end=end))
    for instant in (begin, pki.NOW, end):
        check_validity(chain, instant)
    for instant in (begin - timedelta(seconds=1), end + timedelta(seconds=1)):
        with pytest.raises(RejectedError, match=f"certificate {index + 1} of 5") as caught:
            check_validity(chain, instant)
        assert caught.value.code == "CERT_TIME_INVALID"
        assert begin.isoformat() in caught.value.expected


# --- one certificate ---


def test_load_returns_what_was_given() -> None:
    (certificate,) = pki.chain([pki.ca("root")])
    assert load_der(pki.der(certificate)) == certificate


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_truncated_certificate(size: int) -> None:
    with pytest.raises(MalformedError):
        load_der(pki.der(pki.chain([pki.ca("root")])[0])[:size])


def test_trailing_byte() -> None:
    with pytest.raises(MalformedError):
        load_der(pki.der(pki.chain([pki.ca("root")])[0]) + b"\0")


def test_size_limit() -> None:
    der = pki.der(pki.chain([pki.ca("root")])[0])
    load_der(der, max_bytes=len(der))
    with pytest.raises(MalformedError, match="at most"):
        load_der(der, max_bytes=len(der) - 1)


def test_longest_serial_number_in_use() -> None:
    serial = (1 << 159) - 1
    assert load_der(pki.der(pki.chain([pki.ca("root", serial=serial)])[0])).serial_number == serial


@pytest.mark.parametrize("serial", [b"\x02\x01\x00", b"\x02\x01\xff", b"\x02\x02\x00\x7f"])
def test_serial_number_that_is_not_positive(serial: bytes) -> None:
    """Refused before cryptography sees it, which would warn and go on."""
    padding = ("1.3.6.1.4.1.99999.1", bytes(200), False)
    der = pki.der(pki.chain([pki.ca("root", serial=0x33, extra=(padding,))])[0])
    marker = bytes.fromhex("a003020102") + b"\x02\x01\x33"
    assert der.count(marker) == 1
    grown = len(serial) - 3
    outer, inner = int.from_bytes(der[2:4], "big") + grown, int.from_bytes(der[6:8], "big") + grown
    assert der[1] == der[5] == 0x82
    body = der[8:].replace(marker, marker[:5] + serial)
    broken = der[:2] + outer.to_bytes(2, "big") + der[4:6] + inner.to_bytes(2, "big") + body
    with pytest.raises(MalformedError, match="positive serial"):
        load_der(broken)


def test_version_one() -> None:
    der = pki.der(pki.chain([pki.ca("root")])[0])
    with pytest.raises(MalformedError, match="version 3"):
        load_der(der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020100"), 1))


def test_parser_that_is_lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is verified is what was given, even if a later parser reads more than DER."""
    chain = pki.chain([pki.ca("root"), pki.leaf()])
    monkeypatch.setattr(library, "load_der_x509_certificate", lambda _: chain[1])
    with pytest.raises(MalformedError, match="not in DER"):
        load_der(pki.der(chain[0]))
    assert load_der(pki.der(chain[1])) == chain[1]


def test_point_off_the_curve() -> None:
    der = pki.der(pki.chain([pki.ca("root")])[0])
    point = der.index(bytes.fromhex("03620004")) + 4
    with pytest.raises(MalformedError, match="does not parse"):
        load_der(der[:point] + bytes(48) + der[point + 48 :])


@pytest.mark.parametrize("unused", [1, 2, 3])
def test_signature_of_broken_octets(unused: int) -> None:
    """With zero bits at its end a signature could be encoded as a few bits shorter."""
    certificate = next(
        certificate
        for certificate in (pki.issue(pki.leaf(), pki.ca("root")) for _ in range(10_000))
        if certificate.signature[-1] % (1 << unused) == 0
    )
    der = pki.der(certificate)
    position = len(der) - len(certificate.signature) - 1
    with pytest.raises(MalformedError):
        load_der(der[:position] + bytes([unused]) + der[position + 1 :])


@pytest.mark.fuzz
@given(position=st.integers(0, 5_000), bit=st.integers(0, 7))
def test_any_flipped_bit_of_a_chain_is_refused(position: int, bit: int) -> None:
    ders = _CHAIN
    total = sum(map(len, ders))
    position %= total
    broken = []
    for der in ders:
        if 0 <= position < len(der):
            broken.append(der[:position] + bytes([der[position] ^ 1 << bit]) + der[position + 1 :])
        else:
            broken.append(der)
        position -= len(der)
    with pytest.raises((MalformedError, RejectedError)):
        verify_path([_ROOTED[0], *map(load_der, broken)], rules=P384_RULES, cache=_CACHE)


_ROOTED = pki.chain(pki.nitro_like())
_CHAIN = [pki.der(certificate) for certificate in _ROOTED[1:]]
_CACHE = LinkCache()


@pytest.mark.fuzz
@given(st.binary(max_size=600))
def test_noise_is_malformed(noise: bytes) -> None:
    with pytest.raises(MalformedError):
        load_der(noise)


@pytest.mark.fuzz
@given(data=st.data())
def test_only_our_errors_leave(data: st.DataObject) -> None:
    der = bytearray(_CHAIN[-1])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(der)))
        der[start : start + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        verify_path([*_ROOTED[:4], load_der(bytes(der))], rules=P384_RULES)
    except (MalformedError, RejectedError):
        return
    assert bytes(der) == _CHAIN[-1]


# --- what is remembered ---


class Counting:
    """Counts signature checks by standing in for the private step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checked: list[int] = []
        real = x509._check_link

        def check(chain: list[library.Certificate], index: int, rules: x509.PathRules) -> None:
            self.checked.append(index)
            real(chain, index, rules)

        monkeypatch.setattr(x509, "_check_link", check)


def test_links_are_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count, cache = Counting(monkeypatch), LinkCache()
    chain = pki.chain(pki.nitro_like())
    verify_path(chain, rules=P384_RULES, cache=cache)
    assert (count.checked, len(cache)) == ([1, 2, 3, 4], 4)
    verify_path(chain, rules=P384_RULES, cache=cache)
    assert count.checked == [1, 2, 3, 4]
    renewed = [*chain[:4], pki.issue(pki.leaf("another leaf"), pki.nitro_like()[3])]
    verify_path(renewed, rules=P384_RULES, cache=cache)
    assert count.checked == [1, 2, 3, 4, 4]


def test_failures_are_not_remembered() -> None:
    cache = LinkCache()
    broken = pki.chain(specs_but(3, signed_by="another"))
    for _ in range(2):
        with pytest.raises(RejectedError, match="certificate 4 of 5"):
            verify_path(broken, rules=P384_RULES, cache=cache)
        assert len(cache) == 2


def test_rules_beside_the_signature_hold_from_memory_too() -> None:
    cache = LinkCache()
    specs = [pki.ca("root"), pki.ca("intermediate", path_length=0), pki.leaf("signer")]
    chain = pki.chain(specs)
    verify_path(chain, rules=P384_RULES, cache=cache)
    with pytest.raises(RejectedError, match="it is a CA"):
        verify_path(chain[:2], rules=P384_RULES, cache=cache)
    with pytest.raises(RejectedError, match="certificate 2 of 2"):
        verify_path([chain[0], chain[2]], rules=P384_RULES, cache=cache)


def test_remembered_links_belong_to_their_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    count, cache = Counting(monkeypatch), LinkCache()
    chain = pki.chain(pki.nitro_like())
    verify_path(chain, rules=P384_RULES, cache=cache)
    other = x509.PathRules("another set", P384_RULES.signature, P384_RULES.key_fits)
    verify_path(chain, rules=other, cache=cache)
    assert count.checked == [1, 2, 3, 4] * 2


def test_oldest_links_are_forgotten() -> None:
    cache = LinkCache(max_entries=2)
    for number in range(2):
        cache.remember(P384_RULES, b"issuer", bytes([number]))
    assert cache.holds(P384_RULES, b"issuer", b"\0")
    cache.remember(P384_RULES, b"issuer", b"\2")
    assert len(cache) == 2
    assert cache.holds(P384_RULES, b"issuer", b"\0")
    assert not cache.holds(P384_RULES, b"issuer", b"\1")


def test_cache_between_threads() -> None:
    cache, chain = LinkCache(max_entries=3), pki.chain(pki.nitro_like())
    failures: list[BaseException] = []

    def verify() -> None:
        try:
            for _ in range(20):
                verify_path(chain, rules=P384_RULES, cache=cache)
        except RejectedError as error:
            failures.append(error)

    threads = [threading.Thread(target=verify) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(cache) == 3


P256_RULES = x509.PathRules(
    "P-256 with SHA-256",
    library.SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    lambda key: getattr(getattr(key, "curve", None), "name", None) == "secp256r1",
)
"""What Intel's chains need is one more `PathRules`."""


def test_other_kinds_of_chains_are_other_rules() -> None:
    specs = [spec.but(kind="p256", hash=hashes.SHA256(), subject=f"{spec.subject} p256") for spec in pki.nitro_like()]
    verify_path(pki.chain(specs), rules=P256_RULES)
    with pytest.raises(RejectedError, match="P-256"):
        verify_path(pki.chain(pki.nitro_like()), rules=P256_RULES)
    with pytest.raises(RejectedError, match="P-384"):
        verify_path(pki.chain(specs), rules=P384_RULES)


@pytest.mark.parametrize("name", ["tdx-gotdx-v5.bin", "tdx-gotdx-spr-e4-v4.bin"])
def test_real_chains_of_another_vendor(shared: Path, name: str) -> None:
    quote = (shared / "evidence" / name).read_bytes()
    begin, marker = quote.index(b"-----BEGIN"), b"-----END CERTIFICATE-----"
    pem = quote[begin : quote.rindex(marker) + len(marker)]
    chain = [load_der(pki.der(certificate)) for certificate in reversed(library.load_pem_x509_certificates(pem))]
    verify_path(chain, rules=P256_RULES)
    with pytest.raises(RejectedError, match="P-384"):
        verify_path(chain, rules=P384_RULES)


def test_instants_need_a_zone() -> None:
    with pytest.raises(TypeError):
        check_validity(_ROOTED, datetime(2026, 1, 15))  # noqa: DTZ001 - the point of the test
    check_validity(_ROOTED, datetime(2026, 1, 15, tzinfo=UTC))
