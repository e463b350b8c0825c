"""Google Cloud: each row of the lint tripped alone, and tokens judged (key-release.md section 7)."""

import base64
import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy.findings import Rule, Severity
from ephemeralml.keyrelease.policy.gcp_export import claims_of, parse_export
from ephemeralml.keyrelease.policy.gcp_lint import lint_export
from ephemeralml.keyrelease.policy.gcp_simulate import judge

NAME = "projects/12/locations/global/workloadIdentityPools/enclaves/providers/attested"
AUDIENCE = f"//iam.googleapis.com/{NAME}"
DIGEST = "sha256:" + "ab" * 32
POOL = "principalSet://iam.googleapis.com/projects/12/locations/global/workloadIdentityPools/enclaves"
MEMBER = f"{POOL}/attribute.image_digest/{DIGEST}"
CONDITION = (
    "assertion.swname == 'CONFIDENTIAL_SPACE' && assertion.dbgstat == 'disabled-since-boot' && "
    "assertion.hwmodel == 'GCP_INTEL_TDX' && assertion.secboot == true && "
    "'STABLE' in assertion.submods.confidential_space.support_attributes && "
    "assertion.submods.gce.project_id == 'acme-prod' && "
    "'runtime@acme-prod.iam.gserviceaccount.com' in assertion.google_service_accounts && "
    f"assertion.submods.container.image_digest in ['{DIGEST}']"
)
CLAIMS = {
    "iss": "https://confidentialcomputing.googleapis.com",
    "aud": AUDIENCE,
    "swname": "CONFIDENTIAL_SPACE",
    "dbgstat": "disabled-since-boot",
    "hwmodel": "GCP_INTEL_TDX",
    "secboot": True,
    "google_service_accounts": ["runtime@acme-prod.iam.gserviceaccount.com"],
    "submods": {
        "confidential_space": {"support_attributes": ["LATEST", "STABLE", "USABLE"]},
        "gce": {"project_id": "acme-prod"},
        "container": {"image_digest": DIGEST},
    },
}
DECRYPTER = "roles/cloudkms.cryptoKeyDecrypter"
EXPORT: dict[str, Any] = {
    "provider": {
        "name": NAME,
        "oidc": {"issuerUri": CLAIMS["iss"], "allowedAudiences": [AUDIENCE]},
        "attributeMapping": {
            "google.subject": "…",
            "attribute.image_digest": "assertion.submods.container.image_digest",
        },
        "attributeCondition": CONDITION,
    },
    "key": {"versionTemplate": {"protectionLevel": "HSM"}},
    "key_policy": {
        "bindings": [
            {"role": DECRYPTER, "members": [MEMBER]},
            {"role": "roles/cloudkms.cryptoKeyEncrypter", "members": ["user:publisher@acme.example"]},
        ]
    },
    "ring_policy": {},
    "project_policy": {"bindings": [{"role": "roles/viewer", "members": ["user:a@acme.example"]}]},
    "client_audiences": ["https://inference.acme.example"],
}


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    document = copy.deepcopy(EXPORT)
    change(document)
    return json.dumps(document).encode()


def condition(old: str, new: str) -> Callable[[dict[str, Any]], Any]:
    assert old in CONDITION
    return lambda document: document["provider"].update(attributeCondition=CONDITION.replace(old, new))


