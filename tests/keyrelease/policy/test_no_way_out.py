"""What lint calls clean admits no path to plaintext without a document (key-release.md section 9).

Random policies around the safe one; each that lint passes is searched: every
principal, action, context, document and address. The evaluator that searches
knows nothing of how lint reasons.
"""

import itertools
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ephemeralml.keyrelease.policy import conditions
from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.evaluate import Grant, Request, evaluate
from ephemeralml.keyrelease.policy.findings import Rule, Severity
from ephemeralml.keyrelease.policy.lint import Subject, lint, worst

SAFE = json.loads((Path(__file__).resolve().parents[2] / "vectors" / "key-policy" / "safe.json").read_text())["policy"]
ACCOUNT = "111122223333"
IAM = f"arn:aws:iam::{ACCOUNT}:"
KEY = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1"
ADMIN, PUBLISHER, PARENT, REWRAP, ANYBODY = (
    f"{IAM}role/{name}" for name in ("kms-admin", "model-publisher", "enclave-parent", "rewrap", "x")
)
FOREIGN = "arn:aws:iam::999988887777:role/enclave-parent"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/enclave-parent/i-1"
PRINCIPALS = [ADMIN, PUBLISHER, PARENT, REWRAP, ANYBODY, f"{IAM}root", FOREIGN, SESSION, f"{IAM}user/u"]
EVERYTHING = PolicyDocument.parse('{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}')
WAYS_OUT = [
    f"kms:{name}"
    for name in ("ReEncryptFrom", "CreateGrant", "ReplicateKey", "ImportKeyMaterial", "DeriveSharedSecret")
]

A, B = [bytes.fromhex(f"{index}a" * 48) for index in range(3)], [bytes.fromhex(f"{index}b" * 48) for index in range(3)]
EVIL = [b"\xee" * 48] * 3
"""An image of the attacker's: under its own certificate, in the same role and instance."""


def registers(image: list[bytes], signer: bytes) -> dict[int, bytes]:
    return dict(enumerate(image)) | {3: A[0], 4: A[1], 8: signer, **dict.fromkeys((5, 6, 7, 9), bytes(48))}


DOCUMENTS: list[dict[int, bytes] | None] = [
    None,
    registers(EVIL, EVIL[0]),
    registers([bytes(48)] * 3, A[0]),
    registers([EVIL[0], A[1], EVIL[0]], EVIL[0]),
    registers([EVIL[0], EVIL[0], A[2]], EVIL[0]),
    registers([EVIL[0], A[1], B[2]], EVIL[0]),
]
"""No document, and documents of images that nobody listed whole."""
CONTEXTS = [None, {"model_id": "minilm-l6-v2", "version": "1.0.0"}, {"model_id": "other", "version": "1"}]

IMAGE, PCR = "kms:RecipientAttestation:ImageSha384", "kms:RecipientAttestation:PCR"
keys = st.sampled_from(
    [
        IMAGE,
        IMAGE.lower(),
        f"{PCR}0",
        f"{PCR}1",
        f"{PCR}2",
        f"{PCR}3",
        f"{PCR}8",
        f"{PCR}5",
        "kms:RecipientAttestation:PCR",
        "kms:EncryptionContext:model_id",
        "aws:PrincipalArn",
        "aws:SourceIp",
        "aws:CurrentTime",
        "aws:Weather",
    ]
)
operators = st.sampled_from(
    [
        "StringEquals",
        "StringEqualsIgnoreCase",
        "StringLike",
        "StringNotEquals",
        "StringNotEqualsIgnoreCase",
        "StringNotLike",
        "StringEqualsIfExists",
        "StringNotEqualsIfExists",
        "ForAllValues:StringEquals",
        "ForAnyValue:StringNotEquals",
        "ForAnyValue:StringEquals",
        "ForAllValues:StringNotEquals",
        "Null",
        "ArnNotEquals",
        "ArnLike",
        "Bool",
        "StringIs",
    ]
)
values = st.lists(
    st.sampled_from(
        [item.hex() for item in (A[0], A[1], A[2], B[0], bytes(48))]
        + [
            A[0].hex().upper(),
            "*",
            "0a*",
            "true",
            "false",
            "minilm-l6-v2",
            REWRAP,
            PARENT,
            "${aws:username}",
            "10.0.0.0/8",
        ]
    ),
    max_size=3,
)
condition = st.dictionaries(operators, st.dictionaries(keys, values, min_size=1, max_size=2), max_size=2)
actions = st.lists(
    st.sampled_from(
        [
            "kms:Decrypt",
            "kms:*",
            "*",
            "kms:De*",
            "kms:decrypt",
            "kms:DescribeKey",
            "kms:GenerateDataKey",
            "kms:ReEncrypt*",
            *WAYS_OUT,
            "kms:PutKeyPolicy",
        ]
    ),
    min_size=1,
    max_size=4,
)
who = st.one_of(
    st.just("*"),
    st.lists(st.sampled_from([*PRINCIPALS, ACCOUNT]), min_size=1, max_size=2, unique=True).map(
        lambda arns: {"AWS": arns}
    ),
)


