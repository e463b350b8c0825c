"""`ephemeralml kms policy`, as transcripts; apply, lint and simulate against a real `kms serve` too."""

import json
import os
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from ephemeralml import clock
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import UnavailableError
from ephemeralml.keyrelease.policy import ask
from ephemeralml.keyrelease.policy.apply import Run, StateFile
from ephemeralml.keyrelease.policy.plan import Phase
from ephemeralml.keyrelease.recipient import RecipientKey
from ephemeralml.model.keys_file import encode_keys
from tests.cli.runner import Result, run
from tests.fakes.kms_server import KmsServer, running
from tests.keyrelease.policy.test_gcp import CLAIMS, EXPORT

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "tests" / "vectors" / "key-policy"
ACCOUNT = "arn:aws:iam::111122223333:role"
WHO = ["--administrator", f"{ACCOUNT}/a", "--publisher", f"{ACCOUNT}/p", "--parent", f"{ACCOUNT}/h"]
RENDER = ["kms", "policy", "render", *WHO, "--model-id", "minilm"]
CONTEXT = {"model_id": "minilm", "version": "1.0.0"}


def registers(letter: str) -> dict[str, str]:
    return {f"pcr{index}": f"{index}{letter}" * 48 for index in range(3)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return furnish(tmp_path)


def furnish(tmp_path: Path) -> Path:
    """Write tuples and policies into a folder."""
    (tmp_path / "old.json").write_text(json.dumps(registers("a") | {"name": "runtime 1"}))
    (tmp_path / "new.json").write_text(json.dumps({"attester": "nsm", "measurements": registers("b")}))
    for name in ("safe", "K01-analyst", "K12-no-deny", "K18-unknown-key"):
        policy = json.loads((FILES / f"{name}.json").read_text())["policy"]
        (tmp_path / f"{name}.json").write_text(json.dumps(policy))
    return tmp_path


def done(folder: Path, *arguments: object, code: int = 0) -> Result:
    result = run(*arguments, cwd=folder)
    assert result.exit_code == code, (result.stdout, result.stderr)
    return result


def refused(code: int, folder: Path, *arguments: object) -> Result:
    before = sorted(path.name for path in folder.iterdir())
    result = done(folder, *arguments, code=code)
    assert result.stderr.startswith("error: ")
    assert sorted(path.name for path in folder.iterdir()) == before, "a refused command left a file behind"
    return result


class TestRender:
    def test_to_stdout_the_policy_itself(self, folder: Path) -> None:
        result = done(folder, *RENDER, "--tuple", "old.json")
        sids = [item["Sid"] for item in json.loads(result.stdout)["Statement"]]
        assert sids == ["Administer", "Look", "Publish", "Release1", "OnlyAttested", "NoOtherWayOut"]
        assert result.stderr == ""

    def test_to_a_file_and_nothing_is_overwritten(self, folder: Path) -> None:
        assert done(folder, *RENDER, "--tuple", "old.json", "--out", "p.json").stdout == "written p.json\n"
        refused(2, folder, *RENDER, "--tuple", "old.json", "--out", "p.json")
        done(folder, *RENDER, "--out", "p.json", "--force")
        assert "Release" not in (folder / "p.json").read_text()

    def test_closed_without_a_tuple_and_says_so(self, folder: Path) -> None:
        assert "closed" in done(folder, *RENDER).stderr

    def test_what_deserves_a_warning_is_said(self, folder: Path) -> None:
        (folder / "signed.json").write_text(json.dumps(registers("a") | {"pcr8": "8a" * 48}))
        signer = done(folder, *RENDER, "--tuple", "signed.json", "--signer-only")
        assert signer.stderr.startswith("warning: K14")
        assert "warning: K08" in done(folder, *RENDER, "--tuple", "old.json", "--rewrap-role", f"{ACCOUNT}/r").stderr
        assert "warning: K18" in done(folder, *RENDER, "--tuple", "old.json", "--delegate-admin").stderr

    def test_json(self, folder: Path) -> None:
        document = done(folder, *RENDER, "--tuple", "old.json", "--json").json
        assert document["schema"] == "ephemeralml.kms-policy/1"
        assert document["policy"]["Version"] == "2012-10-17"

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["kms", "policy", "render", *WHO[2:], "--model-id", "m"], 2),
            (["kms", "policy", "render", *WHO], 2),
            ([*RENDER, "--publisher", f"{ACCOUNT}/a"], 4),
            ([*RENDER, "--tuple", "missing.json"], 2),
            ([*RENDER, "--tuple", "safe.json"], 4),
            ([*RENDER, "--signer-only"], 2),
            ([*RENDER, "--tuple", "old.json", "--signer-only"], 4),
        ],
    )
    def test_what_is_refused(self, folder: Path, arguments: list[str], code: int) -> None:
        refused(code, folder, *arguments)


