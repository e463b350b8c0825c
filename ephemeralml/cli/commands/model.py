"""`ephemeralml model`: look into a model, package, sign and verify it; what moves packages lies beside."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ephemeralml.cli import console
from ephemeralml.cli.commands.model_keys import import_, rewrap
from ephemeralml.cli.commands.model_storage import download, upload
from ephemeralml.cli.data_keys import (
    DekFile,
    KeepDek,
    KmsEndpoint,
    check_keep,
    obtain_dek,
    open_key,
)
from ephemeralml.cli.model_inputs import (
    AllowDtype,
    AllowPlaintext,
    BindManifest,
    ChunkSize,
    License,
    MinVersion,
    ModelId,
    ModelVersion,
    OutFolder,
    PackageFolder,
    Publisher,
    PublisherKeys,
    Replace,
    SuiteName,
    WrappingKey,
    check_apart,
    chosen_suite,
    dtypes,
    existing,
    free,
    least_version,
    package_request,
    packaged,
    publisher_keys,
)
from ephemeralml.cli.upstream_inputs import (
    OmsIdentity,
    OmsIssuer,
    OmsKey,
    OmsSignature,
    OmsTrustConfig,
    Signer,
    bundle_beside,
    upstream_of,
)

app = typer.Typer(no_args_is_help=True, help="Package models: inspect, encrypt, sign, verify.")


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model folder, a model file, or a package.")],
    allow_dtype: AllowDtype = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor in the text output too.")] = False,
) -> None:
    """Show format, architecture, tensors, dtypes, sizes and hashes; refuse what can run code or lie."""
    from ephemeralml.cli.render_model import inspection_document, print_inspection
    from ephemeralml.model.inspect import inspect as look

    existing(path)
    with console.current().progress() as progress:
        found = look(path, dtypes=dtypes(allow_dtype or []), progress=progress)
    if found.package is not None:
        console.current().note("the manifest's signature was not checked; `ephemeralml model verify` does that")
    console.current().result(inspection_document(found), lambda out: print_inspection(out, found, tensors=tensors))


@app.command()
def encrypt(  # noqa: PLR0917 - the command's options
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A model folder, or one weights file.")],
    out: OutFolder,
    model_id: ModelId,
    model_version: ModelVersion,
    key: WrappingKey = None,
    suite: SuiteName = None,
    chunk_size: ChunkSize = 4 << 20,
    bind_manifest: BindManifest = False,
    kms_endpoint: KmsEndpoint = None,
    keep_dek: KeepDek = None,
    allow_dtype: AllowDtype = None,
    oms_key: OmsKey = None,
    oms_identity: OmsIdentity = None,
    oms_issuer: OmsIssuer = None,
    oms_signature: OmsSignature = None,
    oms_trust_config: OmsTrustConfig = None,
    license_: License = "NOASSERTION",
    publisher: Publisher = "",
    force: Replace = False,
) -> None:
    """Turn a plaintext model into a package, ready to sign."""
    from ephemeralml.cli.packaging import make_package, report_package

    existing(path)
    chosen = chosen_suite(suite, key, bind_manifest=bind_manifest, endpoint=kms_endpoint)
    check_apart(path, out)
    request = package_request(
        model_id=model_id,
        version=model_version,
        chunk_size=chunk_size,
        allow_dtype=allow_dtype or [],
        license_=license_,
        publisher=publisher,
        suite=chosen,
        bind_manifest=bind_manifest,
    )
    free(out, force=force)
    if keep_dek is not None:
        check_keep(keep_dek, key=key, model=path, out=out, force=force)
    source = None if key is None else open_key(key, endpoint=kms_endpoint)
    upstream = upstream_of(path, Signer(oms_key, oms_identity, oms_issuer, oms_trust_config), oms_signature)
    made = make_package(path, out, replace(request, upstream=upstream), source, keep_dek=keep_dek, force=force)
    report_package(out, made)


@app.command()
def sign(
    package: Annotated[
        Path, typer.Argument(metavar="PACKAGE", help="The package's folder; with --oms, the plaintext model's.")
    ],
    key: Annotated[
        Path, typer.Option("--key", metavar="FILE", help="The publisher's private key (PEM); with --oms, an EC key.")
    ],
    oms: Annotated[
        bool, typer.Option("--oms", help="Sign a plaintext model as OpenSSF Model Signing does, for others to verify.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="With --oms: the signature, else PATH.sig beside it.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="With --oms: replace an existing signature.")] = False,
) -> None:
    """Sign the package's manifest (Ed25519, DSSE), in place of any signature it has."""
    from ephemeralml.cli.key_files import read_private_key
    from ephemeralml.cli.packaging import sign_model
    from ephemeralml.cli.render_model import print_signed, signed_document
    from ephemeralml.model.sign import sign_package

    if oms:
        existing(package)
        sign_model(package, key, bundle_beside(package) if out is None else out, force=force)
        return
    if out is not None or force:
        raise console.usage("--out and --force belong to --oms", hint="a package is signed in place")
    packaged(package)
    private = read_private_key(key)
    signed = sign_package(package, private)
    document = signed_document(package, signed, private.public)
    console.current().result(document, lambda printer: print_signed(printer, document))


@app.command()
def verify(
    package: PackageFolder,
    publisher_key: PublisherKeys,
    min_version: MinVersion = None,
    allow_plaintext: AllowPlaintext = False,
    full: Annotated[
        bool, typer.Option("--full", help="Check the plaintext digests of every file too; needs the data key.")
    ] = False,
    dek: DekFile = None,
    kms_endpoint: KmsEndpoint = None,
) -> None:
    """Check signature, layout, sizes, digests and key bindings, offline; with --full the plaintext too."""
    from ephemeralml.cli.render_model import print_verified, verified_document
    from ephemeralml.model.package import Package
    from ephemeralml.model.package_keys import check_keys
    from ephemeralml.model.verify import verify_package
    from ephemeralml.model.verify_full import verify_plaintext

    packaged(package)
    if not full and (dek is not None or kms_endpoint is not None):
        raise console.usage("--dek and --kms-endpoint are for --full", hint="add --full; without it no key is needed")
    keys, oldest = publisher_keys(publisher_key), least_version(min_version)
    with Package.open(package) as opened, console.current().progress() as progress:
        verified = verify_package(
            opened, publisher_keys=keys, min_version=oldest, allow_plaintext=allow_plaintext, progress=progress
        )
        entries = check_keys(verified, opened)
        if full and entries:
            with obtain_dek(entries, dek, endpoint=kms_endpoint) as key:
                verify_plaintext(verified, opened, dek=key, progress=progress)
        elif full:
            verify_plaintext(verified, opened, progress=progress)
    document = verified_document(package, verified, entries, full=full)
    console.current().result(document, lambda out: print_verified(out, document))


app.command()(upload)
app.command()(download)
app.command()(rewrap)
app.command("import")(import_)
