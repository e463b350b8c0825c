"""`ephemeralml kms policy` where something is wrong around it: credentials, documents, files, endpoints."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ephemeralml import clock
from ephemeralml.attestation.local.documents import DocumentFields
from ephemeralml.attestation.nitro.document import parse
from ephemeralml.crypto.data_key import WrappedKey
from ephemeralml.errors import RejectedError
from ephemeralml.keyrelease.policy import ask
from ephemeralml.model.keys_file import encode_keys
from tests.cli.runner import run
from tests.cli.test_kms_policy import CONTEXT, Stage, done, enter, furnish, refused
from tests.fakes.booted_runtime import config_source
from tests.fakes.kms_server import KmsServer, running

ADD = ("--phase", "add", "--tuple", "new.json", "--yes")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmsServer]:
    with running(tmp_path_factory.mktemp("kms")) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return furnish(tmp_path)


@pytest.fixture
def stage(server: KmsServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    return enter(server, folder, monkeypatch)


class TestWhoAsks:
    """What asks the key is looked at before the policy is put."""

    def test_a_profile_that_is_none(self, stage: Stage) -> None:
        before = stage.policy()
        result = stage.apply(*ADD, *stage.verify[:-4], "--verify-profile", "nobody", code=5)
        assert "no profile 'nobody'" in result.stderr
        assert str(stage.folder / "credentials") in result.stderr
        assert stage.policy() == before
        assert not (stage.folder / "kms-policy-apply.json").exists()

    def test_credentials_that_the_service_does_not_know(self, stage: Stage) -> None:
        before = stage.policy()
        (stage.folder / "stale").write_text("[default]\naws_access_key_id = AKIAX\naws_secret_access_key = y\n")
        result = stage.apply(*ADD, *stage.verify[:-4], "--verify-credentials", "stale", code=5)
        assert "UnrecognizedClientException" in result.stderr
        assert stage.policy() == before

    def test_the_file_that_the_key_server_wrote(self, stage: Stage, server: KmsServer) -> None:
        parent = server.state / "credentials" / "parent"
        result = stage.apply(*ADD, *stage.verify[:-4], "--wait", "1", "--verify-credentials", str(parent))
        assert "warning: the images of Release1 get the key until 20" in result.stderr
        assert "give" not in result.stderr
        assert next(line.split()[:2] for line in result.stdout.splitlines() if line[:1] == "A") == ["A1", "ok"]

    def test_a_section_of_the_file(self, stage: Stage) -> None:
        verify = ["--verify-package", "keys.json", "--verify-credentials", "credentials", "--verify-profile"]
        assert "A3  ok" in stage.apply("--verify", *verify, "parent", code=6).stdout
        assert "'credentials': no section [x]" in stage.apply("--verify", *verify, "x", code=4).stderr

    @pytest.mark.parametrize("text", ["nothing", "[default]\n", "[default]\naws_access_key_id = a\n", b"\xff"])
    def test_a_file_that_holds_none(self, stage: Stage, text: str | bytes) -> None:
        (stage.folder / "bad").write_bytes(text if isinstance(text, bytes) else text.encode())
        options = ["--verify-package", "keys.json", "--verify-credentials", "bad"]
        assert "error: 'bad': " in stage.apply("--verify", *options, code=4).stderr

    def test_what_is_missing_is_said(self, stage: Stage) -> None:
        result = stage.apply(*ADD, *stage.verify[:2], "--verify-document", "old.att", *stage.verify[-4:])
        assert "A2: no document of another image" in result.stderr
        assert "give --verify-package" not in result.stderr

    def test_stopped_half_way_says_where_it_stands(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def stop(*_: object, **__: object) -> str:
            raise KeyboardInterrupt

        monkeypatch.setattr(ask, "require_credentials", lambda *_, **__: None)
        monkeypatch.setattr(ask, "ask_decrypt", stop)
        result = stage.apply(*ADD, *stage.verify, code=130)
        assert "the new policy may be in force, not verified; the same command goes on" in result.stderr


class TestDocuments:
    """A document that no KMS takes is found out before anything is put."""

    def test_a_sessions_document(self, stage: Stage) -> None:
        before = stage.policy()
        pcrs = {index: bytes(48) for index in range(16)}
        authority = stage.server.authority
        for name, key in (("none", None), ("raw", os.urandom(32))):
            fields = DocumentFields(f"{authority.id}-enc01", pcrs, key, b"", b"")
            (stage.folder / f"{name}.att").write_bytes(authority.issue_document(fields, clock.now()))
            result = stage.apply(*ADD, "--verify-package", "keys.json", "--verify-document", f"{name}.att", code=2)
            assert "this document has no RSA key; it is a session's" in result.stderr
            assert "measure --release-document" in result.stderr
        assert stage.policy() == before

    def test_one_that_has_ended(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        later = clock.now().replace(year=clock.now().year + 40)
        monkeypatch.setattr(clock, "now", lambda: later)
        assert "its certificates ended at" in stage.apply("--verify", *stage.verify, code=2).stderr

    def test_none_at_all(self, stage: Stage) -> None:
        result = stage.apply("--verify", *stage.verify[:2], "--verify-document", "old.json", code=4)
        assert "error: 'old.json': " in result.stderr


def test_the_documented_rotation(stage: Stage, server: KmsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two configurations are measured, and the key is asked with documents of both."""
    authority = ("--authority", server.authority_folder)
    for name, kernel in (("old", b"# 1\n"), ("new", b"# 2\n")):
        (stage.folder / f"{name}.toml").write_bytes(config_source() + kernel)
        command = ["enclave", "measure", "--config", f"{name}.toml", *authority, "--release-document", f"{name}.att"]
        refused(2, stage.folder, *command)
        measured = done(stage.folder, *command, "--force", "--json")
        assert measured.json["release_document"] == f"{name}.att"
        (stage.folder / f"{name}.json").write_text(measured.stdout)
    roles = [f"--{role}={server.arn(role)}" for role in ("administrator", "publisher", "parent")]
    policy = done(stage.folder, "kms", "policy", "render", *roles, "--model-id", "minilm", "--tuple", "old.json").stdout
    arn = server.client().create_key(Policy=policy)["KeyMetadata"]["Arn"]
    answer = server.client("publisher").generate_data_key(KeyId=arn, KeySpec="AES_256", EncryptionContext=CONTEXT)
    wrapped = WrappedKey("local", f"local:{arn}", answer["CiphertextBlob"], CONTEXT)
    (stage.folder / "keys.json").write_bytes(encode_keys((wrapped,)))
    documents = [part for name in ("old", "new") for part in ("--verify-document", f"{name}.att")]
    credentials = ["--verify-credentials", str(server.state / "credentials" / "parent")]
    verify = ["--verify-package", "keys.json", *documents, *credentials, "--wait", "1", "--yes", "--json"]
    monkeypatch.setenv("AWS_PROFILE", "default")
    apply = ["kms", "policy", "apply", f"local:{arn}"]

    def asked(*arguments: str) -> list[tuple[str, str]]:
        document = done(stage.folder, *apply, *arguments, *verify).json
        return [(row["id"], row["outcome"]) for row in document["answers"]]

    both = asked("--phase", "add", "--tuple", "new.json")
    assert both == [
        *[("A1", "ok")] * 2,
        *[("A2", "skipped"), ("A3", "ok"), ("A4", "ok"), ("A5", "ok"), ("A7", "skipped"), ("A8", "ok")],
    ]
    one = asked("--phase", "remove", "--tuple", "old.json")
    assert one == [*[(name, "ok") for name in ("A1", "A2", "A3", "A4", "A5")], ("A7", "skipped"), ("A8", "ok")]


