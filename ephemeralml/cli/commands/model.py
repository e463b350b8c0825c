"""`ephemeralml model`: look into a model, package, sign and verify it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console

if TYPE_CHECKING:
    from ephemeralml.crypto.keys import PublicKey
    from ephemeralml.model.create import PackageRequest
    from ephemeralml.semver import SemVer

app = typer.Typer(no_args_is_help=True, help="Package models: inspect, encrypt, sign, verify.")

_AllowDtype = Annotated[
    list[str] | None,
    typer.Option("--allow-dtype", metavar="D", help="Also take tensors of this dtype; may be repeated."),
]


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model folder, a model file, or a package.")],
    allow_dtype: _AllowDtype = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor in the text output too.")] = False,
) -> None:
    """Show format, architecture, tensors, dtypes, sizes and hashes; refuse what can run code or lie."""
    from ephemeralml.cli.render_model import inspection_document, print_inspection
    from ephemeralml.model.inspect import inspect as look

    _existing(path)
    with console.current().progress() as progress:
        found = look(path, dtypes=_dtypes(allow_dtype or []), progress=progress)
    if found.package is not None:
        console.current().note("the manifest's signature was not checked; `ephemeralml model verify` does that")
    console.current().result(inspection_document(found), lambda out: print_inspection(out, found, tensors=tensors))


@app.command()
def encrypt(  # noqa: PLR0917 - the command's options
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model folder, or one weights file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The package to make.")],
    model_id: Annotated[
        str, typer.Option("--model-id", metavar="ID", help="Name of the model, as requests will use it.")
    ],
    model_version: Annotated[str, typer.Option("--model-version", metavar="V", help="SemVer 2.0 version.")],
    suite: Annotated[
        str | None, typer.Option("--suite", metavar="none", help="How files are encrypted; none: not at all.")
    ] = None,
    chunk_size: Annotated[
        int, typer.Option("--chunk-size", metavar="BYTES", help="Power of two, 64 KiB to 64 MiB.")
    ] = 4 << 20,
    allow_dtype: _AllowDtype = None,
    license_: Annotated[str, typer.Option("--license", metavar="SPDX", help="Licence of the model.")] = "NOASSERTION",
    publisher: Annotated[str, typer.Option("--publisher", metavar="NAME", help="Who publishes it.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing package.")] = False,
) -> None:
    """Turn a plaintext model into a package, ready to sign."""
    from ephemeralml.cli.render_model import package_document, print_package
    from ephemeralml.model.create import create_package

    _existing(path)
    _check_suite(suite)
    _check_apart(path, out)
    request = _request(model_id, model_version, chunk_size, allow_dtype or [], license_, publisher)
    _free(out, force=force)
    with console.current().progress() as progress:
        made = create_package(path, out, request, replace=force, progress=progress)
    console.current().warning("the package is not encrypted: only a runtime that allows plaintext will load it")
    console.current().result(package_document(out, made), lambda printer: print_package(printer, out, made))


@app.command()
def sign(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="The package's folder.")],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="The publisher's private key (PEM).")],
) -> None:
    """Sign the package's manifest (Ed25519, DSSE), in place of any signature it has."""
    from ephemeralml.cli.key_files import read_private_key
    from ephemeralml.cli.render_model import print_signed, signed_document
    from ephemeralml.model.sign import sign_package

    _existing(package, folder=True)
    private = read_private_key(key)
    signed = sign_package(package, private)
    document = signed_document(package, signed, private.public)
    console.current().result(document, lambda out: print_signed(out, document))


