"""The next key policy of a rotation, from the present one (key-release.md section 6).

Two phases: *add* lets the new image in beside the old one, which ends by
itself; *remove* takes the old one out. What is not about these images stays as
it is, whoever wrote it.
"""

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from ephemeralml import clock
from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.keyrelease.policy.document import MAX_POLICY_BYTES, KeyPolicy, Statement
from ephemeralml.keyrelease.policy.evaluate import Grant
from ephemeralml.keyrelease.policy.findings import Finding, Severity
from ephemeralml.keyrelease.policy.lint import Subject, lint
from ephemeralml.keyrelease.policy.reach import DECRYPT, closed, is_context, pins, reaching, register_of, registers
from ephemeralml.keyrelease.policy.render import only_attested, release_conditions
from ephemeralml.keyrelease.policy.tuples import ZERO, ReleaseTuple

REFUSED = "KEY_POLICY_REFUSED"
_COMPARE = "StringEqualsIgnoreCase"
_DIFFER = "StringNotEqualsIgnoreCase"


class Phase(Enum):
    """What a run of `apply` does."""

    ADD = "add"
    REMOVE = "remove"
    REPLACE = "replace"
    """Puts a whole policy, such as the first one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A change of a key's policy."""

    phase: Phase
    before: KeyPolicy
    after: KeyPolicy
    findings: tuple[Finding, ...]
    """What lint says of the policy to be."""

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return not same_policy(self.before.text, self.after.text)

    def diff(self) -> list[str]:
        """Return the change, line by line."""
        before, after = (_pretty(policy.text).splitlines() for policy in (self.before, self.after))
        return list(difflib.unified_diff(before, after, "key policy now", "key policy then", lineterm=""))

    def consequences(self) -> list[str]:
        """Return what the change means for those who get the key now, one plain sentence each."""
        old, new = _release_places(self.before), _release_places(self.after)
        if old and not new:
            return ["this closes the key: no image gets it afterwards, until one is added"]
        if self.phase is not Phase.ADD:
            return []
        # An addition changes nothing of what stands before it but the dates.
        ending: dict[str, list[str]] = {}
        for place in old:
            before, after = self.before.statements[place], self.after.statements[place]
            if (end := _ends(after)) is not None and end != _ends(before):
                ending.setdefault(end, []).append(after.name)
        return [
            f"the images of {', '.join(names)} get the key until {end}, and no longer (--overlap-days)"
            for end, names in ending.items()
        ]


def _ends(statement: Statement) -> str | None:
    found = (clause.values for clause in statement.clauses if clause.operator.name.startswith("DateLess"))
    return next((values[0] for values in found if values), None)


def same_policy(one: str, other: str) -> bool:
    """Return whether two policies say the same, whatever their spaces."""
    return _load(one) == _load(other)


def plan_replacement(before: KeyPolicy, after: KeyPolicy, *, grants: Sequence[Grant] = ()) -> Plan:
    """Plan to put a whole policy; *grants* are the key's.

    Raises:
        RejectedError: Lint finds an error in it.
    """
    return _planned(Phase.REPLACE, before, after, grants)


def plan_addition(
    before: KeyPolicy,
    one: ReleaseTuple,
    *,
    old_until: datetime,
    parents: Sequence[str] = (),
    grants: Sequence[Grant] = (),
) -> Plan:
    """Plan to let *one* in; what is released already ends at *old_until* at the latest.

    Args:
        before: The key's policy.
        one: The new image.
        old_until: When the other images end.
        parents: Whom to release to, where nothing is released yet.
        grants: The key's.

    Raises:
        RejectedError: The policy has no place for it, or lint refuses the result.
    """
    document = _load(before.text)
    items, read = document["Statement"], before.statements
    old = _release_places(before)
    for place in old:
        if _is_release_of(read[place], one):
            continue
        _end_at(items[place], old_until)
    if not any(_is_release_of(read[place], one) for place in old):
        made = _new_release(items, before, old, one, parents)
        items.insert(old[-1] + 1 if old else _before_denies(before), made)
    _relist(items, one, lambda listed: {*listed, *_own(one).values()})
    return _planned(Phase.ADD, before, KeyPolicy.parse(_text(document)), grants)


