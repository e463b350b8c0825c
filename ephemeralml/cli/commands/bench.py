"""`ephemeralml bench`: measure this installation."""

import typer

app = typer.Typer(no_args_is_help=True, help="Measure this installation, print ratios.")


@app.command()
def core() -> None:
    """Measure the main job: engine, path, handshake, verification, records."""
    from ephemeralml.cli import console

    console.current().result({"ok": 1}, lambda out: out.print("ok"))


@app.callback()
def _group() -> None: ...
