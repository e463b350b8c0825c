"""`ephemeralml enclave init`: a first configuration that is valid as it stands."""

import shlex
import stat
from pathlib import Path

import pytest

from ephemeralml.attestation.local.authority import Authority
from ephemeralml.enclave.config import RuntimeConfig
from tests.cli.runner import Result, run
from tests.fakes.packages import PUBLISHER

KEY = str(PUBLISHER.public)
INIT = ("enclave", "init", "--out", "enclave.toml", "--publisher-key", KEY, "--model", "tiny-bert")


def init(folder: Path, *arguments: object) -> Result:
    return run(*INIT, *arguments, cwd=folder)


def config(folder: Path) -> RuntimeConfig:
    return RuntimeConfig.load(folder / "enclave.toml")


def test_for_the_software_tee(tmp_path: Path) -> None:
    result = init(tmp_path, "--attester", "local", "--json")
    assert result.exit_code == 0, result.stderr
    assert "warning: software TEE: not protected from this machine" in result.stderr
    made = config(tmp_path)
    assert (made.attester, made.security_mode, made.listen) == ("local", "evaluation", ("tcp://127.0.0.1:5005",))
    assert made.models.keys == (PUBLISHER.public,)
    assert [rule.id for rule in made.models.allow] == ["tiny-bert"]
    assert made.models.allow_plaintext
    authority = Authority.load(tmp_path / "authority")
    assert stat.S_IMODE((tmp_path / "authority").stat().st_mode) == 0o700
    document = result.json
    assert document["schema"] == "ephemeralml.enclave-init/1"
    assert document["root"] == f"sha256:{authority.fingerprint.hex()}"
    assert document["config_sha256"] == made.digest.hex()
    assert document["file"] == "enclave.toml"
    measured = run("enclave", "measure", "--config", "enclave.toml", "--json", cwd=tmp_path).json
    assert document["measurements"] == measured["measurements"]
    assert document["root"] == measured["root"]
    assert b"#" in made.source, "commented"


