"""Lint's corners: what a check that is nearly right would let through (key-release.md section 5)."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Severity
from ephemeralml.keyrelease.policy.lint import Subject, lint

MADE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "vectors" / "key-policy" / "generate.py"))
ACCOUNT, PARENT, IMAGE, PCR, MODEL = (MADE[name] for name in ("ACCOUNT", "PARENT", "IMAGE", "PCR", "MODEL"))
EXCEPTED = MADE["EXCEPTED"]
A, B = MADE["A"], MADE["B"]
allow, deny, changed, release, image, only, without = (
    MADE[name] for name in ("allow", "deny", "changed", "release", "image", "only", "without")
)


def found(policy: dict[str, Any], severity: Severity = Severity.ERROR) -> set[str]:
    findings = lint(Subject(KeyPolicy.parse(json.dumps(policy))))
    return {item.rule.name for item in findings if item.severity is severity}


def only_on(*conditions: dict[str, Any]) -> dict[str, Any]:
    """The safe policy with other Denies of Decrypt."""
    denies = [deny(f"Only{index}", "kms:Decrypt", condition) for index, condition in enumerate(conditions)]
    return changed("OnlyAttested", extra=denies)


def spared(operator: str, who: Any) -> dict[str, Any]:
    """The safe policy, rewrapping denied to all but *who*."""
    statement = deny("NoOtherRewrap", "kms:ReEncryptFrom", {operator: {"aws:PrincipalArn": who}})
    return changed(NoOtherWayOut=deny("NoOtherWayOut", EXCEPTED), extra=[statement])


@pytest.mark.parametrize(
    "condition",
    [
        {"StringEqualsIfExists": {"aws:PrincipalArn": PARENT}},
        {"ForAllValues:StringEquals": {"aws:PrincipalArn": PARENT}},
        {"ForAllValues:ArnLike": {"aws:PrincipalArn": PARENT}},
        {"ArnLikeIfExists": {"aws:PrincipalArn": PARENT}},
        {"StringLike": {"aws:PrincipalArn": "*"}},
        {"ArnLike": {"aws:PrincipalArn": [PARENT, "arn:aws:iam::*:role/x"]}},
        {"StringNotEquals": {"aws:PrincipalArn": PARENT}},
    ],
)
def test_a_condition_that_fixes_nobody(condition: dict[str, Any]) -> None:
    look = without(allow("Look", PARENT, "kms:DescribeKey", condition), "Principal") | {"Principal": "*"}
    assert found(changed(Look=look)) == {"K03"}


@pytest.mark.parametrize("operator", ["ArnNotEquals", "ArnNotLike", "StringNotEquals"])
@pytest.mark.parametrize(
    "who",
    [
        [f"{ACCOUNT}role/rewrap", f"{ACCOUNT}role/other"],
        f"{ACCOUNT}root",
        f"{ACCOUNT}role/*",
        f"{ACCOUNT}role/${{aws:username}}",
        "rewrap",
    ],
)
def test_an_exception_is_one_role_by_name(operator: str, who: Any) -> None:
    assert found(spared(operator, f"{ACCOUNT}role/rewrap")) == set()
    assert found(spared(operator, who)) == {"K08"}


@pytest.mark.parametrize(
    "operator", ["ArnNotEqualsIfExists", "StringNotEqualsIgnoreCase", "ForAnyValue:ArnNotEquals", "ArnEquals"]
)
def test_an_exception_is_written_plainly(operator: str) -> None:
    assert found(spared(operator, f"{ACCOUNT}role/rewrap")) == {"K08"}


@pytest.mark.parametrize(
    "conditions",
    [
        # Each of these stops whoever has no document; none keeps a grantee's document to listed images.
        [{"StringNotEqualsIgnoreCase": {IMAGE: A[0], f"{PCR}1": A[1]}}],
        [{"StringNotLike": {IMAGE: "*"}}],
        [{"StringNotLike": {IMAGE: "0a*"}}],
        [{"StringNotEqualsIgnoreCase": {f"{PCR}8": A[0]}}],
        [{"StringNotEqualsIgnoreCase": {f"{PCR}{index}": [A[index], B[index]]}} for index in (1, 2)],
        [{"ArnNotEquals": {IMAGE: A[0]}}],
        [{"Null": {IMAGE: "true"}}],
    ],
)
def test_a_deny_that_asks_for_a_document_and_for_no_image(conditions: list[dict[str, Any]]) -> None:
    assert "K08" in found(only_on(*conditions))


def test_a_deny_by_not_action_proves_nothing() -> None:
    statement = without(deny("OnlyAttested", [], {"StringNotEqualsIgnoreCase": {IMAGE: A[0]}}), "Action")
    assert found(changed(OnlyAttested=statement | {"NotAction": "kms:DescribeKey"})) == {"K08"}


def test_everyone_but_some_are_people() -> None:
    audit = without(allow("Audit", PARENT, "kms:Decrypt", MODEL), "Principal") | {"NotPrincipal": {"AWS": PARENT}}
    assert "K01" in found(changed("OnlyAttested", "NoOtherWayOut", extra=[audit]))


@pytest.mark.parametrize(
    "fields",
    [
        {"NotResource": "x"},
        {"Resource": "arn:aws:kms:*:*:key/${aws:username}"},
        {"Condition": {"StringIs": {"aws:userid": "x"}}},
        {"Condition": {"StringEquals": {"aws:Weather": "sun"}}},
        {"NotPrincipal": {"AWS": PARENT}},
        {"NotAction": "kms:PutKeyPolicy"},
    ],
)
@pytest.mark.parametrize("action", ["kms:Decrypt", "kms:CreateGrant"])
def test_what_cannot_be_proven_of_a_way_out(fields: dict[str, Any], action: str) -> None:
    statement = allow("Audit", f"{ACCOUNT}role/audit", action)
    for name in fields:
        statement.pop(name.removeprefix("Not"), None)
    assert "K18" in found(changed(extra=[statement | fields]), Severity.UNPROVEN)


@pytest.mark.parametrize("operator", ["ArnEquals", "ArnLike", "Bool", "NumericEquals"])
def test_a_register_is_compared_as_text(operator: str) -> None:
    assert "K05" in found(changed(Release1=release(image(A)) | {"Condition": {operator: image(A)} | MODEL}))


def test_one_value_twice_is_no_cross_product() -> None:
    twice = {name: [value, value.upper()] for name, value in image(A).items()}
    assert found(changed(Release1=release(twice))) == set()


@pytest.mark.parametrize("action", ["kms:PutKeyPolicy", "kms:CreateGrant", "kms:ReplicateKey", "kms:ReEncryptFrom"])
@pytest.mark.parametrize(
    "who", [PARENT, MADE["PUBLISHER"], f"{ACCOUNT.replace('iam', 'sts')}assumed-role/enclave-parent/i"]
)
def test_a_working_role_has_no_way_around(action: str, who: str) -> None:
    assert "K15" in found(changed("NoOtherWayOut", extra=[allow("Also", who, action)]))
    assert ("K15" in found(changed(extra=[allow("Also", who, action)]))) is (action == "kms:PutKeyPolicy")