@app.command()
def verify(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="The package's folder.")],
    publisher_key: Annotated[
        list[str],
        typer.Option(
            "--publisher-key", metavar="KEY", help="ed25519:HEX, HEX or a file; may be repeated, one has to fit."
        ),
    ],
    min_version: Annotated[
        str | None, typer.Option("--min-version", metavar="V", help="Refuse an older version.")
    ] = None,
    allow_plaintext: Annotated[
        bool, typer.Option("--allow-plaintext", help="Accept a package that is not encrypted.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Check the plaintext digests of every file too.")] = False,
) -> None:
    """Check signature, layout, sizes and digests; offline."""
    from ephemeralml.cli.render_model import print_verified, verified_document
    from ephemeralml.model.package import Package
    from ephemeralml.model.verify import verify_package
    from ephemeralml.model.verify_full import verify_plaintext

    _existing(package, folder=True)
    keys = _publisher_keys(publisher_key)
    oldest = None if min_version is None else _version(min_version, "--min-version")
    with Package.open(package) as opened, console.current().progress() as progress:
        verified = verify_package(
            opened, publisher_keys=keys, min_version=oldest, allow_plaintext=allow_plaintext, progress=progress
        )
        if full:
            verify_plaintext(verified, opened, progress=progress)
    document = verified_document(package, verified, full=full)
    console.current().result(document, lambda out: print_verified(out, document))


def _existing(path: Path, *, folder: bool = False) -> None:
    if not path.exists() and not path.is_symlink():
        raise console.usage(f"there is no {str(path)!r}")
    if folder and not path.is_dir():
        raise console.usage(f"{str(path)!r} is no folder", hint="a package is a folder with a manifest.json")


def _free(out: Path, *, force: bool) -> None:
    """Refuse a destination that exists; the packager itself replaces nothing but packages."""
    if os.path.lexists(out) and not force:
        raise console.usage(f"{str(out)!r} exists", hint="choose another name, or add --force to replace it")
    if not out.parent.is_dir():
        raise console.usage(f"the folder of {str(out)!r} does not exist")


def _check_apart(source: Path, out: Path) -> None:
    """Refuse a package inside of its own model, and a model inside of what is replaced."""
    from ephemeralml.model.create import lie_in_each_other

    if lie_in_each_other(source, out):
        raise console.usage(
            f"--out {str(out)!r} and the model {str(source)!r} lie in each other", hint="name a folder beside the model"
        )


def _check_suite(suite: str | None) -> None:
    from ephemeralml.model.manifest import Suite

    hint = "--suite none makes a signed package that is not encrypted"
    if suite is None:
        raise console.usage("--suite is not given, and there is no encryption yet to choose by default", hint=hint)
    if suite not in {known.value for known in Suite}:
        raise console.usage(f"unknown suite {suite!r}", hint=hint)
    if suite != Suite.NONE.value:
        raise console.usage(
            f"suite {suite} arrives with key release, this version makes unencrypted packages only",
            hint=hint,
        )


def _request(
    model_id: str, version: str, chunk_size: int, allow_dtype: list[str], license_: str, publisher: str
) -> "PackageRequest":
    from ephemeralml import clock
    from ephemeralml.errors import MalformedError
    from ephemeralml.model.create import PackageRequest

    try:
        return PackageRequest(
            model_id=model_id,
            version=_version(version, "--model-version"),
            created_at=clock.now().replace(microsecond=0),
            license=license_,
            publisher=publisher,
            chunk_size=chunk_size,
            dtypes=_dtypes(allow_dtype),
        )
    except MalformedError as error:
        raise console.usage(error.message, hint=error.hint) from error


def _version(text: str, option: str) -> "SemVer":
    from ephemeralml.semver import SemVer

    try:
        return SemVer.parse(text)
    except ValueError as error:
        raise console.usage(f"{option}: {error}", hint="write it as 1.2.3 or 1.2.3-rc.1") from error


def _dtypes(allowed: list[str]) -> frozenset[str]:
    from ephemeralml.model.formats.safetensors import DEFAULT_DTYPES, DTYPE_BITS

    for name in allowed:
        if name not in DTYPE_BITS:
            raise console.usage(f"--allow-dtype: no dtype {name!r}", hint=f"known are {', '.join(sorted(DTYPE_BITS))}")
    return DEFAULT_DTYPES | frozenset(allowed)


def _publisher_keys(texts: list[str]) -> "list[PublicKey]":
    from ephemeralml.cli.key_files import read_public_key

    return [read_public_key(text) for text in texts]
