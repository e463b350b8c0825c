"""What the `model` commands are given: places, versions, dtypes, publisher keys."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ephemeralml.cli import console

if TYPE_CHECKING:
    from ephemeralml.crypto.keys import PublicKey
    from ephemeralml.model.create import PackageRequest, Upstream
    from ephemeralml.model.manifest import Suite
    from ephemeralml.semver import SemVer

AllowDtype = Annotated[
    list[str] | None,
    typer.Option("--allow-dtype", metavar="D", help="Also take tensors of this dtype; may be repeated."),
]
PackageFolder = Annotated[Path, typer.Argument(metavar="PACKAGE", help="The package's folder.")]
OutFolder = Annotated[Path, typer.Option("--out", metavar="DIR", help="The package to make.")]
PublisherKeys = Annotated[
    list[str],
    typer.Option("--publisher-key", metavar="KEY", help="ed25519:HEX, HEX or a file; may be repeated, one has to fit."),
]
MinVersion = Annotated[str | None, typer.Option("--min-version", metavar="V", help="Refuse an older version.")]
AllowPlaintext = Annotated[bool, typer.Option("--allow-plaintext", help="Accept a package that is not encrypted.")]
WrappingKey = Annotated[
    str | None,
    typer.Option("--key", metavar="URI", help="KMS key to wrap with: aws-kms:ARN, gcp-kms:NAME or local:ARN."),
]
ModelId = Annotated[str, typer.Option("--model-id", metavar="ID", help="Name of the model, as requests will use it.")]
ModelVersion = Annotated[str, typer.Option("--model-version", metavar="V", help="SemVer 2.0 version.")]
Replace = Annotated[bool, typer.Option("--force", help="Replace an existing package.")]
SuiteName = Annotated[
    str | None,
    typer.Option(
        "--suite",
        metavar="S",
        help="chacha20poly1305-stream (the default), aes256gcm-stream, or none: signed and not encrypted.",
    ),
]
ChunkSize = Annotated[int, typer.Option("--chunk-size", metavar="BYTES", help="Power of two, 64 KiB to 64 MiB.")]
License = Annotated[str, typer.Option("--license", metavar="SPDX", help="Licence of the model.")]
Publisher = Annotated[str, typer.Option("--publisher", metavar="NAME", help="Who publishes it.")]
BindManifest = Annotated[
    bool, typer.Option("--bind-manifest", help="Bind the data key to this very manifest, not to id and version alone.")
]

_SUITE_HINT = "--key URI encrypts the package, --suite none makes a signed one that is not encrypted"


def existing(path: Path, *, folder: bool = False) -> None:
    """Refuse an input that is not there, or is no folder where one is wanted."""
    if not path.exists() and not path.is_symlink():
        raise console.usage(f"there is no {str(path)!r}")
    if folder and not path.is_dir():
        raise console.usage(f"{str(path)!r} is no folder", hint="a package is a folder with a manifest.json")


def packaged(path: Path) -> None:
    """Refuse a folder that is there and is no package: a plaintext model most of all."""
    existing(path, folder=True)
    if not os.path.lexists(path / "manifest.json") and not os.path.lexists(path / "blobs"):
        raise console.usage(
            f"{str(path)!r} is no package: it has no manifest.json",
            hint="`ephemeralml model encrypt` makes a package of a plaintext model",
        )


def free(out: Path, *, force: bool) -> None:
    """Refuse a destination that exists; the packager itself replaces nothing but packages."""
    if os.path.lexists(out) and not force:
        raise console.usage(f"{str(out)!r} exists", hint="choose another name, or add --force to replace it")
    if not out.parent.is_dir():
        raise console.usage(f"the folder of {str(out)!r} does not exist")


def check_apart(source: Path, out: Path) -> None:
    """Refuse a package inside of its own model, and a model inside of what is replaced."""
    from ephemeralml.model.create import lie_in_each_other

    if lie_in_each_other(source, out):
        raise console.usage(
            f"--out {str(out)!r} and the model {str(source)!r} lie in each other", hint="name a folder beside the model"
        )


def chosen_suite(name: str | None, key: str | None, *, bind_manifest: bool, endpoint: str | None) -> "Suite":
    """Return the suite that --suite and --key ask for together."""
    from ephemeralml.model.manifest import Suite

    if name is not None and name not in {known.value for known in Suite}:
        raise console.usage(f"unknown suite {name!r}", hint=f"known are {', '.join(known.value for known in Suite)}")
    if name is None and key is None:
        raise console.usage("neither --key nor --suite is given", hint=_SUITE_HINT)
    suite = Suite(name) if name is not None else Suite.CHACHA20POLY1305
    if suite is Suite.NONE and key is not None:
        raise console.usage("--suite none takes no --key: nothing would be encrypted", hint=_SUITE_HINT)
    if suite is not Suite.NONE and key is None:
        raise console.usage(f"suite {suite.value} needs --key URI, the KMS key to wrap with", hint=_SUITE_HINT)
    if suite is Suite.NONE and (bind_manifest or endpoint is not None):
        option = "--bind-manifest" if bind_manifest else "--kms-endpoint"
        raise console.usage(f"{option} means nothing without --key", hint=_SUITE_HINT)
    return suite


def package_request(
    *,
    model_id: str,
    version: str,
    chunk_size: int,
    allow_dtype: list[str],
    license_: str,
    publisher: str,
    suite: "Suite",
    bind_manifest: bool = False,
    upstream: "Upstream | None" = None,
) -> "PackageRequest":
    """Return what the options say of the package, made now."""
    from ephemeralml import clock
    from ephemeralml.errors import MalformedError
    from ephemeralml.model.create import PackageRequest

    try:
        return PackageRequest(
            model_id=model_id,
            version=semver(version, "--model-version"),
            created_at=clock.now().replace(microsecond=0),
            license=license_,
            publisher=publisher,
            chunk_size=chunk_size,
            dtypes=dtypes(allow_dtype),
            suite=suite,
            bind_manifest=bind_manifest,
            upstream=upstream,
        )
    except MalformedError as error:
        raise console.usage(error.message, hint=error.hint) from error


def semver(text: str, option: str) -> "SemVer":
    """Read the version that *option* gives."""
    from ephemeralml.semver import SemVer

    try:
        return SemVer.parse(text)
    except ValueError as error:
        raise console.usage(f"{option}: {error}", hint="write it as 1.2.3 or 1.2.3-rc.1") from error


def least_version(text: str | None) -> "SemVer | None":
    """Read --min-version."""
    return None if text is None else semver(text, "--min-version")


def dtypes(allowed: list[str]) -> frozenset[str]:
    """Return the dtypes that tensors may have."""
    from ephemeralml.model.formats.safetensors import DEFAULT_DTYPES, DTYPE_BITS

    for name in allowed:
        if name not in DTYPE_BITS:
            raise console.usage(f"--allow-dtype: no dtype {name!r}", hint=f"known are {', '.join(sorted(DTYPE_BITS))}")
    return DEFAULT_DTYPES | frozenset(allowed)


def publisher_keys(texts: list[str]) -> "list[PublicKey]":
    """Read --publisher-key, each time it is given."""
    from ephemeralml.cli.key_files import read_public_key

    return [read_public_key(text) for text in texts]