@st.composite
def statements(draw: st.DrawFn) -> dict[str, Any]:
    made: dict[str, Any] = {
        "Effect": draw(st.sampled_from(["Allow", "Deny"])),
        draw(st.sampled_from(["Principal"] * 7 + ["NotPrincipal"])): draw(who),
        draw(st.sampled_from(["Action"] * 7 + ["NotAction"])): draw(actions),
        "Condition": draw(condition),
    }
    return made | draw(st.sampled_from([{"Resource": "*"}] * 6 + [{"Resource": KEY}, {}, {"NotResource": "x"}]))


@st.composite
def changed(draw: st.DrawFn, statement: dict[str, Any]) -> dict[str, Any]:
    """A statement of the safe policy with one element replaced."""
    element = draw(st.sampled_from(["Principal", "Action", "Condition", "Resource"]))
    new = {"Principal": who, "Action": actions, "Condition": condition, "Resource": st.sampled_from(["*", KEY, "x"])}
    return statement | {element: draw(new[element])}


@st.composite
def policies(draw: st.DrawFn) -> KeyPolicy:
    """The safe policy with statements left out, changed and added."""
    fate = st.sampled_from(["keep"] * 6 + ["change", "drop"])
    kept = []
    for statement in SAFE["Statement"]:
        match draw(fate):
            case "keep":
                kept.append(statement)
            case "change":
                kept.append(draw(changed(statement)))
    added = draw(st.lists(st.one_of(statements(), st.sampled_from(SAFE["Statement"]).flatmap(changed)), max_size=2))
    made = [{name: value for name, value in item.items() if name != "Sid"} for item in (*kept, *added)]
    return KeyPolicy.parse(json.dumps({"Version": "2012-10-17", "Statement": made or SAFE["Statement"]}))


def open_paths(policy: KeyPolicy, grants: tuple[Grant, ...]) -> list[str]:
    """Every way to plaintext without a document of a listed image, for callers with every identity policy."""
    found = []
    own = {arn: [EVERYTHING] for arn in PRINCIPALS}
    for principal, action, context, pcrs, address in itertools.product(
        PRINCIPALS, ["kms:Decrypt", *WAYS_OUT], CONTEXTS, DOCUMENTS, ["10.0.0.1", "8.8.8.8"]
    ):
        carried = conditions.build(
            principal=principal,
            account=ACCOUNT,
            context=context,
            pcrs=pcrs,
            now=datetime(2026, 11, 20, tzinfo=UTC),
            source_ip=address,
            action=action,
        )
        decision = evaluate(
            Request(principal, action, KEY, carried),
            policy=policy,
            grants=grants,
            identity_policies=own,
            account=ACCOUNT,
        )
        if decision.allowed:
            found.append(f"{principal} {action} {pcrs is not None}: {decision.reason}")
    return found


ALL_OPERATIONS = ("Decrypt", "ReEncryptFrom", "CreateGrant", "DeriveSharedSecret")
seen = {"clean": 0, "refused": 0}


@pytest.mark.fuzz
@settings(max_examples=3 * settings().max_examples)
@given(policies())
def test_a_policy_that_lint_passes_admits_no_path(policy: KeyPolicy) -> None:
    grants = tuple(Grant("g", who, ALL_OPERATIONS) for who in (ANYBODY, PARENT))
    found = lint(Subject(policy))
    bypassed = {item.rule for item in found if item.severity is Severity.WARNING} & {Rule.K08, Rule.K12, Rule.K14}
    if worst(found) is not None:
        seen["refused"] += 1
        return
    seen["clean"] += 1
    paths = open_paths(policy, () if Rule.K12 in bypassed else grants)
    if Rule.K08 in bypassed:  # lint says that one role may rewrap
        excepted = {item.path.split()[0] for item in found if item.rule is Rule.K08}
        paths = [path for path in paths if path.split()[0] not in excepted]
    assert not paths, policy.text


def test_the_search_saw_both_kinds() -> None:
    """It would hold nothing if no random policy passed lint."""
    assert seen["clean"] >= 10
    assert seen["refused"] >= 10


def test_the_search_finds_what_is_there() -> None:
    hole = {"Effect": "Allow", "Principal": {"AWS": PARENT}, "Action": "kms:Decrypt", "Resource": "*"}
    assert open_paths(KeyPolicy.parse(json.dumps({"Version": "2012-10-17", "Statement": [hole]})), ())
    assert not open_paths(KeyPolicy.parse(json.dumps(SAFE)), (Grant("g", ANYBODY, ALL_OPERATIONS),))
