"""The rendered policy: silent under lint, the safe table under simulation."""

import json
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy.cast import Cast
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Rule, Severity
from ephemeralml.keyrelease.policy.lint import Subject, lint
from ephemeralml.keyrelease.policy.render import Roles, render
from ephemeralml.keyrelease.policy.simulate import World, simulate
from ephemeralml.keyrelease.policy.tuples import ReleaseTuple
from ephemeralml.resources import bundled

ACCOUNT = "111122223333"
ADMIN, PUBLISHER, PARENT, REWRAP = (f"arn:aws:iam::{ACCOUNT}:role/{name}" for name in ("a", "p", "h", "r"))
ROLES = Roles((ADMIN,), (PUBLISHER,), (PARENT,))
TEMPLATE = bundled("templates", "kms-policy.json.j2").read_text()
NOW = datetime(2026, 11, 20, tzinfo=UTC)


def image(letter: str, *, until: datetime | None = None, **more: bytes) -> ReleaseTuple:
    registers = {index: bytes.fromhex(f"{index}{letter}" * 48) for index in range(3)}
    registers |= {int(name[3:]): value for name, value in more.items()}
    return ReleaseTuple(f"image {letter}", MappingProxyType(registers), until)


SIGNER = ReleaseTuple("signer", MappingProxyType({8: b"\x88" * 48}), signer_only=True)


def rendered(*tuples: ReleaseTuple, roles: Roles = ROLES, models: tuple[str, ...] = ("minilm-l6-v2",)) -> KeyPolicy:
    return render(roles, models, tuples, TEMPLATE)


def loud(policy: KeyPolicy) -> list[tuple[str, Severity]]:
    return [(item.rule.name, item.severity) for item in lint(Subject(policy)) if item.severity is not Severity.INFO]


def differing(policy: KeyPolicy, *tuples: ReleaseTuple) -> list[str]:
    world = World(policy, f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/1", ACCOUNT, NOW)
    cells = simulate(world, Cast.of(policy, ACCOUNT), tuples)
    return [f"{cell.image} {cell.who} {cell.request} {cell.answer}" for cell in cells if cell.differs]


@pytest.mark.parametrize(
    "tuples",
    [
        (image("a"),),
        (image("a", until=NOW + timedelta(days=3)), image("b")),
        (image("a", pcr3=b"\x33" * 48, pcr4=b"\x44" * 48, pcr8=b"\x88" * 48),),
    ],
    ids=["one", "two, one ending", "role, instance and signer too"],
)
def test_it_is_silent_under_lint_and_safe_in_simulation(tuples: tuple[ReleaseTuple, ...]) -> None:
    policy = rendered(*tuples)
    assert loud(policy) == []
    assert differing(policy, *tuples) == []


def test_closed_it_releases_nothing() -> None:
    policy = rendered()
    assert loud(policy) == []
    assert [line.split()[2:4] for line in differing(policy, image("a"))] == [["parent", "A1"], ["parent", "A6"]]


def test_a_signer_is_released_with_a_warning_and_never_in_debug_mode() -> None:
    policy = rendered(SIGNER)
    assert loud(policy) == [("K14", Severity.WARNING)]
    assert differing(policy, SIGNER) == []


def test_a_rewrapping_role_is_said() -> None:
    policy = rendered(image("a"), roles=Roles((ADMIN,), (PUBLISHER,), (PARENT,), REWRAP))
    (found,) = (item for item in lint(Subject(policy)) if item.rule is Rule.K08)
    assert found.severity is Severity.WARNING
    assert REWRAP in found.path
    assert [name for name, _ in loud(policy)] == ["K08"]
    assert differing(policy, image("a")) == []


def test_a_rewrapping_role_takes_keys_out_and_in_for_the_models_alone() -> None:
    policy = rendered(image("a"), roles=Roles((ADMIN,), (PUBLISHER,), (PARENT,), REWRAP))
    statements = {item["Sid"]: item for item in json.loads(policy.text)["Statement"]}
    assert statements["Rewrap"]["Action"] == ["kms:ReEncryptFrom", "kms:ReEncryptTo"]
    assert statements["Rewrap"]["Condition"] == statements["Publish"]["Condition"]
    assert REWRAP in statements["Look"]["Principal"]["AWS"]
    assert "kms:ReEncryptFrom" not in statements["NoOtherWayOut"]["Action"]
    assert statements["NoOtherRewrap"]["Action"] == "kms:ReEncryptFrom"


def test_delegated_administration_is_unproven_until_the_roles_policies_are_known() -> None:
    policy = rendered(image("a"), roles=Roles((ADMIN,), (PUBLISHER,), (PARENT,), None, f"arn:aws:iam::{ACCOUNT}:root"))
    assert {name for name, _ in loud(policy)} == {"K18"}
    assert differing(policy, image("a")) == []


def test_it_is_what_the_specification_prints() -> None:
    statements = {item["Sid"]: item for item in json.loads(rendered(image("a")).text)["Statement"]}
    assert list(statements) == ["Administer", "Look", "Publish", "Release1", "OnlyAttested", "NoOtherWayOut"]
    attested = "kms:RecipientAttestation:"
    assert statements["Release1"]["Condition"] == {
        "StringEqualsIgnoreCase": {
            f"{attested}ImageSha384": "0a" * 48,
            f"{attested}PCR1": "1a" * 48,
            f"{attested}PCR2": "2a" * 48,
        },
        "StringEquals": {"kms:EncryptionContext:model_id": "minilm-l6-v2"},
        "Null": {"kms:EncryptionContext:version": "false"},
    }
    assert statements["OnlyAttested"]["Condition"] == {
        "StringNotEqualsIgnoreCase": {f"{attested}ImageSha384": ["0a" * 48]}
    }
    assert statements["NoOtherWayOut"]["Principal"] == "*"


def test_names_cannot_leave_their_place() -> None:
    hostile = '"}, "x": {"'
    policy = rendered(image("a"), models=(hostile,))
    assert json.loads(policy.text)["Statement"][2]["Condition"]["StringEquals"] == {
        "kms:EncryptionContext:model_id": hostile
    }


@pytest.mark.parametrize(
    ("roles", "tuples", "models"),
    [
        (Roles((), (PUBLISHER,), (PARENT,)), (), ("m",)),
        (Roles((ADMIN,), (PUBLISHER,), ()), (), ("m",)),
        (Roles((ADMIN,), (ADMIN,), (PARENT,)), (), ("m",)),
        (Roles((ADMIN,), (PUBLISHER,), (PARENT,), PARENT), (), ("m",)),
        (Roles(("*",), (PUBLISHER,), (PARENT,)), (), ("m",)),
        (Roles((f"arn:aws:iam::{ACCOUNT}:root",), (PUBLISHER,), (PARENT,)), (), ("m",)),
        (ROLES, (), ()),
        (ROLES, (), ("${aws:username}",)),
        (ROLES, (), ("x" * 257,)),
        (ROLES, (image("a"), SIGNER), ("m",)),
        (ROLES, (), tuple(f"{number}".rjust(256, "m") for number in range(140))),
    ],
)
def test_what_is_not_rendered(roles: Roles, tuples: Any, models: Any) -> None:
    with pytest.raises(MalformedError):
        rendered(*tuples, roles=roles, models=models)