class TestWhatItMeans:
    def test_removing_the_only_image_closes_the_key(self, stage: Stage) -> None:
        remove = ["--phase", "remove", "--tuple", "old.json"]
        assert "this closes the key" in stage.apply(*remove, "--plan-only").stdout
        result = stage.apply(*remove, "--yes", "--json")
        assert "warning: this closes the key: no image gets it afterwards" in result.stderr
        assert result.json["consequences"] == ["this closes the key: no image gets it afterwards, until one is added"]

    def test_the_change_is_shown_before_it_is_made(self, stage: Stage) -> None:
        result = stage.apply(*ADD)
        assert result.stderr.index('"Sid": "Release2"') < result.stderr.index("putting the key policy")
        assert '"Sid": "Release2"' not in result.stdout

    def test_a_policy_that_is_refused_after_all(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ask, "require_credentials", lambda *_, **__: None)

        def open_endpoint(*_: object, **__: object) -> str:
            raise RejectedError("in the clear", code="KEY_ENDPOINT_OPEN")

        monkeypatch.setattr(ask, "ask_decrypt", open_endpoint)
        result = stage.apply(*ADD, *stage.verify, code=3)
        assert "in the clear; the new policy is in force, and not verified" in result.stderr


class TestHints:
    def test_an_alias_that_is_none(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_REGION", "local")
        result = done(stage.folder, "kms", "policy", "lint", "alias/nope", code=5)
        assert f"the key alias/nope does not exist at {stage.server.endpoint} in local" in result.stderr
        assert "lint shows" not in result.stderr

    def test_the_wrong_region(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        result = done(stage.folder, "kms", "policy", "lint", "alias/models", code=5)
        assert f"at {stage.server.endpoint} in eu-central-1 (" in result.stderr
        assert "is that the service's region and endpoint?" in result.stderr

    @pytest.mark.parametrize("command", [["lint"], ["apply", "--phase", "add", "--tuple", "new.json"]])
    def test_a_key_of_ones_own_needs_its_endpoint(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch, command: list[str]
    ) -> None:
        monkeypatch.delenv("AWS_ENDPOINT_URL_KMS")
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        monkeypatch.setattr(socket.socket, "connect", None)  # nobody is asked
        result = done(stage.folder, "kms", "policy", command[0], f"local:{stage.arn}", *command[1:], code=5)
        assert f"no endpoint for local:{stage.arn}" in result.stderr
        assert "--kms-endpoint" in result.stderr

    def test_an_endpoint_where_nobody_answers_is_named(self, stage: Stage) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
            result = done(stage.folder, *["kms", "policy", "lint", stage.arn, "--kms-endpoint", endpoint], code=5)
        assert f"the key service at {endpoint} did not answer" in result.stderr


class TestFilesAreNamed:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["lint", "bad.json"],
            ["lint", "safe.json", "--grants", "bad.json"],
            ["lint", "safe.json", "--key", "bad.json"],
            ["lint", "safe.json", "--tuple", "bad.json"],
            ["lint", "safe.json", "--identity-policy", "arn:aws:iam::111122223333:role/x=bad.json"],
            ["lint", "--gcp", "bad.json"],
            ["simulate", "safe.json", "--tuple", "old.json", "--matrix", "bad.json"],
            ["simulate", "safe.json", "--tuple", "old.json", "--scp", "bad.json"],
        ],
    )
    def test_in_every_error_of_content(self, folder: Path, arguments: list[str]) -> None:
        (folder / "bad.json").write_text("{")
        assert refused(4, folder, "kms", "policy", *arguments).stderr.startswith("error: 'bad.json': ")

    def test_a_tuple_that_fixes_nothing(self, folder: Path) -> None:
        (folder / "short.json").write_text(json.dumps({"pcr0": "0a" * 48}))
        found = refused(4, folder, "kms", "policy", "lint", "safe.json", "--tuple", "short.json").stderr
        assert found.startswith("error: 'short.json': tuple: 'short': pcr1, pcr2 missing")

    def test_a_policy_to_make_a_key_of(self, folder: Path) -> None:
        (folder / "bad.json").write_text("{")
        assert "'bad.json': " in refused(4, folder, "kms", "create-key", "--key-policy", "bad.json").stderr


