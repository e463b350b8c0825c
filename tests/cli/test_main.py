"""The boundary of the command line: exit codes, streams, settings (design: one contract)."""

from pathlib import Path

import pytest

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode, of_error, worst
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from tests.cli.runner import run, run_process


def test_version_is_a_result() -> None:
    result = run("--version")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("ephemeralml ")


def test_help_lists_every_group() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in ("demo", "infer", "verify", "policy", "model", "key", "deploy", "enclave", "host", "bench", "doctor"):
        assert name in result.stdout


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["bench", "nonsense"], ["--nonsense"], ["bench", "core", "--nonsense"]]
)
def test_unknown_words_are_usage_errors(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: no such ")
    assert "hint: see ephemeralml" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [(["infr"], "infer"), (["varify", "r.cbor"], "verify"), (["model", "sgn"], "sign"), (["polcy", "show"], "policy")],
)
def test_a_misspelt_command_names_the_one_that_is_meant(arguments: list[str], meant: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'?" in result.stderr


def test_an_error_with_json_is_one_document_on_stdout() -> None:
    result = run("bench", "nonsense", "--json")
    assert result.exit_code == 2
    assert result.json["schema"] == "ephemeralml.error/1"
    assert result.json["exit_code"] == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (console.usage("x"), 2),
        (RejectedError("x", code="X"), 3),
        (MalformedError("x"), 4),
        (UnavailableError("x"), 5),
        (IncompleteError("x"), 6),
        (EphemeralError("x"), 1),
    ],
)
def test_each_error_has_its_code(error: EphemeralError, code: int) -> None:
    assert of_error(error) == code


@pytest.mark.parametrize(
    ("codes", "wins"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 5], 5),
        ([5, 6], 6),
        ([6, 3], 3),
        ([3, 4], 4),
        ([4, 2], 2),
        ([2, 1], 1),
        ([0, 6, 5, 3], 3),
    ],
)
def test_the_worst_code_wins(codes: list[int], wins: int) -> None:
    assert worst([ExitCode(code) for code in codes]) == wins


def test_nothing_in_a_message_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2J\u202eb\u2028c\x9bd é"
    output = console.Console(verbosity=1)
    output.error(EphemeralError(hostile, hint=hostile), 1)
    output.warning(hostile)
    output.note(hostile)
    output.detail(hostile)
    said = capsys.readouterr().err
    assert said.count("a\\x1b[2J\\u202eb\\u2028c\\x9bd é") == 5
    assert said.replace("\n", "").isprintable()


def test_a_file_is_never_overwritten_without_force(tmp_path: Path) -> None:
    path = tmp_path / "out"
    console.write_file(path, b"first", force=False)
    with pytest.raises(EphemeralError, match="exists"):
        console.write_file(path, b"second", force=False)
    assert path.read_bytes() == b"first"
    console.write_file(path, b"third", force=True)
    assert path.read_bytes() == b"third"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_private_file_has_mode_0600(tmp_path: Path) -> None:
    console.write_file(tmp_path / "key", b"secret", force=False, private=True)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_a_missing_folder_is_found_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(EphemeralError, match="folder"):
        console.check_writable(tmp_path / "absent" / "file", force=False)


def test_an_input_over_its_limit_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(11))
    with pytest.raises(MalformedError, match="more than 10 bytes"):
        console.read_file(tmp_path / "big", max_bytes=10, what="the file")


def test_exit_is_no_error() -> None:
    assert not isinstance(Exit(ExitCode.OK), EphemeralError)


def test_as_a_process_of_its_own() -> None:
    result = run_process("--version")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "."])
def test_a_name_that_no_file_can_have_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(console.UsageError):
        console.check_writable(tmp_path / name, force=True)


def test_a_link_to_nowhere_counts_as_taken(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("absent")
    with pytest.raises(console.UsageError, match="exists"):
        console.check_writable(tmp_path / "link", force=False)


def test_output_survives_a_terminal_without_the_characters() -> None:
    result = run_process("bench", "nonsense-\u202e", env={"PYTHONIOENCODING": "ascii"})
    assert result.exit_code == 2
    assert result.stderr.isascii()