def plan_removal(before: KeyPolicy, one: ReleaseTuple, *, grants: Sequence[Grant] = ()) -> Plan:
    """Plan to take *one* out; without another image the policy is closed. *grants* are the key's.

    Raises:
        RejectedError: It is not released, or lint refuses the result.
    """
    document = _load(before.text)
    items, read = document["Statement"], before.statements
    gone = [place for place in _release_places(before) if _is_release_of(read[place], one)]
    kept = [place for place in _release_places(before) if place not in gone]
    register = 8 if one.signer_only else 0
    still = {value for place in kept for value in registers(read[place]).get(register, set())}
    listed = any(index == register and one.value(register) in values for _, index, values in pins(before))
    if not gone and not (listed and one.value(register) not in still):
        raise RejectedError(
            f"the key is not released to {one.name!a}", code=REFUSED, hint="is it the old image's tuple?"
        )
    _relist(
        items, one, lambda values: {value for value in values if value.lower() != one.value(register) or value in still}
    )
    document["Statement"] = [item for place, item in enumerate(items) if place not in gone]
    return _planned(Phase.REMOVE, before, KeyPolicy.parse(_text(document)), grants)


def plan_again(
    phase: Phase,
    before: KeyPolicy,
    after: KeyPolicy,
    images: Sequence[ReleaseTuple],
    *,
    grants: Sequence[Grant] = (),
) -> Plan:
    """Return the plan of a run that was interrupted, judged as when it was made.

    Args:
        phase: The run's.
        before: The policy that it planned from.
        after: The one that it puts.
        images: What the command is about now.
        grants: The key's.

    Raises:
        RejectedError: The plan is not about *images*, or lint refuses it.
    """
    released = [after.statements[place] for place in _release_places(after)]
    for one in images:
        if any(_is_release_of(statement, one) for statement in released) is not (phase is Phase.ADD):
            raise RejectedError(
                f"the interrupted run is not about {one.name!a}",
                code=REFUSED,
                hint="give the command that was interrupted, or remove the state file and plan again",
            )
    return _planned(phase, before, after, grants)


def _planned(phase: Phase, before: KeyPolicy, after: KeyPolicy, grants: Sequence[Grant]) -> Plan:
    if after.unknown_operators:
        raise RejectedError(f"KMS knows no operator {after.unknown_operators[0][:64]!a}", code=REFUSED)
    findings = lint(Subject(after, tuple(grants)))
    worst = next((finding for finding in findings if finding.severity is Severity.ERROR), None)
    if worst is not None:
        where = f" in {worst.statement}" if worst.statement else ""
        raise RejectedError(
            f"the policy to be would not be safe: {worst.rule.name}{where}: {worst.path}", code=REFUSED, hint=worst.fix
        )
    return Plan(phase, before, after, findings)


def _load(text: str) -> dict[str, Any]:
    document = strict_json.parse_object(text.encode(), max_bytes=MAX_POLICY_BYTES)
    if not isinstance(document.get("Statement"), list):
        document["Statement"] = [document.get("Statement")]
    return document


def _pretty(text: str) -> str:
    return json.dumps(_load(text), indent=1, ensure_ascii=False)


def _text(document: dict[str, Any]) -> str:
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return text if len(text.encode()) <= MAX_POLICY_BYTES else json.dumps(document, separators=(",", ":"))


def _release_places(policy: KeyPolicy) -> list[int]:
    releasing = [id(statement) for statement in reaching(policy, DECRYPT) if registers(statement)]
    return [place for place, statement in enumerate(policy.statements) if id(statement) in releasing]


def _is_release_of(statement: Statement, one: ReleaseTuple) -> bool:
    """Return whether the statement is *one*'s: its registers and no others' values."""
    listed = registers(statement)
    held = {index: value.hex() for index, value in one.registers.items()}
    return all(values == {held.get(index)} for index, values in listed.items())


def _end_at(item: dict[str, Any], until: datetime) -> None:
    """Give a statement an end, unless it has an earlier one."""
    condition = item.setdefault("Condition", {})
    present = condition.get("DateLessThan", {}).get("aws:CurrentTime")
    try:
        earlier = present is not None and clock.parse_rfc3339(present) <= until
    except (ValueError, TypeError):
        earlier = False
    if not earlier:
        condition.setdefault("DateLessThan", {})["aws:CurrentTime"] = clock.format_rfc3339(until.replace(microsecond=0))


def _new_release(
    items: list[dict[str, Any]], before: KeyPolicy, old: list[int], one: ReleaseTuple, parents: Sequence[str]
) -> dict[str, Any]:
    """Return the statement for *one*: like the present ones, or as `render` would write it."""
    sids = {item.get("Sid") for item in items}
    number = next(number for number in range(1, len(items) + 2) if f"Release{number}" not in sids)
    condition: dict[str, Any] = {_COMPARE: release_conditions(one)}
    if old:
        principal = items[old[-1]].get("Principal")
        for operator, keys in items[old[-1]].get("Condition", {}).items():
            rest = {key: value for key, value in keys.items() if register_of(key) is None and key != "aws:CurrentTime"}
            if rest:
                condition[operator] = condition.get(operator, {}) | rest
    elif parents:
        principal = {"AWS": parents[0] if len(parents) == 1 else list(parents)}
        for operator, keys in _publishing_condition(items, before).items():
            condition[operator] = condition.get(operator, {}) | keys
    else:
        raise RejectedError(
            "nothing is released yet, so there is no role to release to", code=REFUSED, hint="name it with --parent"
        )
    if one.until is not None:
        condition["DateLessThan"] = {"aws:CurrentTime": clock.format_rfc3339(one.until)}
    return {
        "Sid": f"Release{number}",
        "Effect": "Allow",
        "Principal": principal,
        "Resource": "*",
        "Action": DECRYPT,
        "Condition": condition,
    }