def test_the_table_says_what_its_rows_are(folder: Path) -> None:
    shown = done(folder, "kms", "policy", "simulate", "safe.json", "--tuple", "old.json").stdout
    assert "A9             a document without an RSA key" in shown
    document = run("kms", "policy", "simulate", "safe.json", "--tuple", "old.json", "--json", cwd=folder).json
    rows = {cell["request"] for cell in document["cells"]}
    assert all(f"\n{row:<15}a" in shown or f"\n{row:<15}" in shown for row in rows)


def test_a_release_document_needs_the_authority_and_a_free_name(tmp_path: Path, server: KmsServer) -> None:
    (tmp_path / "enclave.toml").write_bytes(config_source())
    measure = ["enclave", "measure", "--config", "enclave.toml", "--release-document"]
    assert "--authority" in refused(2, tmp_path, *measure, "new.att").stderr
    refused(2, tmp_path, *measure, "none/new.att", "--authority", server.authority_folder)
    shown = done(tmp_path, *measure, "new.att", "--authority", server.authority_folder)
    assert "written new.att" in shown.stdout
    document = parse((tmp_path / "new.att").read_bytes())
    assert document.pcrs[0].hex() == shown.stdout.split()[1]
    assert isinstance(load_der_public_key(document.public_key or b""), RSAPublicKey)
