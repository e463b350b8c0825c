"""What a revocation list must be about before it proves that nothing was revoked (N8; RFC 5280, section 5.2)."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtensionOID

from ephemeralml.attestation.collateral import Collateral
from ephemeralml.attestation.nitro import crl as lists
from ephemeralml.attestation.verdict import Status, Verdict
from ephemeralml.errors import RejectedError
from tests.fakes.nitro import AT, check, crl, failures, policy, policy_document, row, workshop

VENDOR = workshop()
ISSUER = VENDOR.cas[-1]
HERE, ELSEWHERE = (x509.UniformResourceIdentifier(f"http://crl.example/{name}.crl") for name in ("1", "2"))
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
KEY_IDENTIFIER = x509.AuthorityKeyIdentifier(b"k" * 20, None, None)


def point(**changes: Any) -> x509.IssuingDistributionPoint:
    values: dict[str, Any] = {
        "full_name": None,
        "relative_name": None,
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    }
    return x509.IssuingDistributionPoint(**values | changes)


NARROW = {
    "another partition": point(full_name=[ELSEWHERE]),
    "a relative name": point(
        relative_name=x509.RelativeDistinguishedName([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    ),
    "leaves alone": point(only_contains_user_certs=True),
    "CAs alone": point(only_contains_ca_certs=True),
    "attributes alone": point(only_contains_attribute_certs=True),
    "some reasons": point(only_some_reasons=frozenset({x509.ReasonFlags.key_compromise})),
    "indirect": point(indirect_crl=True, full_name=[HERE]),
    "a delta": x509.DeltaCRLIndicator(1),
}


def leaf(*names: x509.GeneralName) -> x509.Certificate:
    """The leaf once more, with these places for its list."""
    own = VENDOR.leaf.certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(own.subject)
        .issuer_name(own.issuer)
        .public_key(own.public_key())
        .serial_number(own.serial_number)
        .not_valid_before(own.not_valid_before_utc)
        .not_valid_after(own.not_valid_after_utc)
    )
    if names:
        places = [x509.DistributionPoint([name], None, None, None) for name in names]
        builder = builder.add_extension(x509.CRLDistributionPoints(places), critical=False)
    return builder.sign(ISSUER.key, hashes.SHA384())


def gap(certificate: x509.Certificate, *extensions: tuple[x509.ExtensionType, bool]) -> str | None:
    """What the issuer's list leaves open about *certificate*."""
    made = dict([crl(ISSUER, extensions=extensions)])
    return lists.check([ISSUER.certificate, certificate], made, AT).gap


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("narrow", NARROW.values(), ids=NARROW)
def test_a_list_of_narrower_scope_proves_nothing(narrow: x509.ExtensionType, critical: bool) -> None:
    found = gap(leaf(HERE), (narrow, critical))
    assert found is not None
    assert ("since another" if isinstance(narrow, x509.DeltaCRLIndicator) else "other certificates") in found


def test_an_unknown_critical_extension_and_no_other() -> None:
    assert "critical extension 1.3.6.1.4.1.99999.1" in str(gap(leaf(), (UNKNOWN, True)))
    assert gap(leaf(), (UNKNOWN, False)) is None
    assert gap(leaf(), (x509.CRLNumber(7), False), (KEY_IDENTIFIER, False)) is None


def test_a_partition_counts_for_the_certificates_that_name_it() -> None:
    here = (point(full_name=[HERE]), True)
    assert gap(leaf(HERE), here) is None
    assert gap(leaf(ELSEWHERE, HERE), here) is None
    assert gap(leaf(ELSEWHERE), here) is not None
    assert gap(leaf(), here) is not None


def test_extensions_that_do_not_parse() -> None:
    broken = x509.UnrecognizedExtension(ExtensionOID.ISSUING_DISTRIBUTION_POINT, b"\x30\x7f")
    assert "do not parse" in str(gap(leaf(), (broken, True)))


def test_a_revocation_on_such_a_list_still_counts() -> None:
    serial = VENDOR.leaf.certificate.serial_number
    for narrow in (*NARROW.values(), UNKNOWN):
        made = dict([crl(ISSUER, [serial], extensions=[(narrow, True)])])
        with pytest.raises(RejectedError) as caught:
            lists.check([ISSUER.certificate, VENDOR.leaf.certificate], made, AT)
        assert caught.value.code == "NITRO_CERT_REVOKED"


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_one_such_list_leaves_the_row_open(index: int) -> None:
    required = policy(nitro=policy_document()["nitro"] | {"revocation": "required"})
    narrow = [(NARROW["another partition"], True)]
    issuers = enumerate((VENDOR.root, *VENDOR.cas))
    collateral = Collateral(dict(crl(item, extensions=narrow if at == index else ()) for at, item in issuers))
    appraisal = check(policy=required, collateral=collateral).run()
    assert (row(appraisal, "N8").status, row(appraisal, "N8").code) == (Status.SKIP, "REVOCATION_CHECK_UNAVAILABLE")
    assert appraisal.verdict is Verdict.INCOMPLETE
    assert failures(appraisal) == []