def test_for_nitro(tmp_path: Path) -> None:
    result = init(tmp_path, "--attester", "nsm", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    made = config(tmp_path)
    assert (made.attester, made.security_mode, made.listen) == ("nsm", "production", ("vsock://any:5005",))
    assert not made.models.allow_plaintext
    assert [path.name for path in tmp_path.iterdir()] == ["enclave.toml"]
    assert (result.json["root"], result.json["measurements"], result.json["authority"]) == (None, None, None)
    assert result.json["next"][-1] == "ephemeralml host run --target vsock://CID:5005"


KMS = "aws-kms:arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-4000-8000-000000000001"


def test_keys_and_services_for_nitro(tmp_path: Path) -> None:
    result = init(tmp_path, "--attester", "nsm", "--key", KMS, "--package-name", "mine", "--json")
    assert result.exit_code == 0, result.stderr
    made = config(tmp_path)
    assert made.keys is not None
    assert made.services is not None
    assert (made.keys.uris, made.keys.bind_manifest) == ((KMS,), False)
    assert (made.services.address, made.services.packages) == ("vsock://3:8001", ("mine",))
    commands = [shlex.split(line.partition("   #")[0]) for line in result.json["next"]]
    assert commands[2] == shlex.split("ephemeralml enclave run --config enclave.toml")
    assert commands[3] == shlex.split(
        f"ephemeralml host run --target vsock://CID:5005 --services vsock://3:8001 --package mine=PACKAGE --key {KMS}"
    )


def test_keys_and_services_for_the_software_tee(tmp_path: Path) -> None:
    options = ("--attester", "local", "--services", "unix:///run/s", "--json")
    result = init(tmp_path, *options, "--key", KMS)
    assert result.exit_code == 0, result.stderr
    made = config(tmp_path)
    assert made.services is not None
    assert (made.services.address, made.services.packages) == ("unix:///run/s", ("",))
    assert not made.models.allow_plaintext, "a key is there to be used"
    assert init(tmp_path, *options, "--force").exit_code == 0
    assert config(tmp_path).keys is None
    assert config(tmp_path).models.allow_plaintext


def test_options(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{KEY}\n")
    result = run(
        *("enclave", "init", "--out", "c.toml", "--attester", "local", "--publisher-key", "key.pub"),
        *("--model", "tiny-*", "--listen", "unix:///run/x.sock", "--authority", "ca", "--no-allow-plaintext"),
        cwd=tmp_path,
    )
    assert result.exit_code == 0, result.stderr
    made = RuntimeConfig.load(tmp_path / "c.toml")
    assert made.listen == ("unix:///run/x.sock",)
    assert not made.models.allow_plaintext
    root = Authority.load(tmp_path / "ca").fingerprint.hex()
    lines = result.stdout.splitlines()
    assert f"root       sha256:{root}" in lines
    commands = [shlex.split(line) for line in lines[lines.index("next:") + 1 :]]
    assert commands[0] == shlex.split(
        "ephemeralml enclave measure --config c.toml --authority ca --json > measurements.json"
    )
    assert "--model" not in commands[1], "a pattern is no model's id"
    assert commands[3] == shlex.split("ephemeralml host run --target unix:///run/x.sock")


@pytest.mark.parametrize("model", ["bad model!", "", "minilm@1.0.0", "a\nb", "x" * 300])
def test_an_id_that_no_package_can_have(tmp_path: Path, model: str) -> None:
    result = run(*INIT[:-1], model, "--attester", "local", cwd=tmp_path)
    assert result.exit_code == 2, result.stderr
    assert "error: --model: " in result.stderr
    assert "hint: " in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", ["*", "minilm-*", "mini?m", "[mn]inilm", "bad-model!"])
def test_patterns_and_ids_that_packages_have(tmp_path: Path, model: str) -> None:
    assert run(*INIT[:-1], model, "--attester", "local", cwd=tmp_path).exit_code == 0
    assert config(tmp_path).models.allow[0].id == model


def test_an_authority_is_made_once(tmp_path: Path) -> None:
    first = init(tmp_path, "--attester", "local", "--json").json
    second = init(tmp_path, "--attester", "local", "--json", "--force", "--listen", "tcp://127.0.0.1:6000").json
    assert first["root"] == second["root"]
    assert first["config_sha256"] != second["config_sha256"]


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    (tmp_path / "enclave.toml").write_text("mine")
    result = init(tmp_path, "--attester", "local")
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (tmp_path / "enclave.toml").read_text() == "mine"
    assert not (tmp_path / "authority").exists()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "missing option '--attester'"),
        (("--attester", "tpm"), "invalid value for '--attester'"),
        (("--attester", "local", "--listen", "foo"), "--listen: not an address: 'foo'"),
        (("--attester", "local", "--listen", "ws://h/v1/channel"), "a runtime does not listen on ws://h:80"),
        (("--attester", "local", "--model", ""), "--model: model id "),
        (("--attester", "local", "--model", "a\nb"), "--model: model id "),
        (("--attester", "local", "--publisher-key", "none.pub"), "'none.pub' is neither"),
        (("--attester", "local", "--authority", "file"), "the authority 'file' is no folder"),
        (("--attester", "local", "--authority", "full"), "'full' holds other files and no software root"),
        (("--attester", "local", "--authority", "x" * 300), "'xxxx"),
        (("--attester", "local", "--key", KMS), "--key needs --services"),
        (("--attester", "local", "--package-name", "x"), "--package-name needs --services"),
        (("--attester", "nsm", "--services", "foo"), "--services: not an address: 'foo'"),
        (("--attester", "nsm", "--services", "vsock://3:9000"), "'services.address' in the configuration: "),
        (("--attester", "nsm", "--key", "aws-kms:x"), "'keys.uris' in the configuration: "),
        (("--attester", "nsm", "--key", KMS, "--package-name", "a/b"), "'services.packages' in the configuration: "),
        (("--attester", "nsm", "--authority", "new"), "--authority is for the software TEE"),
        (("--attester", "local", "--out", "none/enclave.toml"), "the folder of 'none/enclave.toml' does not exist"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path: Path, arguments: tuple[str, ...], error: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir(mode=0o755)
    (tmp_path / "full" / "precious").write_text("")
    result = init(tmp_path, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {error}"), result.stderr
    assert result.stdout == ""
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "precious"]
    assert stat.S_IMODE((tmp_path / "full").stat().st_mode) == 0o755


def test_a_damaged_authority_is_told(tmp_path: Path) -> None:
    init(tmp_path, "--attester", "local")
    (tmp_path / "authority" / "root.key.pem").chmod(0o644)
    result = init(tmp_path, "--attester", "local", "--force")
    assert result.exit_code == 5
    assert "readable by others" in result.stderr
