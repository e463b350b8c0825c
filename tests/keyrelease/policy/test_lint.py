"""Lint: for each row one file that trips that row and no other (key-release.md sections 5 and 9)."""

import json
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.findings import Finding, Rule, Severity
from ephemeralml.keyrelease.policy.key_facts import parse_grants, parse_key
from ephemeralml.keyrelease.policy.lint import Subject, lint, worst

FILES = Path(__file__).resolve().parents[2] / "vectors" / "key-policy"
NAMES = sorted(path.stem for path in FILES.glob("*.json"))

WARNS = {
    *("K05-upper-case", "K08-rewrap-warns", "K10-grant-behind-deny", "K11-publish", "K11-release", "K12-no-deny"),
    *("K12-no-decrypt-deny", "K14-signer-warns", "K16-no-rotation", "K19-look", "K19-attested-encrypt"),
}


def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FILES / f"{name}.json").read_text())
    return loaded


def subject(given: dict[str, Any]) -> Subject:
    return Subject(
        KeyPolicy.parse(json.dumps(given["policy"])),
        grants=parse_grants(json.dumps(given["grants"]).encode()) if "grants" in given else None,
        key=parse_key(json.dumps(given["key"]).encode()) if "key" in given else None,
        identity_policies={
            arn: [PolicyDocument.parse(json.dumps(policy))]
            for arn, policy in given.get("identity_policies", {}).items()
        },
    )


def findings(name: str) -> list[Finding]:
    return [item for item in lint(subject(document(name))) if item.severity is not Severity.INFO]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "safe"])
def test_a_file_trips_its_row_and_no_other(name: str) -> None:
    found = findings(name)
    wanted = {name[:3], *document(name).get("also", ())}
    assert {item.rule.name for item in found} == wanted, [(item.rule.name, item.statement, item.path) for item in found]
    severity = {item.severity for item in found if item.rule.name == name[:3]}
    expected = Severity.WARNING if name in WARNS else Severity.UNPROVEN if name.startswith("K18") else Severity.ERROR
    assert severity == {expected}


def test_the_safe_policy_trips_none() -> None:
    assert findings("safe") == []


def test_every_row_has_its_file() -> None:
    rows = {rule.name for rule in Rule if rule.name.startswith("K")} - {"K17"}
    assert rows == {name[:3] for name in NAMES} - {"saf"}


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    import runpy

    made = runpy.run_path(str(FILES / "generate.py"))["FILES"]
    assert {name: json.loads(json.dumps(item)) for name, item in made.items()} == {
        name: document(name) for name in NAMES
    }


def test_who_can_change_the_policy_and_what_ends_is_always_said() -> None:
    given = document("safe")
    given["policy"]["Statement"][3]["Condition"]["DateLessThan"] = {"aws:CurrentTime": "2027-01-01T00:00:00Z"}
    (found,) = lint(subject(given))
    assert found.rule is Rule.K17
    assert "role/kms-admin" in found.path
    assert "Release1 ends 2027-01-01T00:00:00Z" in found.path
    assert "ask AWS support" in found.fix


@pytest.mark.parametrize(
    ("name", "converted"),
    [("K06-base64", "1a" * 48), ("K06-0x", "1a" * 48), ("K06-prefix", "2a" * 48), ("K06-spaces", "1a" * 48)],
)
def test_a_wrong_value_is_shown_converted(name: str, converted: str) -> None:
    assert [item.fix for item in findings(name)] == [f"write {converted}"]


def test_errors_come_first_and_decide() -> None:
    given = document("K18-not-action")
    given["policy"]["Statement"] = [
        one for one in given["policy"]["Statement"] if one.get("Sid") not in ("OnlyAttested", "NoOtherWayOut")
    ]
    found = lint(subject(given))
    assert worst(found) is Severity.ERROR
    ranks = [list(Severity).index(item.severity) for item in found]
    assert ranks == sorted(ranks)
    assert worst(lint(subject(document("K18-not-action")))) is Severity.UNPROVEN
    assert worst(lint(subject(document("K12-no-deny")))) is None
