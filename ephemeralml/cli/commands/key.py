"""`ephemeralml key`: Ed25519 keys of publishers and policies."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console

if TYPE_CHECKING:
    from ephemeralml.crypto.keys import PublicKey

app = typer.Typer(no_args_is_help=True, help="Ed25519 publisher and policy keys.")


class Purpose(StrEnum):
    """What a key is made for; a label for people."""

    PUBLISHER = "publisher"
    POLICY = "policy"


@app.command()
def generate(
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="Where to write the private key (PEM, mode 0600).")
    ],
    purpose: Annotated[Purpose, typer.Option("--purpose", help="What it will sign.")] = Purpose.PUBLISHER,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file; its key is lost.")] = False,
) -> None:
    """Make an Ed25519 key: the private half to FILE, the public one beside it as .pub."""
    from ephemeralml.crypto.keys import PrivateKey

    beside = out.with_suffix(".pub")
    if beside == out:
        raise console.usage(f"{str(out)!r} is the name of a public key", hint="name the private key *.pem")
    for path in (out, beside):
        console.check_writable(path, force=force)
    key = PrivateKey.generate()
    console.write_file(beside, f"{key.public}\n".encode(), force=force)
    console.write_file(out, key.to_pem(), force=force, private=True)
    _show(key.public, out, {"purpose": purpose.value, "private": True, "public_file": str(beside)})


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A private or public key file.")],
) -> None:
    """Print the public half of a key and its id; never the private half."""
    from ephemeralml.cli.key_files import public_half

    public, private = public_half(file)
    _show(public, file, {"private": private})


def _show(key: "PublicKey", file: Path, more: dict[str, object]) -> None:
    document = {"schema": "ephemeralml.key/1", "public_key": str(key), "keyid": key.keyid, "file": str(file), **more}
    kind = more.get("purpose") or ("private" if more["private"] else "public")
    lines = [f"{'key':<14}{file} ({kind})", f"{'public key':<14}{key}", f"{'key id':<14}{key.keyid}"]
    console.current().result(document, lambda out: out.print("\n".join(lines), markup=False, soft_wrap=True))
