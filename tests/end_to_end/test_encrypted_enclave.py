"""An encrypted package, from `model encrypt` to a verified answer, with every process and the key server for real."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.runner import Result, run
from tests.fakes import tiny_bert
from tests.fakes.kms_server import KmsServer
from tests.fakes.kms_server import running as key_server
from tests.fakes.serving_command import serving

SECRET = "a secret question"


def ok(folder: Path, *arguments: object) -> Result:
    result = run(*arguments, cwd=folder)
    assert result.exit_code == 0, (arguments, result.stderr)
    return result


class Site:
    """A key server, a publisher's package, an enclave's configuration and the host beside it."""

    def __init__(self, folder: Path, kms: KmsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.kms = folder, kms
        self.services, self.inside = f"unix://{folder}/services", f"unix://{folder}/inside"
        admin = kms.client()
        self.arn = admin.create_key(BypassPolicyLockoutSafetyCheck=True)["KeyMetadata"]["Arn"]
        self.key = f"local:{self.arn}"
        ok(folder, "key", "generate", "--out", "publisher.pem")
        tiny_bert.write(folder / "model", tiny_bert.DEFAULT, seed=7)
        self.configure()
        self.allow(self.registers()["pcr0"])
        for name, value in kms.environment("publisher").items():
            monkeypatch.setenv(name, value)
        ok(folder, "model", "encrypt", "./model", "--out", "package", "--model-id", "my-model", "--model-version", "1.0.0",
           "--key", self.key)  # fmt: skip
        ok(folder, "model", "sign", "package", "--key", "publisher.pem")

    def configure(self) -> None:
        ok(
            self.folder,
            *("enclave", "init", "--out", "enclave.toml", "--attester", "local", "--force"),
            *("--publisher-key", "publisher.pub", "--model", "my-model", "--listen", self.inside),
            *("--key", self.key, "--services", self.services, "--package-name", "mine"),
            *("--authority", self.kms.authority_folder),
        )

    def registers(self) -> dict[str, str]:
        authority = ("--authority", self.kms.authority_folder)
        found: dict[str, str] = ok(
            self.folder, "enclave", "measure", "--config", "enclave.toml", *authority, "--json"
        ).json["measurements"]
        return found

    def allow(self, pcr0: str) -> None:
        """Let the publisher wrap, and the host's role have keys released to the image with *pcr0*."""
        statements = [
            {
                "Sid": "Administer",
                "Effect": "Allow",
                "Principal": {"AWS": self.kms.arn()},
                "Action": ["kms:DescribeKey", "kms:GetKeyPolicy", "kms:PutKeyPolicy"],
                "Resource": "*",
            },
            {
                "Sid": "Publish",
                "Effect": "Allow",
                "Principal": {"AWS": self.kms.arn("publisher")},
                "Action": ["kms:GenerateDataKey", "kms:Encrypt", "kms:DescribeKey"],
                "Resource": "*",
            },
            {
                "Sid": "Release",
                "Effect": "Allow",
                "Principal": {"AWS": self.kms.arn("parent")},
                "Action": "kms:Decrypt",
                "Resource": "*",
                "Condition": {"StringEqualsIgnoreCase": {"kms:RecipientAttestation:PCR0": pcr0}},
            },
        ]
        policy = json.dumps({"Version": "2012-10-17", "Statement": statements})
        self.kms.client().put_key_policy(
            KeyId=self.arn, PolicyName="default", Policy=policy, BypassPolicyLockoutSafetyCheck=True
        )

    def host(self, package: str = "package") -> Any:
        return serving(
            self.folder,
            *("host", "run", "--target", self.inside, "--listen", f"unix://{self.folder}/outside"),
            *("--services", self.services, "--package", f"mine={package}", "--key", self.key),
            log=self.folder / "host.log",
            environment=self.kms.environment("parent"),
        )

    def run(self) -> tuple[str, ...]:
        return ("enclave", "run", "--config", "enclave.toml", "--authority", str(self.kms.authority_folder))

    def fails(self) -> subprocess.CompletedProcess[str]:
        with self.host():
            return subprocess.run(
                [sys.executable, "-m", "ephemeralml", *self.run(), "--json"],
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "site").mkdir()
    with key_server(tmp_path) as kms:
        yield Site(tmp_path / "site", kms, monkeypatch)


def test_from_an_encrypted_package_to_a_verified_answer(site: Site) -> None:
    with site.host() as host, serving(site.folder, *site.run(), log=site.folder / "enclave.log") as enclave:
        relay, ready = host.document, enclave.document
        assert relay["services"] == site.services
        (record,) = ready["key_releases"]
        assert (record["outcome"], record["key"]) == ("released", site.key)
        assert record["pcr0"] == ready["measurements"]["pcr0"]
        assert [step["status"] for step in ready["steps"]] == ["ok"] * 9
        asked = ok(
            site.folder,
            *("infer", "--target", f"unix://{site.folder}/outside", "--insecure-accept-local"),
            *("--embed", "--model", "my-model", "--text", SECRET, "--json"),
        )
        assert asked.json["verdict"] == "verified"
    assert SECRET not in "".join(path.read_text() for path in site.folder.glob("*.log"))


def test_other_measurements_get_no_key(site: Site) -> None:
    site.allow("ab" * 48)
    done = site.fails()
    assert done.returncode == 3
    assert json.loads(done.stdout)["code"] == "KEY_RELEASE_DENIED"
    assert "error: boot step 'key release':" in done.stderr
    assert "hint: " in done.stderr
    # What the enclave has to say reaches its host without a console.
    said = (site.folder / "host.log").read_text()
    assert '"event": "boot_failed", "code": "key_release_denied"' in said
    assert '"step": "key_release", "status": "failed"' in said


def test_another_byte_of_the_configuration_gets_no_key(site: Site) -> None:
    with (site.folder / "enclave.toml").open("a") as file:
        file.write("# another byte\n")
    done = site.fails()
    assert done.returncode == 3
    assert json.loads(done.stdout)["code"] == "KEY_RELEASE_DENIED"


def test_a_key_server_that_is_gone(site: Site) -> None:
    site.kms.stop()
    done = site.fails()
    assert done.returncode == 5
    assert "boot step 'key release'" in done.stderr
