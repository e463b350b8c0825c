"""`ephemeralml enclave`: the runtime inside the TEE."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from ephemeralml.enclave.config import RuntimeConfig
    from ephemeralml.enclave.measured import Difference

app = typer.Typer(no_args_is_help=True, help="The runtime inside the TEE.")


class AttesterKind(StrEnum):
    """What proves to clients which enclave this is."""

    LOCAL = "local"
    """The software TEE."""
    NSM = "nsm"
    """The Nitro Secure Module."""


_Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The measured configuration.")]
_Authority = Annotated[
    Path | None,
    typer.Option(
        "--authority",
        metavar="DIR",
        help="Software TEE: its certificate authority. Default: the folder `authority` beside the configuration",
    ),
]
_NewAuthority = Annotated[
    Path | None,
    typer.Option(
        "--authority",
        metavar="DIR",
        help="Software TEE: where its authority is, or is made. Default: the folder `authority` beside FILE",
    ),
]
_Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="ADDR",
        help="Where the runtime listens: tcp, unix or vsock. Default: tcp://127.0.0.1:5005, with nsm vsock://any:5005",
    ),
]
_Plaintext = Annotated[
    bool | None,
    typer.Option(
        "--allow-plaintext/--no-allow-plaintext",
        help="Whether packages that are not encrypted may run. Default: with the software TEE and no --key",
    ),
]
_Key = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="URI", help="A KMS key that may open encrypted packages; repeatable."),
]
_Services = Annotated[
    str | None,
    typer.Option(
        "--services",
        metavar="ADDR",
        help="Where `host run --services` listens. Default: with nsm and --key vsock://3:8001",
    ),
]
_PackageName = Annotated[
    list[str] | None,
    typer.Option("--package-name", metavar="NAME", help="A package's name there; repeatable. Default: one without"),
]


_Expect = Annotated[
    Path | None, typer.Option("--expect", metavar="FILE", help="Compare with the measurements in this JSON document.")
]
_ReleaseDocument = Annotated[
    Path | None,
    typer.Option(
        "--release-document",
        metavar="FILE",
        help="Also write an attestation document to verify a key policy with: kms policy apply --verify-document.",
    ),
]


@app.command()
def init(  # noqa: PLR0917 - one parameter per option
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it, for instance enclave.toml.")],
    attester: Annotated[
        AttesterKind,
        typer.Option("--attester", help="`nsm` on AWS Nitro; `local` is the software TEE, which protects nothing."),
    ],
    publisher_key: Annotated[
        str, typer.Option("--publisher-key", metavar="KEY", help="Who must have signed models: ed25519:HEX or a file.")
    ],
    model: Annotated[str, typer.Option("--model", metavar="ID", help="The model that may run; may hold * and ?.")],
    listen: _Listen = None,
    authority: _NewAuthority = None,
    allow_plaintext: _Plaintext = None,
    key: _Key = None,
    services: _Services = None,
    package_name: _PackageName = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE; an authority is kept.")] = False,
) -> None:
    """Write a measured configuration to start from, with the software TEE's authority.

    The file is valid as it is, and commented. Every byte of it is measured, so
    edit it first, measure then.
    """
    from ephemeralml.cli import enclave_inputs
    from ephemeralml.cli.key_files import read_public_key

    console.check_writable(out, force=force)
    wanted = enclave_inputs.first_config(
        out,
        attester.value,
        read_public_key(publisher_key),
        model,
        listen=listen,
        allow_plaintext=allow_plaintext,
        authority=authority,
        keys=key or (),
        services=services,
        packages=package_name or (),
    )
    source = wanted.source()
    root = enclave_inputs.make_authority(wanted.authority) if wanted.authority is not None else None
    console.write_file(out, source, force=force)
    if root is not None:
        console.current().warning("software TEE: not protected from this machine, and it proves nothing about hardware")
    document = enclave_inputs.init_document(wanted, source, root)
    console.current().result(document, lambda to: _show_first(to, document))


@app.command()
def run(
    config: _Config,
    package: Annotated[
        list[Path] | None,
        typer.Option(
            "--package",
            metavar="DIR",
            help="A package folder, for development; repeatable. Default: those of the measured host services",
        ),
    ] = None,
    authority: _Authority = None,
    nsm_socket: Annotated[
        Path | None, typer.Option("--nsm-socket", metavar="PATH", help="Software TEE: the socket of its module.")
    ] = None,
) -> None:
    """Boot, serve until SIGINT or SIGTERM, then drain.

    Only the configuration is measured; the other options come from the host
    and can make the boot fail, never change whose models run. Prints one
    document when ready.
    """
    from ephemeralml.cli import enclave_run

    _require_file(config)
    for folder in package or ():
        if not folder.is_dir():
            raise console.usage(f"the package {str(folder)!r} is no folder")
    if authority is not None and nsm_socket is not None:
        raise console.usage("--authority and --nsm-socket exclude each other")
    enclave_run.run(config, tuple(package or ()), authority, nsm_socket)


@app.command()
def measure(
    config: _Config,
    authority: _Authority = None,
    expect: _Expect = None,
    release_document: _ReleaseDocument = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the document's file.")] = False,
) -> None:
    """Print this enclave's measurements, and compare them with those expected.

    For the software TEE they are computed from this installation and the
    configuration; otherwise the device is asked.
    """
    from ephemeralml.attestation.local.authority import Authority
    from ephemeralml.cli import enclave_inputs
    from ephemeralml.enclave import measured
    from ephemeralml.enclave.config import RuntimeConfig

    _require_file(config)
    wanted = None
    if expect is not None:
        data = console.read_file(expect, max_bytes=measured.MAX_EXPECTED_BYTES, what="the expected measurements")
        wanted = measured.parse_expected(data)
    parsed = RuntimeConfig.load(config)
    folder = enclave_inputs.find_authority(config, parsed.attester, authority)
    if release_document is not None:
        enclave_inputs.require_attester_inputs(config, parsed.attester, authority, None)
        console.check_writable(release_document, force=force)
    registers = measured.registers(parsed, authority=folder)
    if release_document is not None:
        console.write_file(release_document, _release_document(parsed, folder), force=force)
    if folder is None and parsed.attester == "local":
        console.current().note("no software authority: without --authority there is no root and no pcr4")
    found = None if wanted is None else measured.differences(registers, wanted)
    document = {
        "schema": "ephemeralml.measure/1",
        "attester": parsed.attester,
        "measurement_type": "nitro-pcr",
        "config_sha256": parsed.digest.hex(),
        "root": enclave_inputs.fingerprint(Authority.load(folder)) if folder is not None else None,
        "measurements": {slot: value.hex() for slot, value in registers.items()},
        "matches": None if found is None else not found,
        "differences": [
            {"register": item.slot, "expected": item.expected, "actual": item.actual} for item in found or []
        ],
        "release_document": str(release_document) if release_document is not None else None,
    }
    console.current().result(document, lambda out: _show_measurements(out, document, found))
    if found:
        raise Exit(ExitCode.REJECTED)


def _release_document(config: "RuntimeConfig", authority: Path | None) -> bytes:
    from ephemeralml.enclave import release
    from ephemeralml.enclave.attesters.opening import open_attester

    attester = open_attester(config, authority=authority)
    try:
        return release.document_to_ask_with(attester)
    finally:
        attester.close()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise console.usage(f"the configuration {str(path)!r} is no file", hint="`ephemeralml enclave init` makes one")


def _show_first(out: "Console", document: dict[str, Any]) -> None:
    lines = [f"{'config':<11}{document['file']}", f"{'sha256':<11}{document['config_sha256']}"]
    if document["authority"] is not None:
        lines += [f"{'authority':<11}{document['authority']}", f"{'root':<11}{document['root']}"]
    lines += [f"{slot:<11}{value}" for slot, value in (document["measurements"] or {}).items()]
    for line in (*lines, "", "next:", *(f"  {command}" for command in document["next"])):
        out.print(line, markup=False, soft_wrap=True)


def _show_measurements(out: "Console", document: dict[str, Any], found: "list[Difference] | None") -> None:
    for slot, value in document["measurements"].items():
        out.print(f"{slot:<6}{value}", markup=False, soft_wrap=True)
    out.print(f"config sha256 {document['config_sha256']}", markup=False, soft_wrap=True)
    if document["root"] is not None:
        out.print(f"root {document['root']}", markup=False, soft_wrap=True)
    if document["release_document"] is not None:
        out.print(f"written {document['release_document']}", markup=False, soft_wrap=True)
    for item in found or []:
        out.print(f"✗ {item.slot} expected {item.expected}", markup=False, soft_wrap=True)
    if found is not None:
        out.print("✗ not the expected measurements" if found else "✓ the expected measurements", markup=False)