class TestLint:
    @pytest.mark.parametrize(
        ("name", "code", "verdict"),
        [("safe", 0, "ok"), ("K12-no-deny", 0, "ok"), ("K01-analyst", 3, "error"), ("K18-unknown-key", 6, "unproven")],
    )
    def test_the_exit_code_says_what_was_found(self, folder: Path, name: str, code: int, verdict: str) -> None:
        document = done(folder, "kms", "policy", "lint", f"{name}.json", "--json", code=code).json
        assert (document["schema"], document["verdict"]) == ("ephemeralml.kms-lint/1", verdict)
        rows = {item["id"] for item in document["findings"]} - {"K17"}
        assert rows == ({name[:3]} if name != "safe" else set())

    def test_a_finding_names_statement_path_and_fix(self, folder: Path) -> None:
        lines = done(folder, "kms", "policy", "lint", "K01-analyst.json", code=3).stdout.splitlines()
        assert lines[0].startswith(f"error    K01 Analyse: {ACCOUNT}/analyst may call kms:Decrypt without")
        assert lines[1].startswith("         fix: remove kms:Decrypt")
        assert lines[-1] == "not safe: K01-analyst.json"

    def test_files_beside_the_policy(self, folder: Path) -> None:
        grant = {"GrantId": "g", "GranteePrincipal": f"{ACCOUNT}/x", "Operations": ["Decrypt"]}
        (folder / "grants.json").write_text(json.dumps({"Grants": [grant]}))
        (folder / "key.json").write_text(json.dumps({"KeyMetadata": {"MultiRegion": True}}))
        found = done(
            folder,
            *["kms", "policy", "lint", "safe.json", "--grants", "grants.json", "--key", "key.json", "--json"],
            code=3,
        ).json
        assert {(item["id"], item["severity"]) for item in found["findings"]} == {
            ("K10", "warning"),
            ("K16", "error"),
            ("K17", "info"),
        }

    def test_the_tuples_that_should_get_the_key(self, folder: Path) -> None:
        done(folder, "kms", "policy", "lint", "safe.json", "--tuple", "old.json")
        found = done(folder, *["kms", "policy", "lint", "safe.json", "--tuple", "new.json", "--json"], code=3).json[
            "findings"
        ]
        assert [item["id"] for item in found] == ["K09", "K09", "K17"]

    def test_identity_policies(self, folder: Path) -> None:
        policy = json.loads((folder / "safe.json").read_text())
        root = {"Effect": "Allow", "Principal": {"AWS": "111122223333"}, "Action": "kms:PutKeyPolicy", "Resource": "*"}
        (folder / "root.json").write_text(json.dumps(policy | {"Statement": [*policy["Statement"], root]}))
        none = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}
        (folder / "none.json").write_text(json.dumps(none))
        (folder / "all.json").write_text(json.dumps(none).replace("s3:*", "*"))
        lint = ["kms", "policy", "lint", "root.json"]
        parent, publisher = f"{ACCOUNT}/enclave-parent", f"{ACCOUNT}/model-publisher"
        done(folder, *lint, code=6)
        one = ["--identity-policy", f"{parent}=none.json"]
        done(folder, *lint, *one, code=6)
        done(folder, *lint, *one, "--identity-policy", f"{publisher}=none.json")
        done(folder, *lint, *one, "--identity-policy", f"{publisher}=all.json", code=3)
        refused(2, folder, *lint, "--identity-policy", "none.json")

    @pytest.mark.parametrize(("source", "code"), [("missing.json", 2), ("old.json", 4)])
    def test_what_is_refused(self, folder: Path, source: str, code: int) -> None:
        refused(code, folder, "kms", "policy", "lint", source)


