"""The inputs of `ephemeralml enclave`: a first configuration, and the software authority that goes with one."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ephemeralml import clock
from ephemeralml.attestation.local.authority import ROOT_CERTIFICATE, Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.cli import console
from ephemeralml.cli.address_option import parse_address
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.enclave.config import RuntimeConfig, render
from ephemeralml.errors import MalformedError
from ephemeralml.model.manifest import check_model_id
from ephemeralml.transport import CID_ANY, Address, Scheme

AUTHORITY_FOLDER = "authority"
"""Where a software authority is looked for: beside the configuration, as `deploy local` keeps it too."""

_MAKE = "`ephemeralml enclave init --attester local` makes one"


LOCAL = "local"
"""The attester of a software TEE, as the configuration names it."""
DEFAULT_SERVICES = "vsock://3:8001"
"""Where an enclave finds its host's services (nitro-platform section 6)."""
DEFAULT_LISTEN = {LOCAL: "tcp://127.0.0.1:5005", "nsm": "vsock://any:5005"}
"""Where a runtime listens by default; only its relay talks to it."""


@dataclass(frozen=True, slots=True)
class FirstConfig:
    """What `enclave init` was asked for, checked."""

    out: Path
    attester: str
    publisher: PublicKey
    model: str
    listen: Address
    allow_plaintext: bool
    authority: Path | None
    """The software authority's folder; None on hardware."""
    keys: tuple[str, ...] = ()
    """Keys that may open packages."""
    services: Address | None = None
    """The host's services; None where packages are folders."""
    packages: tuple[str, ...] = ()
    """The packages' names there."""

    def source(self) -> bytes:
        """Return the configuration's bytes.

        Raises:
            UsageError: An option's value is none that the runtime takes.
        """
        software = self.attester == LOCAL
        source = render(
            attester=self.attester,
            security_mode="evaluation" if software else "production",
            listen=str(self.listen),
            publisher_key=self.publisher,
            model_id=self.model,
            allow_plaintext=self.allow_plaintext,
            policy_version="local" if software else "1",
            key_uris=self.keys,
            services=str(self.services) if self.services is not None else None,
            packages=self.packages,
        )
        try:
            RuntimeConfig.parse(source)
        except MalformedError as error:
            raise console.usage(error.message, hint="see ephemeralml enclave init --help") from error
        return source

    def next_commands(self) -> list[str]:
        """Return the command lines that usually follow."""
        host = "CID" if self.listen.cid == CID_ANY else str(self.listen.cid)
        target = f"vsock://{host}:{self.listen.port}" if self.listen.scheme is Scheme.VSOCK else str(self.listen)
        config: list[object] = ["--config", self.out]
        if self.authority is not None and self.authority != self.out.parent / AUTHORITY_FOLDER:
            config += ["--authority", self.authority]
        # A policy names models one by one.
        model = ["--model", self.model] if set(self.model).isdisjoint("*?[") else []
        inside = "" if self.attester == LOCAL else "   # inside the enclave"
        policy = ["--policy-id", "ID", *model, "--publisher-key", self.publisher]
        return [
            f"{_line('enclave', 'measure', *config, '--json')} > measurements.json{inside}",
            _line("policy", "init", "--measurements", "measurements.json", *policy, "--out", "policy.json"),
            f"{_line('enclave', 'run', *config, *(() if self.services else ('--package', 'PACKAGE')))}{inside}",
            _line("host", "run", "--target", target, *self._host_options()),
        ]

    def _host_options(self) -> list[object]:
        """Return what `host run` needs to serve such an enclave."""
        if self.services is None:
            return []
        options: list[object] = ["--services", self.services]
        for name in self.packages or ("",):
            options += ["--package", f"{name}=PACKAGE" if name else "PACKAGE"]
        for key in self.keys:
            options += ["--key", key]
        return options


def first_config(
    out: Path,
    attester: str,
    publisher: PublicKey,
    model: str,
    *,
    listen: str | None,
    allow_plaintext: bool | None,
    authority: Path | None,
    keys: Sequence[str] = (),
    services: str | None = None,
    packages: Sequence[str] = (),
) -> FirstConfig:
    """Check the options of `enclave init` and fill in what they leave out.

    Raises:
        UsageError: They contradict each other, or one has no possible value.
    """
    software = attester == LOCAL
    _check_model(model)
    if authority is not None and not software:
        raise console.usage("--authority is for the software TEE", hint="leave it out, or give --attester local")
    address = parse_address("--listen", listen or DEFAULT_LISTEN[attester])
    if address.scheme not in (Scheme.TCP, Scheme.UNIX, Scheme.VSOCK):
        raise console.usage(
            f"a runtime does not listen on {address}", hint="listen on tcp, unix or vsock; a relay adds WebSocket"
        )
    folder = (authority or out.parent / AUTHORITY_FOLDER) if software else None
    if folder is not None:
        _check_room(folder)
    plaintext = software and not keys if allow_plaintext is None else allow_plaintext
    found = _services(services, keys, packages, software=software)
    return FirstConfig(out, attester, publisher, model, address, plaintext, folder, tuple(keys), found, tuple(packages))


