"""The settings file: what it may set, who may have put it there, and what a mistake in it does (docs/settings.md)."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ephemeralml.cli.main import app
from ephemeralml.cli.settings import HARMLESS, IMPLICIT, VARIABLE
from tests.cli.runner import run

TRUST = {
    "verify": ["policy", "policy-key", "public-key", "attestation", "manifest", "collateral", "at", "profile",
               "expect-model", "expect-model-hash", "expect-request-hash", "expect-response-hash", "request", "response",
               "expect-platform", "nonce", "max-age", "allow-evaluation", "replay-store", "html", "force"],
    "infer": ["target", "policy", "policy-key", "insecure-accept-local", "token-file", "nonce", "file", "model",
              "receipt", "evidence-dir", "save-bodies", "force"],
    "policy.check": ["policy-key", "evidence", "at", "collateral"],
    "policy.init": ["local", "root", "out", "force", "valid-days"],
    "policy.sign": ["key", "out"],
    "model.verify": ["publisher-key", "allow-plaintext", "min-version"],
    "model.sign": ["key"],
    "key.generate": ["out", "force"],
    "deploy.local": ["publisher-key", "package", "state", "listen"],
    "enclave.run": ["config", "package", "authority", "nsm-socket"],
    "enclave.measure": ["authority", "expect"],
    "host.run": ["target", "listen"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.fixture
def chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine.toml"))
    return tmp_path / "mine.toml"


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        yield ".".join(path), command
        return
    for name in command.list_commands(None):
        yield from leaves(command.get_command(None, name), (*path, name))


def test_they_stand_below_environment_and_options(
    tmp_path: Path, chosen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen.write_text('[key.generate]\nout = "from-file.pem"\n')
    assert run("key", "generate", cwd=tmp_path).exit_code == 0
    assert (tmp_path / "from-file.pem").is_file()
    monkeypatch.setenv("EPHEMERALML_OUT", "from-environment.pem")
    assert run("key", "generate", cwd=tmp_path).exit_code == 0
    assert (tmp_path / "from-environment.pem").is_file()
    assert run("key", "generate", "--out", "from-option.pem", cwd=tmp_path).exit_code == 0
    assert (tmp_path / "from-option.pem").is_file()


def test_a_chosen_file_may_set_everything_and_nothing_is_said(tmp_path: Path, chosen: Path) -> None:
    chosen.write_text('[infer]\npolicy = "none.json"\npolicy-key = "k"\ntext = "a"\ntarget = "tcp://127.0.0.1:1"\n')
    result = run("infer", cwd=tmp_path)
    assert result.exit_code == 2
    assert "'none.json'" in result.stderr
    assert "sets defaults" not in result.stderr


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, keys in TRUST.items() for key in keys])
def test_the_folder_s_own_file_decides_nothing_of_weight(tmp_path: Path, table: str, key: str) -> None:
    (tmp_path / IMPLICIT).write_text(f'[{table}]\n{key} = "x"\n')
    for command in (table.split("."), ["key", "show", "k.pem"]):
        result = run(*command, cwd=tmp_path)
        assert result.exit_code == 2
        assert f"may not set '{key}' of [{table}]" in result.stderr
        assert f"hint: others may have put it there; if it is yours, say so: {VARIABLE}=" in result.stderr


def test_the_options_that_are_named_here_exist_and_none_is_harmless() -> None:
    known = {name: {flag for param in command.params for flag in param.opts}
             for name, command in leaves(typer.main.get_command(app))}  # fmt: skip
    for table, keys in TRUST.items():
        flags = {f"--{key}" for key in keys}
        assert flags <= known[table], table
        assert not flags & HARMLESS


def test_what_the_folder_s_own_file_sets_is_said(tmp_path: Path) -> None:
    (tmp_path / IMPLICIT).write_text("[key.show]\njson = true\n[bench.core]\nquick = true\n")
    (tmp_path / "k").write_text("ed25519:" + "ab" * 32)
    result = run("key", "show", "k", cwd=tmp_path)
    assert (result.exit_code, result.json["schema"]) == (0, "ephemeralml.key/1")
    assert f"warning: '{IMPLICIT}' of this folder sets defaults: json\n" in result.stderr
    assert "sets defaults" not in run("attestation", "inspect", "none", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[infer]\npolicy_kye = "k"\n', ["'policy_kye' of [infer] names no option", "did you mean 'policy-key'?"]),
        ('[infr]\npolicy = "p"\n', ["[infr] names no command", "did you mean 'infer'?"]),
        ('[key.genrate]\nout = "p"\n', ["[key.genrate] names no command", "did you mean 'generate'?"]),
        ("json = true\n", ["'json' names no command"]),
        ("infer = 1\n", ["'infer' names no command"]),
        ('[verify]\nreceipts = "p"\n', ["'receipts' of [verify] names no option"]),
        ("[verify]\nhelp = true\n", ["'help' of [verify] names no option"]),
        ('[verify.policy]\nx = "p"\n', ["'policy' of [verify] has to be a text or a number"]),
        ('[verify]\npolicy = ["p"]\n', ["'policy' of [verify] has to be a text or a number"]),
        ('[verify]\nexpect-pcr = "0=aa"\n', ["'expect-pcr' of [verify] has to be a list"]),
        ('[verify]\nallow-evaluation = "no"\n', ["'allow-evaluation' of [verify] has to be true or false"]),
        ('[infer]\npolicy-key = "a"\npolicy_key = "b"\n', ["'policy_key' of [infer] is set twice"]),
    ],
)
def test_a_mistake_drops_nothing_silently(tmp_path: Path, chosen: Path, text: str, words: list[str]) -> None:
    chosen.write_text(text)
    result = run("key", "show", "none.pem", cwd=tmp_path)
    assert result.exit_code == 2
    for part in words:
        assert part in result.stderr


def test_options_may_be_written_as_they_are_or_with_underscores(tmp_path: Path, chosen: Path) -> None:
    for name in ("publisher-key", "publisher_key"):
        chosen.write_text(f"[model.verify]\n{name} = {json.dumps(['ab' * 32])}\n")
        assert "is no folder" in run("model", "verify", chosen, cwd=tmp_path).stderr


def test_an_option_goes_by_its_long_name(tmp_path: Path, chosen: Path) -> None:
    chosen.write_text("[deploy.local]\nfor = 5\n")
    assert "settings" not in run("deploy", "local", cwd=tmp_path).stderr


def test_a_file_that_is_named_has_to_be_there(tmp_path: Path, chosen: Path) -> None:
    result = run("key", "show", "none.pem", cwd=tmp_path)
    assert result.exit_code == 2
    assert "cannot read settings" in result.stderr
    assert str(chosen) in result.stderr


def test_a_name_of_nothing_is_none_and_the_null_device_sets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", os.devnull):
        monkeypatch.setenv(VARIABLE, name)
        assert "cannot read the key" in run("key", "show", "none.pem", cwd=tmp_path).stderr


@pytest.mark.parametrize("data", [b"[verify\n", b"\xff\xfe", b"x = 1\n" * 20_000])
@pytest.mark.parametrize("name", [IMPLICIT, "mine.toml"])
def test_a_broken_file_is_malformed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    if name != IMPLICIT:
        monkeypatch.setenv(VARIABLE, name)
    result = run("key", "show", "none.pem", cwd=tmp_path)
    assert result.exit_code == 4
    assert f"'{name}'" in result.stderr


def test_a_folder_or_fifo_of_that_name_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / IMPLICIT)
    assert "is no file" in run("key", "show", "none.pem", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        ["verify", "--help"],
        ["key", "--help"],
        ["key", "show", "-h"],
        ["infer", "--json", "--help"],
    ],
)
def test_help_and_version_need_no_settings(tmp_path: Path, chosen: Path, command: list[str]) -> None:
    for text in ("[verify\n", "[infr]\n"):
        chosen.write_text(text)
        assert run(*command, cwd=tmp_path).exit_code == 0


def test_a_value_that_reads_like_help_is_a_value(tmp_path: Path, chosen: Path) -> None:
    chosen.write_text("[infr]\n")
    assert "[infr] names no command" in run("infer", "--text", "--help", cwd=tmp_path).stderr