class TestSimulate:
    def test_a_safe_policy_gives_the_default_table(self, folder: Path) -> None:
        document = done(folder, *["kms", "policy", "simulate", "safe.json", "--tuple", "old.json", "--json"]).json
        assert document["verdict"] == "as expected"
        assert len(document["cells"]) == 7 * 14
        allowed = {(cell["who"], cell["request"]) for cell in document["cells"] if cell["allowed"]}
        assert allowed >= {("parent", "A1"), ("parent", "A6"), ("administrator", "PutKeyPolicy")}

    def test_a_difference_is_exit_3_and_named(self, folder: Path) -> None:
        result = done(folder, *["kms", "policy", "simulate", "K12-no-deny.json", "--tuple", "old.json"], code=3)
        assert "✗ runtime 1: grantee A3 should be denied: a grant allows kms:Decrypt" in result.stdout

    def test_a_matrix_of_ones_own(self, folder: Path) -> None:
        expected = {"grantee": dict.fromkeys(["A2", "A3", "A7", "ReEncryptFrom", "CreateGrant"], "either")}
        (folder / "m.json").write_text(json.dumps(expected))
        done(folder, *["kms", "policy", "simulate", "K12-no-deny.json", "--tuple", "old.json", "--matrix", "m.json"])
        (folder / "m.json").write_text(json.dumps({"parent": {"A1": "deny"}}))
        done(folder, *["kms", "policy", "simulate", "safe.json", "--tuple", "old.json", "--matrix", "m.json"], code=3)
        for broken in ({"somebody": {}}, {"parent": {"A99": "deny"}}, {"parent": {"A1": "maybe"}}, []):
            (folder / "m.json").write_text(json.dumps(broken))
            refused(4, folder, *["kms", "policy", "simulate", "safe.json", "--tuple", "old.json", "--matrix", "m.json"])

    def test_a_service_control_policy_denies(self, folder: Path) -> None:
        deny = {"Version": "2012-10-17", "Statement": {"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "*"}}
        (folder / "scp.json").write_text(json.dumps(deny))
        done(folder, *["kms", "policy", "simulate", "safe.json", "--tuple", "old.json", "--scp", "scp.json"], code=3)

    def test_what_is_refused(self, folder: Path) -> None:
        refused(2, folder, "kms", "policy", "simulate", "safe.json")
        refused(2, folder, *["kms", "policy", "simulate", "safe.json", "--tuple", "old.json"], *["--parent", "x"] * 2)


class TestGoogle:
    def test_lint_and_simulate(self, folder: Path) -> None:
        (folder / "export.json").write_text(json.dumps(EXPORT))
        (folder / "claims.json").write_text(json.dumps(CLAIMS))
        (folder / "debug.json").write_text(json.dumps(CLAIMS | {"dbgstat": "enabled"}))
        done(folder, *["kms", "policy", "lint", "--gcp", "export.json", "--hsm"])
        assert (
            "the key is released"
            in done(folder, *["kms", "policy", "simulate", "--gcp", "export.json", "--token", "claims.json"]).stdout
        )
        denied = done(
            folder, *["kms", "policy", "simulate", "--gcp", "export.json", "--token", "debug.json", "--json"], code=3
        ).json
        assert denied["verdict"] == "deny"
        (folder / "open.json").write_text(
            json.dumps(EXPORT | {"provider": EXPORT["provider"] | {"attributeCondition": ""}})
        )
        assert "error    G01" in done(folder, *["kms", "policy", "lint", "--gcp", "open.json"], code=3).stdout
        refused(2, folder, *["kms", "policy", "simulate", "--gcp", "export.json"])
        refused(4, folder, *["kms", "policy", "lint", "--gcp", "claims.json"])


class Stage:
    """A key under a rendered policy at a real key server, and what verifying it needs."""

    def __init__(self, server: KmsServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        who = [
            part
            for role, name in (("administrator", "administrator"), ("publisher", "publisher"), ("parent", "parent"))
            for part in (f"--{role}", server.arn(name))
        ]
        policy = done(folder, "kms", "policy", "render", *who, "--model-id", "minilm", "--tuple", "old.json").stdout
        self.arn = server.client().create_key(Policy=policy)["KeyMetadata"]["Arn"]
        answer = server.client("publisher").generate_data_key(
            KeyId=self.arn, KeySpec="AES_256", EncryptionContext=CONTEXT
        )
        wrapped = WrappedKey("local", f"local:{self.arn}", answer["CiphertextBlob"], CONTEXT)
        (folder / "keys.json").write_bytes(encode_keys((wrapped,)))
        for name, letter in (("old", "a"), ("new", "b"), ("other", "c"), ("debug", "")):
            (folder / f"{name}.att").write_bytes(self.document(letter))
        self.documents = [
            part for name in ("old", "new", "other", "debug") for part in ("--verify-document", f"{name}.att")
        ]
        self.verify = ["--verify-package", "keys.json", *self.documents, "--verify-profile", "parent", "--wait", "1"]

    def document(self, letter: str) -> bytes:
        image = {index: bytes.fromhex(f"{index}{letter}" * 48) if letter else bytes(48) for index in range(3)}
        pcrs = {index: bytes(48) for index in range(16)} | image
        recipient = RecipientKey.generate()
        fields = DocumentFields(f"{self.server.authority.id}-enc01", pcrs, recipient.spki, b"", os.urandom(32))
        return self.server.authority.issue_document(fields, clock.now())

    def apply(self, *arguments: str, code: int = 0) -> Result:
        return done(self.folder, "kms", "policy", "apply", self.arn, *arguments, code=code)

    def policy(self) -> Any:
        return json.loads(self.server.client().get_key_policy(KeyId=self.arn)["Policy"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    with running(tmp_path_factory.mktemp("kms")) as started:
        yield started


@pytest.fixture
def stage(server: KmsServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return enter(server, folder, monkeypatch)


def enter(server: KmsServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Make a key at *server*, with profiles for the roles in the environment."""
    sections = {"default": "administrator", "parent": "parent", "publisher": "publisher"}
    lines: list[str] = []
    for section, name in sections.items():
        access_key, secret = server.credentials(name)
        lines += [f"[{section}]", f"aws_access_key_id = {access_key}", f"aws_secret_access_key = {secret}"]
    (folder / "credentials").write_text("\n".join(lines))
    environment: Mapping[str, str] = {
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
        "AWS_ENDPOINT_URL_KMS": server.endpoint,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Stage(server, folder)


class TestApply:
    def test_a_rotation_asks_the_key_before_and_after(self, stage: Stage) -> None:
        added = stage.apply("--phase", "add", "--tuple", "new.json", "--yes", "--json", *stage.verify).json
        assert added["result"] == "applied"
        assert [(row["id"], row["outcome"]) for row in added["answers"]] == [
            *[("A1", "ok")] * 2,
            *[(name, "ok") for name in ("A2", "A3", "A4", "A5", "A7", "A8")],
        ]
        assert added["client_policy_entries"] == [registers("b") | {"name": "new"}]
        removed = stage.apply("--phase", "remove", "--tuple", "old.json", "--yes", *stage.verify)
        answers = [line.split()[:2] for line in removed.stdout.splitlines() if line[:1] == "A"]
        assert answers == [[name, "ok"] for name in ("A1", "A2", "A2", "A3", "A4", "A5", "A7", "A8")]
        assert "0a0a" not in json.dumps(stage.policy())
        assert not (stage.folder / "kms-policy-apply.json").exists()

    def test_a_plan_changes_nothing(self, stage: Stage) -> None:
        before = stage.policy()
        result = stage.apply("--phase", "add", "--tuple", "new.json", "--plan-only")
        assert '+   "Sid": "Release2"' in result.stdout
        assert stage.policy() == before

    def test_nobody_to_ask_is_no_yes(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        before = stage.policy()
        result = stage.apply("--phase", "add", "--tuple", "new.json", code=2)
        assert "nobody to ask" in result.stderr
        assert stage.policy() == before

    @pytest.mark.parametrize("answer", ["y", "n"])
    def test_a_person_is_asked(self, stage: Stage, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
        class Terminal(StringIO):
            def isatty(self) -> bool:
                return True

        before = stage.policy()
        monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n"))
        result = stage.apply("--phase", "add", "--tuple", "new.json")
        assert '+   "Sid": "Release2"' in result.stderr
        assert '+   "Sid": "Release2"' not in result.stdout
        assert ("nothing was changed" in result.stdout) is (answer == "n")
        assert (stage.policy() == before) is (answer == "n")
        assert not (stage.folder / "kms-policy-apply.json").exists()

    def test_the_key_is_only_asked(self, stage: Stage) -> None:
        before = stage.policy()
        document = stage.apply("--verify", *stage.verify, "--json").json
        assert (document["schema"], document["verdict"]) == ("ephemeralml.kms-verify/1", "ok")
        assert [row["id"] for row in document["answers"]] == ["A1", "A2", "A2", "A3", "A4", "A5", "A7", "A8"]
        missing = stage.apply("--verify", "--verify-package", "keys.json", "--verify-profile", "parent", code=6)
        assert "A1  skipped  no document of a released image" in missing.stdout
        assert stage.policy() == before

    def test_a_key_that_gives_plaintext_away_is_found_out(self, stage: Stage) -> None:
        policy = stage.policy()
        for statement in policy["Statement"]:
            if statement["Sid"] == "Release1":
                del statement["Condition"]
        kept = [item for item in policy["Statement"] if item["Sid"] != "OnlyAttested"]
        stage.server.client().put_key_policy(KeyId=stage.arn, Policy=json.dumps(policy | {"Statement": kept}))
        result = stage.apply("--verify", *stage.verify, code=3)
        assert "A3  wrong    no document  plaintext" in result.stdout

    def test_what_is_there_already_is_left(self, stage: Stage) -> None:
        assert "unchanged" in stage.apply("--phase", "add", "--tuple", "old.json", "--yes").stdout

    def test_a_key_that_answers_otherwise_gets_its_old_policy_back(self, stage: Stage) -> None:
        before = stage.policy()
        # Asked as the publisher, whom the policy releases nothing to.
        wrong = [part if part != "parent" else "publisher" for part in stage.verify]
        result = stage.apply("--phase", "add", "--tuple", "new.json", "--yes", *wrong, code=3)
        assert "A1" in result.stderr
        assert "the old policy is back" in result.stderr
        assert stage.policy() == before

    def test_a_whole_policy(self, stage: Stage) -> None:
        policy = stage.policy()
        policy["Statement"][0]["Action"].remove("kms:DeleteAlias")
        (stage.folder / "next.json").write_text(json.dumps(policy))
        stage.apply("--key-policy", "next.json", "--yes", *stage.verify)
        assert stage.policy() == policy

    def test_a_policy_that_locks_the_caller_out_is_refused_by_the_service(self, stage: Stage) -> None:
        text = json.dumps(stage.policy()).replace("role/administrator", "role/somebody-else")
        (stage.folder / "next.json").write_text(text)
        result = stage.apply("--key-policy", "next.json", "--yes", code=3)
        assert "MalformedPolicyDocumentException" in result.stderr

    def test_an_unsafe_policy_is_not_put(self, stage: Stage) -> None:
        policy = stage.policy()
        policy["Statement"].pop()
        (stage.folder / "next.json").write_text(json.dumps(policy))
        assert "K08" in stage.apply("--key-policy", "next.json", "--yes", code=3).stderr

    def test_an_interrupted_run_goes_on(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def gone(*_: object, **__: object) -> str:
            raise UnavailableError("the key service did not answer", hint="check the network")

        with monkeypatch.context() as patched:
            patched.setattr(ask, "require_credentials", lambda *_, **__: None)
            patched.setattr(ask, "ask_decrypt", gone)
            stopped = stage.apply("--phase", "add", "--tuple", "new.json", "--yes", *stage.verify, code=5)
        assert "did not answer; the new policy is in force, and not verified" in stopped.stderr
        assert "the same command goes on from 'kms-policy-apply.json'" in stopped.stderr
        left = stage.folder / "kms-policy-apply.json"
        for other in (["--phase", "remove", "--tuple", "old.json"], ["--key-policy", "safe.json"]):
            assert "another change: add" in stage.apply(*other, "--yes", code=2).stderr
        assert left.exists()
        result = stage.apply("--phase", "add", "--tuple", "new.json", "--yes", *stage.verify)
        assert "going on with an interrupted run (add, put)" in result.stderr
        assert "applied" in result.stdout
        assert not (stage.folder / "kms-policy-apply.json").exists()

    def test_a_grant_that_the_new_policy_would_let_in(self, stage: Stage) -> None:
        admin = stage.server.client()
        open_policy = admin.get_key_policy(KeyId=admin.create_key()["KeyMetadata"]["Arn"])["Policy"]
        before, gated = stage.policy(), stage.policy()
        gated["Statement"] = [one for one in gated["Statement"] if one["Effect"] == "Allow"]
        (stage.folder / "gated.json").write_text(json.dumps(gated))
        admin.put_key_policy(KeyId=stage.arn, Policy=open_policy)
        made = admin.create_grant(KeyId=stage.arn, GranteePrincipal=stage.server.arn("x"), Operations=["Decrypt"])
        assert "K10" in stage.apply("--key-policy", "gated.json", "--yes", code=3).stderr
        assert stage.policy() == json.loads(open_policy)
        admin.revoke_grant(KeyId=stage.arn, GrantId=made["GrantId"])
        admin.put_key_policy(KeyId=stage.arn, Policy=json.dumps(before))

    def test_what_was_interrupted_is_judged_again(self, stage: Stage) -> None:
        wide = stage.policy()
        wide["Statement"] = [one for one in wide["Statement"] if one["Effect"] == "Allow"]
        del next(one for one in wide["Statement"] if one["Sid"] == "Release1")["Condition"]
        (stage.folder / "wide.json").write_text(json.dumps(wide))
        begun = Run(stage.arn, Phase.REPLACE, json.dumps(stage.policy()), json.dumps(wide))
        StateFile(stage.folder / "kms-policy-apply.json").save(begun)
        before = stage.policy()
        assert "K01" in stage.apply("--key-policy", "wide.json", "--yes", code=3).stderr
        (stage.folder / "narrow.json").write_text(json.dumps(before))
        assert "another policy" in stage.apply("--key-policy", "narrow.json", "--yes", code=2).stderr
        assert stage.policy() == before

    def test_who_may_not_is_told_which_permission(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "parent")
        result = stage.apply("--phase", "add", "--tuple", "new.json", "--yes", code=5)
        assert "kms:GetKeyRotationStatus" in result.stderr or "kms:GetKeyPolicy" in result.stderr

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["--phase", "add"],
            ["--verify"],
            ["--verify", "--verify-package", "old.json", "--tuple", "new.json"],
            ["--phase", "swap", "--tuple", "new.json"],
            ["--phase", "add", "--tuple", "new.json", "--key-policy", "safe.json"],
            ["--key-policy", "safe.json", "--tuple", "new.json"],
            ["--phase", "add", "--tuple", "new.json", "--tuple", "old.json"],
            ["--phase", "add", "--tuple", "new.json", "--verify-document", "old.att"],
        ],
    )
    def test_options_that_cannot_be_meant(self, folder: Path, arguments: list[str]) -> None:
        refused(2, folder, "kms", "policy", "apply", "alias/x", *arguments)

    def test_no_key(self, folder: Path) -> None:
        refused(2, folder, *["kms", "policy", "apply", "no/key", "--phase", "add", "--tuple", "new.json"])


class TestLive:
    def test_lint_and_simulate_ask_the_service(self, stage: Stage) -> None:
        stage.server.client().enable_key_rotation(KeyId=stage.arn)
        found = done(stage.folder, "kms", "policy", "lint", stage.arn, "--tuple", "old.json", "--json").json
        assert found["policy"] == stage.arn
        assert [item["id"] for item in found["findings"]] == ["K17"]
        done(stage.folder, "kms", "policy", "simulate", f"local:{stage.arn}", "--tuple", "old.json")

    def test_an_alias_is_followed(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        stage.server.client().create_alias(AliasName="alias/model", TargetKeyId=stage.arn)
        monkeypatch.setenv("AWS_REGION", stage.server.region)
        found = done(stage.folder, "kms", "policy", "lint", "alias/model", "--json").json
        assert found["policy"] == stage.arn
        assert {item["id"] for item in found["findings"]} == {"K16", "K17"}  # rotation is off

    def test_every_grant_is_looked_at(self, stage: Stage) -> None:
        administrator = stage.server.client()
        arn = administrator.create_key()["KeyMetadata"]["Arn"]
        for number in range(120):
            operations: Any = ["Decrypt"] if number == 119 else ["Encrypt"]
            administrator.create_grant(
                KeyId=arn, GranteePrincipal=stage.server.arn("parent"), Operations=operations, Name=f"g{number}"
            )
        found = done(stage.folder, "kms", "policy", "lint", arn, "--json", code=3).json["findings"]
        assert [item["statement"] for item in found if item["id"] == "K10"] == ["grant g119"]
        assert {item["id"] for item in found if item["severity"] == "error"} == {"K02", "K10"}

    def test_a_key_that_is_not_there(self, stage: Stage) -> None:
        missing = stage.arn[:-12] + "0" * 12
        result = done(stage.folder, "kms", "policy", "lint", missing, code=5)
        assert "does not exist" in result.stderr