def _check_model(model: str) -> None:
    """Refuse an id that no package can have, before it is measured; the signs of a pattern may stand in any id."""
    try:
        check_model_id(model)
    except MalformedError as error:
        raise console.usage(
            f"--model: {error.message}", hint="give the id of the package's manifest, as model inspect shows it"
        ) from error


def _services(text: str | None, keys: Sequence[str], packages: Sequence[str], *, software: bool) -> Address | None:
    """Return where the host's services are; an enclave on hardware always finds them at the same place."""
    if text is not None:
        return parse_address("--services", text)
    needed = "--key" if keys else "--package-name" if packages else None
    if needed is None:
        return None
    if software:
        raise console.usage(
            f"{needed} needs --services", hint="say where `host run --services` will listen, such as unix:///…"
        )
    return parse_address("--services", DEFAULT_SERVICES)


def _check_room(folder: Path) -> None:
    """Refuse a folder that holds other things: it is to be the authority's alone, mode 0700."""
    if not _taken(folder) or _holds_root(folder):
        return
    if not folder.is_dir():
        raise console.usage(f"the authority {str(folder)!r} is no folder")
    if any(folder.iterdir()):
        raise console.usage(
            f"{str(folder)!r} holds other files and no software root", hint="name a new folder with --authority"
        )


def make_authority(folder: Path) -> Authority:
    """Load the software authority in *folder*; where there is none, make one.

    Raises:
        UnavailableError: It cannot be read or written, or others can read its key.
        MalformedError: What is there is no authority.
    """
    return Authority.load(folder) if _holds_root(folder) else Authority.create(folder, at=clock.now())


def find_authority(config: Path, attester: str, authority: Path | None) -> Path | None:
    """Return the folder of the software authority that is meant, None where there is none.

    Without the option it is the folder `authority` beside the configuration.

    Raises:
        UsageError: The option names a folder without one, or the attester has no use for it.
    """
    if attester != LOCAL:
        if authority is not None:
            raise console.usage(
                f"--authority is for the software TEE, and the configuration's attester is {attester!r}",
                hint="leave it out",
            )
        return None
    if authority is None:
        beside = config.parent / AUTHORITY_FOLDER
        return beside if _holds_root(beside) else None
    if not authority.is_dir():
        raise console.usage(f"the authority {str(authority)!r} is no folder", hint=_MAKE)
    if not _holds_root(authority):
        raise console.usage(f"the folder {str(authority)!r} holds no software root", hint=_MAKE)
    return authority


def require_attester_inputs(
    config: Path, attester: str, authority: Path | None, nsm_socket: Path | None
) -> Path | None:
    """Return the authority's folder for `enclave run`, after checking that the options fit the attester.

    Raises:
        UsageError: As `find_authority`, or the software TEE has nothing to attest with.
    """
    if nsm_socket is not None:
        if attester != LOCAL:
            raise console.usage(
                f"--nsm-socket is for the software TEE, and the configuration's attester is {attester!r}",
                hint="leave it out",
            )
        return None
    found = find_authority(config, attester, authority)
    if found is None and attester == LOCAL:
        raise console.usage(
            "the attester 'local' needs a software authority", hint=f"name its folder with --authority; {_MAKE}"
        )
    return found


def fingerprint(authority: Authority) -> str:
    """Return the root's fingerprint as policies write it."""
    return f"sha256:{authority.fingerprint.hex()}"


def software_registers(source: bytes, authority: Authority) -> dict[str, str]:
    """Return what the software TEE will measure with this configuration, in hex."""
    return {f"pcr{index}": value.hex() for index, value in measure(source, authority.id).items()}


def init_document(wanted: FirstConfig, source: bytes, authority: Authority | None) -> dict[str, Any]:
    """Return the result of `enclave init`."""
    return {
        "schema": "ephemeralml.enclave-init/1",
        "file": str(wanted.out),
        "attester": wanted.attester,
        "config_sha256": RuntimeConfig.parse(source).digest.hex(),
        "listen": str(wanted.listen),
        "authority": str(wanted.authority) if wanted.authority is not None else None,
        "root": fingerprint(authority) if authority is not None else None,
        "measurements": software_registers(source, authority) if authority is not None else None,
        "next": wanted.next_commands(),
    }


def _holds_root(folder: Path) -> bool:
    return _taken(folder / ROOT_CERTIFICATE)


def _taken(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise console.usage(f"{str(path)[:80]!r} is no name for a folder here") from error


def _line(*words: object) -> str:
    return shlex.join(["ephemeralml", *map(str, words)])
