"""The README and the pages of docs/ name only commands and options that exist, with the help's own words."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from ephemeralml.cli.main import ENTRIES, app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDER = re.compile(r"^[A-Z<]")


def _commands_in(page: Path) -> Iterator[tuple[str, list[str]]]:
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            text = line.strip().removeprefix("$ ")
            if text.startswith("ephemeralml "):
                yield text, shlex.split(text, comments=True)[1:]


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(command, "commands"):
        for name in command.list_commands(None):
            yield from _leaves(command.get_command(None, name), (*path, name))
    else:
        yield path, command


ROOT_COMMAND = typer.main.get_command(app)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_a_page_is_one_the_program_takes(page: Path) -> None:
    for text, words in _commands_in(page):
        command: Any = ROOT_COMMAND
        while hasattr(command, "list_commands") and words and not words[0].startswith("-"):
            name = words.pop(0)
            command = command.get_command(None, name)
            assert command is not None, f"{page.name}: {text!r} names no command {name!r}"
        known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {
            "--help",
            "-h",
        }
        for word in words:
            if word in {"&", "&&", ";", "|", ">", "<"}:
                break
            if word.startswith("-") and word != "-":
                assert word.split("=")[0] in known, (
                    f"{page.name}: {text!r} uses {word!r}, the command has {sorted(known)}"
                )


def test_readme_lists_every_command_with_its_help() -> None:
    rows = dict(re.findall(r"^\| `ephemeralml ([a-z -]+)` \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE))
    helps = {
        " ".join(path): command.get_short_help_str(limit=200).rstrip(".") for path, command in _leaves(ROOT_COMMAND)
    }
    assert {name: text.rstrip(".") for name, text in rows.items()} == helps


def test_every_option_has_an_environment_default_of_its_name() -> None:
    for path, command in _leaves(ROOT_COMMAND):
        for param in command.params:
            if param.param_type_name == "option" and param.name != "help":
                names = {f"EPHEMERALML_{flag[2:].replace('-', '_').upper()}" for flag in param.opts if flag[:2] == "--"}
                assert param.envvar in names, (path, param.name)


def test_every_command_has_a_help_text() -> None:
    for path, command in _leaves(ROOT_COMMAND):
        assert command.help, path
        for param in command.params:
            if param.param_type_name == "option" and param.name != "help":
                assert getattr(param, "help", None), (path, param.name)


def test_the_top_level_listing_says_what_each_command_says() -> None:
    for entry in ENTRIES:
        assert ROOT_COMMAND.get_command(None, entry.name).get_short_help_str(limit=200) == entry.summary
