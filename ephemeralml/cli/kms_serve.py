"""How `kms serve` serves: where, under which roots, until when."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from socket import socket

from ephemeralml import clock
from ephemeralml.attestation.local.authority import ROOT_CERTIFICATE, ROOT_KEY, Authority
from ephemeralml.attestation.roots import AWS_NITRO, RootKind, TrustRoots, is_software_root
from ephemeralml.cli import console, core_dumps, kms_state
from ephemeralml.cli.address_option import parse_address
from ephemeralml.errors import EphemeralError, MalformedError, UnavailableError
from ephemeralml.keyrelease.local import state as states
from ephemeralml.keyrelease.local.audit_log import AuditLog
from ephemeralml.keyrelease.local.database import FILE, exclusive
from ephemeralml.keyrelease.local.desk import Desk
from ephemeralml.keyrelease.local.state import AUTHORITY, KeySource
from ephemeralml.transport import Address, Scheme, tcp, unix

BANNER = "software key store: keys are as safe as this machine"
SCHEMA = "ephemeralml.kms/1"
MAX_ROOTS_BYTES = 262_144
CMS_FORMS = {"both": (True, False), "constructed": (True,), "primitive": (False,)}

_PEM = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Plan:
    """How to serve, checked before anything is made."""

    address: Address
    tls: tuple[Path, Path] | None
    trust: str
    authority: Path
    make_authority: bool
    max_document_age: timedelta | None
    cms_forms: tuple[bool, ...]
    drain: float

    @property
    def roots_name(self) -> str:
        """What the roots are called in the ready document."""
        return self.trust if self.trust in ("local", "aws") else "file"


@dataclass(frozen=True, slots=True)
class Where:
    """Where to listen, as the options say it."""

    listen: str
    tls: tuple[Path, Path] | None
    insecure_http: bool


@dataclass(frozen=True, slots=True)
class RootsWish:
    """Whose documents to trust, as the options say it."""

    trust: str
    authority: Path | None
    init: bool


def plan(
    where: Where, roots: RootsWish, state: Path, *, max_document_age: float | None, cms_form: str, drain: float
) -> Plan:
    """Check the options that say how to serve.

    Raises:
        UsageError: They cannot be meant.
    """
    address = _address(where.listen)
    if not address.loopback and where.tls is None and not where.insecure_http:
        raise console.usage(
            f"other machines can reach {where.listen}, and without TLS data keys cross in the clear",
            hint="add --tls CERT KEY, listen on 127.0.0.1, or accept it with --insecure-http",
        )
    if address.scheme is Scheme.UNIX and where.tls is not None:
        raise console.usage("--tls is for TCP; a unix socket's mode keeps others out")
    if cms_form not in CMS_FORMS:
        raise console.usage(f"no such form of content: {cms_form!r}", hint=f"use one of {', '.join(CMS_FORMS)}")
    return Plan(
        address=address,
        tls=where.tls,
        trust=roots.trust,
        authority=roots.authority if roots.authority is not None else state / AUTHORITY,
        make_authority=roots.init and roots.authority is None and roots.trust == "local",
        max_document_age=timedelta(seconds=max_document_age) if max_document_age is not None else None,
        cms_forms=CMS_FORMS[cms_form],
        drain=drain,
    )


def run(chosen: Plan, folder: Path, source: KeySource, made: list[kms_state.Made]) -> None:
    """Serve until a signal; see `ephemeralml kms serve`."""
    core_dumps.switch_off()
    if not chosen.address.loopback and chosen.tls is None:
        console.current().warning(f"data keys cross the network in the clear: {chosen.address} serves without TLS")
    _log_to_stderr()
    with exclusive(folder), states.opened(folder, source) as opened:
        roots = _roots(chosen.trust, chosen.authority)
        desk = Desk(opened.store, opened.names, roots, chosen.max_document_age, chosen.cms_forms)
        audit = AuditLog.open(states.audit_path(folder), states.known_head(opened.store))
        asyncio.run(_serve(chosen, desk, audit, made))


def make_authority(chosen: Plan, folder: Path) -> None:
    """Make the software root of a state that is about to be made; one of a making cut short is made again or kept."""
    if not chosen.make_authority or (folder / FILE).exists():
        return
    if not (chosen.authority / ROOT_CERTIFICATE).exists():
        (chosen.authority / ROOT_KEY).unlink(missing_ok=True)
        Authority.create(chosen.authority)


async def _serve(chosen: Plan, desk: Desk, audit: AuditLog, made: list[kms_state.Made]) -> None:
    try:
        from ephemeralml.keyrelease.local import server
        from ephemeralml.keyrelease.local.service import Service
    except ModuleNotFoundError as error:
        raise UnavailableError(f"a key server needs {error.name}", hint="pip install 'ephemeralml[kms,aws]'") from error

    service = Service(desk, audit, clock.now)
    try:
        config = server.configuration(service, tls=chosen.tls, drain=chosen.drain)
        sockets, remove = await _listen(chosen.address)
        stopping, hurrying = asyncio.Event(), asyncio.Event()

        def on_signal() -> None:
            (hurrying if stopping.is_set() else stopping).set()

        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, on_signal)
        endpoint = _endpoint(chosen, sockets)
        # What was made so far stays: collections need not walk it between requests.
        gc.collect()
        gc.freeze()
        try:
            await server.serve(
                config,
                sockets,
                ready=lambda: _announce(endpoint, chosen, desk, made),
                stopping=stopping,
                hurrying=hurrying,
            )
        finally:
            remove()
    finally:
        service.close()


def _announce(endpoint: str, chosen: Plan, desk: Desk, made: list[kms_state.Made]) -> None:
    out = console.current()
    out.note(BANNER)
    document = {
        "schema": SCHEMA,
        "endpoint": endpoint,
        "pid": os.getpid(),
        "account": desk.names.account,
        "region": desk.names.region,
        "trust": chosen.roots_name,
        "roots": sorted(digest.hex() for digest in desk.roots.digests),
        "principals": kms_state.rendered(made),
    }
    text = "\n".join([*(f"{one.arn}: {one.credentials}" for one in made), f"serving at {endpoint}"])
    out.result(document, lambda printer: printer.print(text, markup=False, highlight=False))
    sys.stdout.flush()


def _address(listen: str) -> Address:
    if listen.startswith("unix:") and not listen.startswith("unix://"):
        listen = f"unix://{Path(listen.removeprefix('unix:')).absolute()}"
    address = parse_address("--listen", listen if "://" in listen else f"tcp://{listen}")
    if address.scheme not in (Scheme.TCP, Scheme.UNIX):
        raise console.usage(f"a key server does not listen on {listen}", hint="write HOST:PORT or unix:PATH")
    return address


async def _listen(address: Address) -> tuple[list[socket], Callable[[], None]]:
    if address.scheme is Scheme.UNIX:
        sock, bound = unix.listen(address)
        return [sock], bound.remove
    return await tcp.listen(address), lambda: None


def _endpoint(chosen: Plan, sockets: list[socket]) -> str:
    if chosen.address.scheme is Scheme.UNIX:
        return f"unix:{chosen.address.path}"
    bound = Address(Scheme.TCP, chosen.address.host, sockets[0].getsockname()[1])
    return f"{'http' if chosen.tls is None else 'https'}://{bound.authority}"


def _roots(trust: str, authority: Path) -> TrustRoots:
    """Return the roots that ``--trust`` names.

    Raises:
        UsageError: The file is not there, or holds no roots.
    """
    if trust == "aws":
        return AWS_NITRO
    path = authority / ROOT_CERTIFICATE if trust == "local" else Path(trust)
    if trust == "local" and not path.is_file():
        raise console.usage(
            f"there is no software root {str(path)!r}",
            hint="name its folder with --authority DIR (a backup has none; root.der is enough), or --trust aws",
        )
    data = console.read_file(path, max_bytes=MAX_ROOTS_BYTES, what="the trust roots")
    try:
        ders = _certificates(data)
        kind = RootKind.SOFTWARE if any(is_software_root(der) for der in ders) else RootKind.VENDOR
        if trust == "local" and kind is not RootKind.SOFTWARE:
            raise MalformedError("the authority's root is no software root")
        return TrustRoots.of_certificates(kind, ders)
    except EphemeralError as error:
        raise console.usage(f"--trust: {error.message}", hint="name a file of root certificates, DER or PEM") from error


def _certificates(data: bytes) -> list[bytes]:
    if _PEM not in data:
        return [data]
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        return [found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(data)]
    except ValueError as error:
        raise MalformedError("the file holds no certificates") from error


def _log_to_stderr() -> None:
    """Show the server's log: what failed, by its kind, and nothing of a request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    for name in ("ephemeralml.keyrelease", "uvicorn"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.WARNING)
