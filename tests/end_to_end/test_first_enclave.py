"""What the README says about serving a model with a configuration and a policy of one's own, command by command."""

import json
import socket
from pathlib import Path

import pytest

from tests.cli.runner import Result, run
from tests.fakes import tiny_bert
from tests.fakes.serving_command import serving


def ok(folder: Path, line: str) -> Result:
    result = run(*line.split(), cwd=folder)
    assert result.exit_code == 0, (line, result.stderr)
    return result


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a signed package, and keys of a publisher and of whoever writes policies."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "work"
    folder.mkdir()
    tiny_bert.write(folder / "model", tiny_bert.DEFAULT, seed=7)
    ok(folder, "key generate --out publisher.pem")
    ok(folder, "key generate --purpose policy --out policy.pem")
    ok(folder, "model encrypt ./model --out package --model-id my-model --model-version 1.0.0 --suite none")
    ok(folder, "model sign package --key publisher.pem")
    return folder


def write_policy(folder: Path, name: str = "policy") -> None:
    (folder / "measurements.json").write_text(ok(folder, "enclave measure --config enclave.toml --json").stdout)
    ok(
        folder,
        "policy init --measurements measurements.json --policy-id acme --model my-model "
        f"--publisher-key publisher.pub --out {name}.json",
    )
    ok(folder, f"policy sign {name}.json --key policy.pem --out {name}.signed.json")
    ok(folder, f"policy check {name}.signed.json --policy-key policy.pub")


def test_from_nothing_to_a_verified_answer(published: Path) -> None:
    folder, inside, outside = published, free_port(), free_port()
    ok(
        folder,
        f"enclave init --out enclave.toml --attester local --publisher-key publisher.pub --model my-model "
        f"--listen tcp://127.0.0.1:{inside}",
    )
    write_policy(folder)
    ask = (
        f"infer --target tcp://127.0.0.1:{outside} --policy policy.signed.json --policy-key policy.pub "
        "--embed --model my-model --text hello"
    )
    with (
        serving(folder, "enclave", "run", "--config", "enclave.toml", "--package", "package") as enclave,
        serving(
            folder,
            *("host", "run", "--target", f"tcp://127.0.0.1:{inside}", "--listen", f"tcp://127.0.0.1:{outside}"),
        ),
    ):
        assert enclave.document["software"] is True
        ok(folder, f"{ask} --receipt r.cbor")
        ok(folder, "verify r.cbor --policy policy.signed.json --policy-key policy.pub")
        ok(folder, "policy check policy.signed.json --policy-key policy.pub --evidence r.cbor.att")
        # Every byte of the configuration counts: a policy for another one refuses this runtime.
        with (folder / "enclave.toml").open("a") as file:
            file.write("# another byte\n")
        write_policy(folder, "other")
        other = ask.replace("policy.signed.json --policy-key policy.pub", "other.json")
        refused = run(*other.split(), cwd=folder)
        assert refused.exit_code == 3
        assert "N14" in refused.stderr


def test_the_commands_that_init_prints_are_the_ones(published: Path) -> None:
    """Its `next` lines, with the places for names filled in, need nothing else."""
    init = "enclave init --out enclave.toml --attester local --publisher-key publisher.pub --model my-model --json"
    measure, policy, _, _ = ok(published, init).json["next"]
    line, _, file = measure.removeprefix("ephemeralml ").partition(" > ")
    (published / file).write_text(ok(published, line).stdout)
    ok(published, policy.removeprefix("ephemeralml ").replace("--policy-id ID", "--policy-id acme"))
    accepted = json.loads((published / "policy.json").read_text())
    assert accepted["formats"] == ["local"]
    assert accepted["allow_local"] is True
