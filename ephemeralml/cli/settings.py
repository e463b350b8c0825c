"""The settings file: defaults for options, below the environment (docs/settings.md).

Two files are not alike. One that EPHEMERALML_SETTINGS names was chosen by who
runs the command, and may set every option. An ``ephemeralml.toml`` in the
working folder may have come with somebody's evidence, so it may set only what
decides neither whom to trust nor what is read, written or sent.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import UsageError
from ephemeralml.errors import MalformedError

VARIABLE = "EPHEMERALML_SETTINGS"
IMPLICIT = "ephemeralml.toml"
MAX_BYTES = 64 << 10
HARMLESS = frozenset(
    {"--json", "--plain", "--quiet", "--verbose",  # how it is shown
     "--chat", "--embed", "--stream", "--max-tokens", "--count", "--concurrency", "--timeout",  # how much is asked
     "--tensors", "--quick", "--drain"}  # how long it takes
)  # fmt: skip
"""All that the working folder's file may set; an option that is not listed here is one that it may not."""


class CommandTree(Protocol):
    """Where the names of commands and options come from."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return one of them, loading it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A settings file whose every table and key names something that exists."""

    path: Path
    chosen: bool
    """Whether EPHEMERALML_SETTINGS named it."""
    defaults: Mapping[tuple[str, ...], Mapping[str, Any]]
    """What it sets for each command, by the parameter's name."""

    def of(self, words: tuple[str, ...]) -> dict[str, Any]:
        """Return the defaults of one command, and say so where nobody chose the file."""
        found = dict(self.defaults.get(words, {}))
        if found and not self.chosen:
            console.current().warning(f"{str(self.path)!r} of this folder sets defaults: {', '.join(found)}")
        return found


def load(root: CommandTree) -> Settings:
    """Read the settings file that is in force; where there is none, one that sets nothing.

    Raises:
        UsageError: EPHEMERALML_SETTINGS names no file, a table or key names
            nothing, or the working folder's file sets what it may not.
        MalformedError: The file is no TOML.
    """
    named = os.environ.get(VARIABLE, "")
    path = Path(named or IMPLICIT)
    if not named and not os.path.lexists(path):
        return Settings(path, False, {})
    if not named and not path.is_file():
        raise console.usage(f"{IMPLICIT!r} of this folder is no file")
    data = console.read_file(path, max_bytes=MAX_BYTES, what="settings")
    try:
        document = tomllib.loads(data.decode())
    except ValueError as error:
        raise MalformedError(f"cannot read settings from {str(path)!r}: {error}") from error
    defaults: dict[tuple[str, ...], dict[str, Any]] = {}
    _Reader(path, bool(named), defaults).group(document, root, ())
    return Settings(path, bool(named), defaults)


@dataclass(frozen=True, slots=True)
class _Reader:
    path: Path
    chosen: bool
    found: dict[tuple[str, ...], dict[str, Any]]

    def group(self, table: Mapping[str, Any], command: CommandTree, words: tuple[str, ...]) -> None:
        """Take the tables of a group's commands."""
        names = command.list_commands(None)
        for name, value in table.items():
            if name not in names or not isinstance(value, dict):
                where = f"[{'.'.join((*words, name))}]" if isinstance(value, dict) else repr(name)
                raise self._unknown(f"{where} names no command", name, names)
            child = command.get_command(None, name)
            if hasattr(child, "list_commands"):
                self.group(value, child, (*words, name))
            else:
                self.leaf(value, child, (*words, name))

    def leaf(self, table: Mapping[str, Any], command: Any, words: tuple[str, ...]) -> None:
        """Take the defaults of one command."""
        options = {_long(param): param for param in command.params if param.param_type_name == "option"}
        set_here = self.found.setdefault(words, {})
        for key, value in table.items():
            where = f"{key!r} of [{'.'.join(words)}]"
            flag = "--" + key.replace("_", "-")
            param = options.get(flag)
            if param is None or param.name == "help":
                known = [name.removeprefix("--") for name in options if name != "--help"]
                raise self._unknown(f"{where} names no option of the command", flag.removeprefix("--"), known)
            if not self.chosen and flag not in HARMLESS:
                raise console.usage(
                    f"settings: {IMPLICIT!r} of this folder may not set {where}",
                    hint=f"others may have put it there; if it is yours, say so: {VARIABLE}={IMPLICIT}",
                )
            if param.name in set_here:
                raise console.usage(f"settings: {where} is set twice in {str(self.path)!r}")
            self._check_kind(value, where, several=bool(param.multiple), flag=bool(param.is_flag))
            set_here[param.name] = value

    def _unknown(self, what: str, name: str, known: list[str]) -> UsageError:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return console.usage(f"settings: {what}, in {str(self.path)!r}", hint=hint)

    def _check_kind(self, value: Any, where: str, *, several: bool, flag: bool) -> None:
        wanted = "a list" if several else "true or false" if flag else "a text or a number"
        items = value if several and isinstance(value, list) else [value]
        fits = all(isinstance(item, bool) if flag else type(item) in (str, int, float) for item in items)
        if not fits or several is not isinstance(value, list):
            raise console.usage(f"settings: {where} has to be {wanted}, in {str(self.path)!r}")


def _long(param: Any) -> str:
    """Return the name of an option that its settings have: the first long one."""
    return str(next(flag for flag in param.opts if flag.startswith("--")))