def _publishing_condition(items: list[dict[str, Any]], before: KeyPolicy) -> dict[str, Any]:
    """Return what wrapping demands of the encryption context: releasing demands the same."""
    for statement, item in zip(before.statements, items, strict=True):
        if statement in reaching(before, "kms:GenerateDataKey") and any(
            is_context(one.key) for one in statement.clauses
        ):
            found = {
                operator: {key: value for key, value in keys.items() if is_context(key)}
                for operator, keys in item["Condition"].items()
            }
            return {operator: keys for operator, keys in found.items() if keys}
    return {}


def _before_denies(policy: KeyPolicy) -> int:
    places = [place for place, statement in enumerate(policy.statements) if statement.effect.value == "Deny"]
    return places[0] if places else len(policy.statements)


def _own(one: ReleaseTuple) -> dict[str, str]:
    ((key, values),) = only_attested([one]).items()
    return {key: values[0]}


def _relist(items: list[dict[str, Any]], one: ReleaseTuple, change: Callable[[set[str]], set[str]]) -> None:
    """Change the values that Denies of Decrypt let through; without a value such a Deny has no condition.

    Raises:
        RejectedError: No Deny of Decrypt is of that kind.
    """
    (key,) = _own(one)
    policy = KeyPolicy.parse(json.dumps({"Version": "2012-10-17", "Statement": items}))
    if closed(policy):
        places = [place for place, one_ in enumerate(policy.statements) if _shuts(one_)]
        listed: set[str] = change(set())
        for place in places if listed else ():
            items[place]["Condition"] = {_DIFFER: {key: sorted(listed)}}
            _split_off(items, place)
        if one.signer_only and listed:
            _deny_debug(items, places[0])
        return
    found = [statement for statement, index, _ in pins(policy) if index == (8 if one.signer_only else 0)]
    if not found:
        raise RejectedError(
            "no Deny lists the images that get the key",
            code=REFUSED,
            hint="put a policy that `kms policy render` writes first",
        )
    for place, statement in enumerate(policy.statements):
        if statement in found:
            clause = statement.clauses[0]
            listed = change({value.lower() for value in clause.values})
            items[place].pop("Condition")
            if listed:
                items[place]["Condition"] = {clause.operator.text: {clause.key: sorted(listed)}}


def _shuts(statement: Statement) -> bool:
    return (
        statement.effect.value == "Deny"
        and statement.covers_action(DECRYPT)
        and not statement.clauses
        and any(named.anyone for named in statement.principals)
    )


def _split_off(items: list[dict[str, Any]], place: int) -> None:
    """Keep a condition that is for Decrypt from weakening what else the Deny names."""
    action = items[place].get("Action")
    if action not in (DECRYPT, [DECRYPT]):
        raise RejectedError(
            "the Deny of kms:Decrypt names other actions too, and its new condition would open them",
            code=REFUSED,
            hint="put a policy that `kms policy render` writes first",
        )


def _deny_debug(items: list[dict[str, Any]], place: int) -> None:
    if not any(item.get("Sid") == "NoDebug" for item in items):
        image = "kms:RecipientAttestation:ImageSha384"
        items.insert(
            place + 1,
            {
                "Sid": "NoDebug",
                "Effect": "Deny",
                "Principal": "*",
                "Resource": "*",
                "Action": DECRYPT,
                "Condition": {_COMPARE: {image: ZERO}},
            },
        )


def parse_policy_file(data: bytes) -> KeyPolicy:
    """Read a key policy from a file: bare, or as GetKeyPolicy prints it.

    Raises:
        MalformedError: Neither.
    """
    document = strict_json.parse_object(data, max_bytes=8 * MAX_POLICY_BYTES)
    if set(document) <= {"Policy", "PolicyName"} and type(document.get("Policy")) is str:
        return KeyPolicy.parse(document["Policy"])
    try:
        return KeyPolicy.parse(data.decode())
    except UnicodeDecodeError as error:
        raise MalformedError("key policy: not UTF-8") from error
