"""Rotation: what each phase changes, and what it leaves alone (key-release.md section 6)."""

import json
from datetime import timedelta

import pytest

from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.keyrelease.policy.document import KeyPolicy
from ephemeralml.keyrelease.policy.findings import Severity
from ephemeralml.keyrelease.policy.plan import (
    Plan,
    parse_policy_file,
    plan_addition,
    plan_again,
    plan_removal,
    plan_replacement,
)
from tests.keyrelease.policy.test_render import NOW, PARENT, SIGNER, differing, image, loud, rendered

A, B, C = image("a"), image("b"), image("c")
UNTIL = NOW + timedelta(days=14)


def add(before: KeyPolicy, one=B, **more) -> Plan:
    return plan_addition(before, one, old_until=UNTIL, **more)


def condition(policy: KeyPolicy, sid: str) -> dict:
    return next(item for item in json.loads(policy.text)["Statement"] if item["Sid"] == sid).get("Condition", {})


def test_add_lets_the_new_image_in_and_gives_the_old_one_an_end() -> None:
    plan = add(rendered(A))
    assert condition(plan.after, "Release1")["DateLessThan"] == {"aws:CurrentTime": "2026-12-04T00:00:00Z"}
    release = condition(plan.after, "Release2")
    assert release["StringEquals"] == {"kms:EncryptionContext:model_id": "minilm-l6-v2"}
    assert "DateLessThan" not in release
    only = condition(plan.after, "OnlyAttested")["StringNotEqualsIgnoreCase"]
    assert list(only.values()) == [["0a" * 48, "0b" * 48]]
    assert loud(plan.after) == []
    assert differing(plan.after, A, B) == []
    assert plan.changes
    assert any(line.startswith("+") and "0b0b" in line for line in plan.diff())


def test_remove_takes_the_old_one_out() -> None:
    plan = plan_removal(add(rendered(A)).after, A)
    assert loud(plan.after) == []
    assert differing(plan.after, B) == []
    assert "0a0a" not in plan.after.text
    assert [line.split()[2:4] for line in differing(plan.after, A)] == [["parent", "A1"], ["parent", "A6"]]


def test_a_round_leaves_everything_else_as_it_was() -> None:
    before = json.loads(rendered(A).text)["Statement"]
    after = json.loads(plan_removal(add(rendered(A)).after, A).after.text)["Statement"]
    kept = [item for item in after if item["Sid"] not in ("Release2", "OnlyAttested")]
    assert kept == [item for item in before if item["Sid"] not in ("Release1", "OnlyAttested")]


def test_adding_what_is_there_changes_nothing_but_the_others_end() -> None:
    assert not add(rendered(A), A).changes
    again = add(add(rendered(A)).after)
    assert not again.changes


def test_an_end_is_only_ever_brought_forward() -> None:
    early = image("a", until=NOW + timedelta(days=1))
    assert condition(add(rendered(early)).after, "Release1")["DateLessThan"] == {
        "aws:CurrentTime": "2026-11-21T00:00:00Z"
    }
    late = image("a", until=NOW + timedelta(days=99))
    assert condition(add(rendered(late)).after, "Release1")["DateLessThan"] == {
        "aws:CurrentTime": "2026-12-04T00:00:00Z"
    }


def test_the_first_image_of_a_closed_policy() -> None:
    with pytest.raises(RejectedError, match="no role"):
        add(rendered(), A)
    plan = add(rendered(), A, parents=[PARENT])
    assert loud(plan.after) == []
    assert differing(plan.after, A) == []
    assert condition(plan.after, "Release1")["StringEquals"] == {"kms:EncryptionContext:model_id": "minilm-l6-v2"}


def test_the_last_image_leaves_a_closed_policy() -> None:
    plan = plan_removal(rendered(A), A)
    assert json.loads(plan.after.text) == json.loads(rendered().text)


def test_a_plan_that_was_begun_is_judged_again() -> None:
    plan = add(rendered(A))
    assert plan_again(plan.phase, plan.before, plan.after, (B,)).diff() == plan.diff()
    with pytest.raises(RejectedError, match="not about 'image c'"):
        plan_again(plan.phase, plan.before, plan.after, (C,))
    gone = plan_removal(plan.after, A)
    assert plan_again(gone.phase, gone.before, gone.after, (A,)).diff() == gone.diff()
    with pytest.raises(RejectedError, match="not about 'image b'"):
        plan_again(gone.phase, gone.before, gone.after, (B,))
    bare = KeyPolicy.parse(json.dumps({"Statement": json.loads(plan.after.text)["Statement"][:-1]}))
    with pytest.raises(RejectedError, match="K08"):
        plan_again(plan.phase, plan.before, bare, (B,))


def test_certificates_rotate_alike() -> None:
    first = add(rendered(), SIGNER, parents=[PARENT])
    assert {severity for _, severity in loud(first.after)} == {Severity.WARNING}
    assert differing(first.after, SIGNER) == []


def test_what_cannot_be_taken_out() -> None:
    with pytest.raises(RejectedError, match="not released"):
        plan_removal(rendered(A), B)


def test_an_image_that_shares_a_register_stays() -> None:
    shared = plan_removal(rendered(A, image("b", pcr8=b"\x08" * 48)), A)
    assert "1b1b" in shared.after.text


def test_an_unsafe_policy_is_not_planned() -> None:
    hole = json.loads(rendered(A).text)
    hole["Statement"] = [item for item in hole["Statement"] if item["Sid"] != "NoOtherWayOut"]
    with pytest.raises(RejectedError, match="K08"):
        plan_replacement(rendered(), KeyPolicy.parse(json.dumps(hole)))
    with pytest.raises(RejectedError, match="K08"):
        add(KeyPolicy.parse(json.dumps(hole)))


def test_a_policy_without_a_list_of_images_has_no_place_for_one() -> None:
    bare = json.loads(rendered(A).text)
    bare["Statement"] = [item for item in bare["Statement"] if item["Sid"] != "OnlyAttested"]
    with pytest.raises(RejectedError, match="no Deny lists"):
        add(KeyPolicy.parse(json.dumps(bare)))


def test_a_deny_of_several_actions_is_not_opened_for_one() -> None:
    closed = json.loads(rendered().text)
    kept = [item for item in closed["Statement"] if item["Sid"] not in ("OnlyAttested", "NoOtherWayOut")]
    ways_out = next(item for item in closed["Statement"] if item["Sid"] == "NoOtherWayOut")["Action"]
    both = {"Sid": "Both", "Effect": "Deny", "Principal": "*", "Resource": "*", "Action": ["kms:Decrypt", *ways_out]}
    with pytest.raises(RejectedError, match="names other actions"):
        add(KeyPolicy.parse(json.dumps({"Version": "2012-10-17", "Statement": [*kept, both]})), A, parents=[PARENT])


def test_a_policy_file_is_bare_or_what_the_service_printed() -> None:
    policy = rendered(A)
    assert parse_policy_file(policy.text.encode()).statements == policy.statements
    printed = json.dumps({"Policy": policy.text, "PolicyName": "default"}).encode()
    assert parse_policy_file(printed).text == policy.text
    with pytest.raises(MalformedError):
        parse_policy_file(b'{"Policy": 5}')
