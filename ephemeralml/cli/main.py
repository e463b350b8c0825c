"""Assembles the `ephemeralml` command and maps what it raises to exit codes.

A command module is imported when its command is named (or listed); what it
needs beyond options and console it imports inside the command. So `--help` and
`verify` stay fast.
"""

import difflib
import importlib
import sys
from dataclasses import dataclass
from typing import Any

import typer
import typer.core
from typer._click.exceptions import ClickException, NoArgsIsHelpError
from typer._click.exceptions import UsageError as ParseError

from ephemeralml.cli import console, settings, standard_streams
from ephemeralml.cli.exit_codes import Exit, ExitCode, of_error
from ephemeralml.cli.options import inject_common
from ephemeralml.errors import EphemeralError, UnavailableError


@dataclass(frozen=True, slots=True)
class Entry:
    """A command of the top level."""

    name: str
    panel: str
    summary: str
    """What its own help says first; the listing shows it without loading the command."""

    @property
    def module(self) -> str:
        """Where the command is."""
        return f"ephemeralml.cli.commands.{self.name}"


_START, _ASK, _PUBLISH, _RUN, _MEASURE = "Start here", "Ask and verify", "Publish a model", "Run", "Measure"

ENTRIES = (
    Entry("demo", _START, "Show the whole job on this machine: package, serve, infer, verify, attacks refused."),
    Entry("doctor", _START, "Check this machine and say what to do about each finding; changes nothing."),
    Entry("infer", _ASK, "Verify the runtime, ask it, verify the receipt, print the answer."),
    Entry(
        "verify", _ASK, "Verify receipts offline: form, signature, claims, your demands, and the evidence behind them."
    ),
    Entry("policy", _ASK, "Policies: what a client accepts."),
    Entry("attestation", _ASK, "Evidence documents: look into them."),
    Entry("model", _PUBLISH, "Package models: inspect, encrypt, sign, verify."),
    Entry("key", _PUBLISH, "Ed25519 publisher and policy keys."),
    Entry("kms", _PUBLISH, "Key release: a local KMS that enforces attestation, and key policies."),
    Entry("deploy", _RUN, "Deploy an attested endpoint."),
    Entry("enclave", _RUN, "The runtime inside the TEE."),
    Entry("host", _RUN, "The blind relay beside the enclave."),
    Entry("bench", _MEASURE, "Measure this installation, print ratios."),
)


class _Commands(typer.core.TyperGroup):
    """The top-level group; loads a command's module when the command is used."""

    _listing = False

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; the commands in it are stand-ins, so listing twelve loads none."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the group's interface
        """Return every command's name, in the order of the help."""
        return [entry.name for entry in ENTRIES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the group's interface
        """Return a command, loading it; None if there is none of that name."""
        entry = next((entry for entry in ENTRIES if entry.name == cmd_name), None)
        if entry is None:
            return None
        if self._listing:
            return typer.core.TyperCommand(entry.name, help=entry.summary, rich_help_panel=entry.panel)
        if cmd_name not in self.commands:
            module = importlib.import_module(entry.module)
            module.app._add_completion = False  # noqa: SLF001 - the root alone offers completion
            command = typer.main.get_command(module.app)
            command.name = entry.name
            inject_common(command, (cmd_name,), self._defaults)
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is named; for one that is not there, name the closest."""
        if args and args[0] not in (known := self.list_commands(ctx)):
            close = difflib.get_close_matches(args[0], known, n=1)
            if close:
                raise ParseError(f"no such command {args[0]!r}. Did you mean {close[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def _defaults(self, words: tuple[str, ...]) -> dict[str, Any]:
        return settings.load(self).of(words)


app = typer.Typer(
    cls=_Commands,
    name="ephemeralml",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    """Run AI models inside hardware TEEs, with a signed receipt for every inference.

    Neither the cloud nor the host sees weights, prompts or answers; every reply
    leaves a receipt that anyone can verify offline.

    Every option has an environment default, EPHEMERALML_ and its name; a file
    that EPHEMERALML_SETTINGS names sits below (docs/settings.md).
    """
    if version:
        from ephemeralml import __version__

        print(f"ephemeralml {__version__}")
        raise Exit(ExitCode.OK)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code; prints whatever it has to say."""
    output = console.reset()
    output.json = "--json" in arguments
    code = _run(arguments, output)
    lost = standard_streams.failure(sys.stdout)
    return code if lost is None else _unread(lost, code, output)


def _run(arguments: list[str], output: console.Console) -> int:
    try:
        command = typer.main.get_command(app)
        ended = command.main(args=arguments, prog_name="ephemeralml", standalone_mode=False)
        if ended == ExitCode.INTERRUPTED:  # how typer reports a KeyboardInterrupt that it caught
            return _interrupted()
    except Exit as end:
        return end.code
    except SystemExit:
        # How typer ends when the reader of our output went away: nobody has the result, so it is no success.
        return ExitCode.UNAVAILABLE
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except Exception as error:  # noqa: BLE001 - the one boundary; _report tells bugs apart
        return _report(error, output)
    return ExitCode.OK


def _unread(error: OSError, code: int, output: console.Console) -> int:
    """Report a result that could not be written out: that is no success, and no bug.

    A reader that went away, as `head` does, has what it wanted: no word about it.
    """
    standard_streams.forget(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        output.json = False  # its document would go where the result could not
        lost = UnavailableError(f"cannot write the result: {error.strerror}", hint="is stdout open, and not full?")
        output.error(lost, ExitCode.UNAVAILABLE)
    return ExitCode.UNAVAILABLE if code in {ExitCode.OK, ExitCode.CHANGES} else code


def _interrupted() -> int:
    console.say("interrupted")
    return ExitCode.INTERRUPTED


def _report(error: Exception, output: console.Console) -> int:
    """Print what *error* means and return its exit code; the one boundary for all errors."""
    if isinstance(error, NoArgsIsHelpError):
        print(error.format_message())
        return ExitCode.USAGE
    if isinstance(error, ParseError):
        where = error.ctx.command_path if error.ctx else "ephemeralml"
        error = console.usage(_lower(error.format_message()), hint=f"see {where} --help")
    elif isinstance(error, ClickException):
        error = console.usage(_lower(error.format_message()))
    elif not isinstance(error, EphemeralError):
        if isinstance(error, OSError) and standard_streams.failure(sys.stdout):
            return ExitCode.UNAVAILABLE  # `run` finds the same, and says it
        # A bug must not look like a verdict, and its message may hold anything.
        if output.verbosity:
            raise error
        name = type(error).__name__
        error = EphemeralError(f"internal error ({name})", hint="run it again with -v and report what it prints")
    code = of_error(error)
    output.error(error, code)
    return code


def _lower(message: str) -> str:
    text = message.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def main() -> None:
    """Entry point of the console script."""
    standard_streams.prepare()
    code = run(sys.argv[1:])
    if standard_streams.failure(sys.stderr):
        standard_streams.forget(sys.stderr)
    sys.exit(code)