def provider(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["provider"].update(fields)


def oidc(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["provider"]["oidc"].update(fields)


def bound(level: str, role: str, *members: str) -> Callable[[dict[str, Any]], Any]:
    return lambda document: (
        document[f"{level}_policy"].setdefault("bindings", []).append({"role": role, "members": list(members)})
    )


E, W, U = Severity.ERROR, Severity.WARNING, Severity.UNPROVEN


@pytest.mark.parametrize(
    ("rule", "severity", "change"),
    [
        ("G01", E, provider(attributeCondition="")),
        ("G01", E, provider(attributeCondition=None)),
        ("G02", E, condition("assertion.swname == 'CONFIDENTIAL_SPACE' && ", "")),
        ("G02", E, condition("assertion.swname == 'CONFIDENTIAL_SPACE'", "assertion.swname == 'GCE'")),
        ("G02", E, condition("assertion.dbgstat == 'disabled-since-boot' && ", "")),
        ("G02", E, condition("assertion.hwmodel == 'GCP_INTEL_TDX' && ", "")),
        ("G02", E, condition("assertion.submods.gce.project_id == 'acme-prod' && ", "")),
        ("G02", E, condition(f"in ['{DIGEST}']", "!= ''")),
        (
            "G02",
            E,
            condition("assertion.hwmodel == 'GCP_INTEL_TDX'", "(assertion.hwmodel == 'X' || assertion.secboot)"),
        ),
        ("G02", E, condition("'GCP_INTEL_TDX'", "'GCP_SHIELDED_VM'")),
        ("G02", E, condition("== 'GCP_INTEL_TDX'", "in ['GCP_INTEL_TDX', 'GCP_SHIELDED_VM']")),
        ("G02", U, condition("assertion.secboot == true", "assertion.hwmodel.startsWith('GCP')")),
        ("G02", W, condition("assertion.secboot == true", "assertion.submods.nvidia_gpu.cc_mode == 'ON'")),
        ("G03", E, bound("key", DECRYPTER, f"{POOL}/*")),
        ("G03", E, bound("key", DECRYPTER, f"{POOL}/attribute.zone/europe")),
        ("G03", E, bound("key", DECRYPTER, f"{POOL}/group/all")),
        ("G03", E, bound("key", DECRYPTER, MEMBER.replace("/enclaves/", "/others/"))),
        ("G03", E, bound("key", DECRYPTER, MEMBER.replace("projects/12/", "projects/13/"))),
        ("G03", E, bound("key", DECRYPTER, MEMBER.replace("iam.googleapis", "cloudresourcemanager.googleapis"))),
        ("G03", E, provider(attributeMapping={"attribute.image_digest": "assertion.submods.container.env.DIGEST"})),
        ("G03", E, provider(attributeMapping={})),
        ("G04", E, bound("ring", DECRYPTER, MEMBER)),
        ("G04", E, bound("project", "roles/cloudkms.cryptoKeyEncrypterDecrypter", MEMBER)),
        ("G04", E, bound("key", DECRYPTER, "user:a@acme.example")),
        ("G04", E, bound("key", DECRYPTER, "allUsers")),
        ("G04", E, bound("key", DECRYPTER, "projectEditor:acme-prod")),
        ("G04", E, bound("key", DECRYPTER, "deleted:user:a@acme.example?uid=1")),
        ("G04", E, bound("project", "roles/owner", "user:a@acme.example")),
        ("G04", E, bound("key", "roles/editor", "group:a@acme.example")),
        ("G04", U, bound("key", "projects/acme/roles/special", MEMBER)),
        ("G04", U, lambda document: document.pop("project_policy")),
        ("G05", E, oidc(allowedAudiences=[AUDIENCE, "https://sts.googleapis.com"])),
        ("G05", E, oidc(allowedAudiences=["https://inference.acme.example"])),
        ("G05", E, oidc(allowedAudiences=[])),
        ("G06", E, oidc(issuerUri="https://accounts.google.com")),
        ("G07", E, condition("'disabled-since-boot'", "'enabled'")),
        ("G07", E, condition("'STABLE' in assertion.submods.confidential_space.support_attributes && ", "")),
        ("G07", E, condition("'STABLE' in", "'USABLE' in")),
        ("G08", E, bound("key", DECRYPTER, "serviceAccount:runtime@acme-prod.iam.gserviceaccount.com")),
    ],
)
def test_a_change_trips_its_row_and_no_other(
    rule: str, severity: Severity, change: Callable[[dict[str, Any]], Any]
) -> None:
    found = lint_export(parse_export(changed(change)), hsm=True)
    assert {(item.rule.name, item.severity) for item in found} == {(rule, severity)}, found


def test_the_safe_export_trips_none() -> None:
    assert lint_export(parse_export(json.dumps(EXPORT).encode()), hsm=True) == ()


def test_the_protection_level_counts_where_an_hsm_was_asked_for() -> None:
    software = changed(lambda document: document["key"]["versionTemplate"].update(protectionLevel="SOFTWARE"))
    (found,) = lint_export(parse_export(software), hsm=True)
    assert (found.rule, found.severity) == (Rule.G09, Severity.ERROR)
    assert lint_export(parse_export(software)) == ()
    (unknown,) = lint_export(parse_export(changed(lambda document: document.pop("key"))), hsm=True)
    assert (unknown.rule, unknown.severity) == (Rule.G09, Severity.UNPROVEN)


def test_every_row_has_a_case() -> None:
    source = test_a_change_trips_its_row_and_no_other.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {rule for rule, *_ in source} | {"G09"} == {rule.name for rule in Rule if rule.name.startswith("G")}


def changed_claims(path: str, value: Any) -> dict[str, Any]:
    claims = copy.deepcopy(CLAIMS)
    *parents, last = path.split(".")
    inner: Any = claims
    for name in parents:
        inner = inner[name]
    inner[last] = value
    return claims


@pytest.mark.parametrize(
    ("claims", "fails"),
    [
        (CLAIMS, []),
        (changed_claims("iss", "https://accounts.google.com"), ["issuer"]),
        (changed_claims("aud", "https://inference.acme.example"), ["audience"]),
        (changed_claims("dbgstat", "enabled"), ["condition"]),
        (changed_claims("submods.confidential_space.support_attributes", ["USABLE"]), ["condition"]),
        (changed_claims("submods.confidential_space", {}), ["condition"]),
        (changed_claims("secboot", "true"), ["condition"]),
        (changed_claims("submods.container.image_digest", "sha256:" + "cd" * 32), ["condition", "member"]),
        ({}, ["issuer", "audience", "condition", "member"]),
    ],
)
def test_a_token_is_judged(claims: dict[str, Any], fails: list[str]) -> None:
    judged = judge(parse_export(json.dumps(EXPORT).encode()), claims)
    assert [name for name, answer, _ in judged.steps if answer is not True] == fails
    assert judged.allowed is (not fails)


def test_a_member_of_another_pool_is_nobody() -> None:
    elsewhere = changed(
        lambda document: document["key_policy"]["bindings"][0].update(members=[MEMBER.replace("/enclaves/", "/x/")])
    )
    judged = judge(parse_export(elsewhere), CLAIMS)
    assert [name for name, answer, _ in judged.steps if answer is not True] == ["member"]


def test_a_condition_beyond_the_subset_is_unproven() -> None:
    export = parse_export(changed(provider(attributeCondition="assertion.swname.startsWith('C')")))
    assert judge(export, CLAIMS).allowed is None
    assert judge(export, CLAIMS | {"iss": "x"}).allowed is False


def test_claims_are_read_from_json_and_from_a_token() -> None:
    body = base64.urlsafe_b64encode(json.dumps(CLAIMS).encode()).rstrip(b"=")
    assert claims_of(b"e30." + body + b".c2ln\n") == claims_of(json.dumps(CLAIMS).encode()) == CLAIMS
    for broken in (b"e30.!!.c2ln", b"[]", b"a.b", b""):
        with pytest.raises(MalformedError):
            claims_of(broken)


@pytest.mark.parametrize(
    "change",
    [
        {"provider": {}},
        {"provider": 5},
        {"extra": {}},
        {"provider": EXPORT["provider"] | {"oidc": []}},
        {"provider": EXPORT["provider"] | {"attributeCondition": 5}},
        {"provider": EXPORT["provider"] | {"attributeMapping": {"a": 5}}},
        {"key_policy": {"bindings": {}}},
        {"key_policy": {"bindings": [{}]}},
        {"key_policy": {"bindings": [{"role": "x", "members": [5]}]}},
    ],
)
def test_an_export_that_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_export(json.dumps(EXPORT | change).encode())


@pytest.mark.fuzz
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*EXPORT, "oidc", "bindings", "role", "members"]), inner, max_size=4)
        ),
        max_leaves=10,
    )
)
def test_only_our_errors_leave_the_reader(value: Any) -> None:
    with contextlib.suppress(MalformedError):
        lint_export(parse_export(json.dumps(value).encode()))
