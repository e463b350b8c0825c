"""Options that every command has, and where their defaults come from."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import typer
import typer.main

from ephemeralml.cli import console

ENVIRONMENT_PREFIX = "EPHEMERALML_"


def _set_json(value: bool) -> None:
    console.current().json = value


def _set_plain(value: bool) -> None:
    console.current().plain = value


def _set_quiet(value: bool) -> None:
    console.current().quiet = value


def _set_verbosity(value: int) -> None:
    console.current().verbosity = value


@lru_cache(maxsize=1)
def _common() -> tuple[Any, ...]:
    """Return the shared options as parameters, made by typer from a donor command."""
    donor = typer.Typer(add_completion=False)
    panel = "Output"

    @donor.command()
    def _donor(
        json: bool = typer.Option(
            False,
            "--json",
            help="Print one JSON document.",
            callback=_set_json,
            expose_value=False,
            rich_help_panel=panel,
        ),
        plain: bool = typer.Option(
            False,
            "--plain",
            help="No colour and no progress bars.",
            callback=_set_plain,
            expose_value=False,
            rich_help_panel=panel,
        ),
        quiet: bool = typer.Option(
            False,
            "--quiet",
            help="Only results, warnings and errors.",
            callback=_set_quiet,
            expose_value=False,
            rich_help_panel=panel,
        ),
        verbose: int = typer.Option(
            0,
            "-v",
            "--verbose",
            count=True,
            help="Say more; twice for debugging.",
            callback=_set_verbosity,
            expose_value=False,
            rich_help_panel=panel,
        ),
    ) -> None: ...

    return tuple(param for param in typer.main.get_command(donor).params if param.name != "help")


Defaults = Callable[[tuple[str, ...]], dict[str, Any]]
"""Returns what the settings say for a command, named by its words."""


def inject_common(command: Any, words: tuple[str, ...], defaults: Defaults) -> None:
    """Give *command*, or every command of a group, the shared options and their defaults."""
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            inject_common(child, (*words, name), defaults)
        return
    _read_defaults(command, words, defaults)
    names = {param.name for param in command.params}
    command.params.extend(param for param in _common() if param.name not in names)
    for param in command.params:
        if param.param_type_name == "option" and param.name != "help":
            param.envvar = param.envvar or _environment_name(param.opts)
            param.show_envvar = False


def _read_defaults(command: Any, words: tuple[str, ...], defaults: Defaults) -> None:
    """Have *command* ask for its defaults as it parses, and only if it is to run: help needs none."""
    parse = command.parse_args

    def parse_args(ctx: Any, args: list[str]) -> list[str]:
        _, _, order = command.make_parser(ctx).parse_args(args=list(args))
        if not ctx.resilient_parsing and not any(param.name == "help" for param in order):
            ctx.default_map = defaults(words)
        return list(parse(ctx, args))

    command.parse_args = parse_args


def _environment_name(flags: list[str]) -> str:
    """Return ``EPHEMERALML_`` and the option's long name."""
    long = next(flag for flag in flags if flag.startswith("--"))
    return ENVIRONMENT_PREFIX + long.removeprefix("--").replace("-", "_").upper()
