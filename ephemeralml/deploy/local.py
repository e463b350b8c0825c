"""What `deploy local` puts on disk, and the commands that use it (deploy.md section 4).

Everything here is files and values: who starts the commands is the caller's
business. A state folder that is kept can be deployed from again; its software
root, publisher key and packages stay, configuration and policy are written
anew.
"""

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ephemeralml.attestation.local.authority import ROOT_CERTIFICATE, Authority
from ephemeralml.attestation.local.measure import measure
from ephemeralml.attestation.policy import Policy
from ephemeralml.clock import format_rfc3339
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError
from ephemeralml.model.create import PackageRequest, create_package
from ephemeralml.model.demo import DEMO_MODEL_ID, DEMO_MODEL_VERSION, demo_model_folder
from ephemeralml.model.keys_file import MAX_KEYS_BYTES, parse_keys
from ephemeralml.model.package import KEYS_NAME, Package
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest, verify_package
from ephemeralml.progress import Progress
from ephemeralml.semver import SemVer

if TYPE_CHECKING:
    from ephemeralml.crypto.keys import PrivateKey, PublicKey
    from ephemeralml.keyrelease.base import OperatorKeys

POLICY_LIFETIME = timedelta(days=7)
"""A development policy that somebody forgets does not last."""
MAX_SOCKET_PATH = 107
RUNTIME_SOCKET, SERVICES_SOCKET = "runtime.sock", "services.sock"
AUTHORITY = "authority"
SHORT_FOLDER = "/tmp"  # noqa: S108 - a folder of our own, mode 0700, is made in it
_PINNED = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where one local deployment keeps its files; `open_state` makes it."""

    path: Path
    socket: Path
    """Where the runtime listens."""
    authority: Path
    """The software TEE's root."""

    @property
    def publisher_key(self) -> Path:
        """The publisher's private key, made by the caller."""
        return self.path / "publisher.pem"

    @property
    def config(self) -> Path:
        """The runtime's measured configuration."""
        return self.path / "enclave.toml"

    @property
    def policy(self) -> Path:
        """What clients need."""
        return self.path / "policy.json"

    def open_log(self, child: str) -> TextIO:
        """Open, empty, where what a child says goes; a link in its place is refused with `OSError`."""
        path = self.path / f"{child}.log"
        return open(path, "w", encoding="utf-8", buffering=1, opener=_no_link)

    def package(self, model_id: str) -> Path:
        """Where a package made here lies."""
        return self.path / "packages" / model_id

    @property
    def keys(self) -> Path:
        """The state of this deployment's key server."""
        return self.path / "kms"

    @property
    def listen(self) -> str:
        """The runtime's address."""
        return f"unix://{self.socket}"

    @property
    def services(self) -> str:
        """The address of the host's services."""
        return f"unix://{self.socket.with_name(SERVICES_SOCKET)}"


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """A deployment that is ready to start."""

    state: StateFolder
    models: tuple[VerifiedManifest, ...]
    registers: dict[str, str]
    """PCR0 to PCR4 that the runtime will have, in hex, as the policy pins the first three."""
    runtime: tuple[str, ...]
    """Arguments of the `ephemeralml` command that is the runtime."""
    relay: tuple[str, ...]
    """And of the one that is the relay."""


@contextmanager
def open_state(folder: Path | None, *, authority: Path | None = None) -> Iterator[StateFolder]:
    """Make or reuse a state folder and hold it for the block; None is a temporary one, removed at its end.

    The software TEE's root is its own, unless *authority* names the folder of another.

    Names in it are known beforehand, so nobody else may be able to put something in their place.

    Raises:
        UnavailableError: It cannot be written, another deployment holds it, or
            it is a link, another user's, or writable by others.
    """
    with contextlib.ExitStack() as stack:
        try:
            path = (
                Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ephemeralml-")))
                if folder is None
                else folder.absolute()
            )
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_own(path)
            (path / "packages").mkdir(exist_ok=True)
            lock = stack.enter_context(open(path / "lock", "w", opener=_no_link))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            socket = path / RUNTIME_SOCKET
            if len(os.fsencode(path / SERVICES_SOCKET)) > MAX_SOCKET_PATH:
                # Below TMPDIR the name may be too long again; /tmp is where the standard puts such files.
                short = stack.enter_context(tempfile.TemporaryDirectory(prefix="ephemeralml-", dir=SHORT_FOLDER))
                socket = Path(short) / RUNTIME_SOCKET
        except BlockingIOError as error:
            raise UnavailableError(
                f"another deployment runs from {str(folder)!r}", hint="stop it, or name another folder with --state"
            ) from error
        except OSError as error:
            raise UnavailableError(f"cannot write the state folder {str(folder)!r}: {error.strerror}") from error
        yield StateFolder(path, socket, path / AUTHORITY if authority is None else authority.absolute())


def _require_own(folder: Path) -> None:
    """Refuse a state folder that somebody else could put a file into.

    Raises:
        UnavailableError: It is a link, another user's, or writable by group or others.
        OSError: It is no folder, or cannot be looked at.
    """
    if folder.is_symlink():
        raise UnavailableError(
            f"the state folder {str(folder)!r} is a link", hint="name the folder that it leads to with --state"
        )
    found = folder.lstat()
    if found.st_uid != os.geteuid():
        raise UnavailableError(
            f"the state folder {str(folder)!r} belongs to another user", hint="name a folder of your own with --state"
        )
    if stat.S_IMODE(found.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnavailableError(
            f"the state folder {str(folder)!r} is writable by others",
            hint=f"look through what lies in it, then: chmod 700 {folder}",
        )


def _no_link(name: str, flags: int) -> int:
    """Open a file by a name that is known beforehand, unless it is a link."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def open_authority(state: StateFolder, now: datetime) -> Authority:
    """Return the software TEE's root; the first deployment from *state* makes it."""
    kept = (state.authority / ROOT_CERTIFICATE).exists()
    return Authority.load(state.authority) if kept else Authority.create(state.authority, at=now)


def demo_package(
    state: StateFolder, key: "PrivateKey", data_keys: "OperatorKeys | None", *, now: datetime, progress: Progress
) -> Path:
    """Encrypt and sign the demo model, or return the package that an earlier run left whole.

    Args:
        state: An open state folder.
        key: The publisher's.
        data_keys: Makes the package's data key; None leaves it unencrypted, for measuring.
        now: When it is made.
        progress: Told of each step.

    Raises:
        UnavailableError: The weights are not installed, or the disk is full.
    """
    out = state.package(DEMO_MODEL_ID)
    wanted = (data_keys.uri,) if data_keys is not None else ()
    if _intact(out, key.public) and key_uris((out,)) == wanted:
        return out
    request = PackageRequest(
        model_id=DEMO_MODEL_ID,
        version=SemVer.parse(DEMO_MODEL_VERSION),
        created_at=now,
        license="Apache-2.0",
        publisher="deploy local",
    )
    if out.exists():
        shutil.rmtree(out)
    create_package(demo_model_folder(), out, request, key_source=data_keys, progress=progress)
    progress.step("sign")
    sign_package(out, key)
    return out


def _intact(folder: Path, publisher: "PublicKey") -> bool:
    """Return whether a package of *publisher* lies there, complete."""
    if not folder.is_dir():
        return False
    try:
        with Package.open(folder) as package:
            verify_package(package, publisher_keys=(publisher,), allow_plaintext=True)
    except (MalformedError, RejectedError, UnavailableError):
        return False
    return True


def key_uris(packages: Sequence[Path]) -> tuple[str, ...]:
    """Return the keys that open *packages*, in order; none where all are plaintext.

    Raises:
        MalformedError: A ``keys.json`` does not parse.
        UnavailableError: One cannot be read.
    """
    found: list[str] = []
    for folder in packages:
        path = folder / KEYS_NAME
        try:
            with path.open("rb") as file:
                data = file.read(MAX_KEYS_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UnavailableError(f"cannot read {str(path)!r}: {error.strerror}") from error
        found += [entry.key for entry in parse_keys(data)]
    return tuple(dict.fromkeys(found))


def read_models(packages: Sequence[Path], publisher: "PublicKey") -> tuple[VerifiedManifest, ...]:
    """Return the verified manifest of every package; the runtime verifies their blobs.

    Raises:
        MalformedError: A folder is no package.
        RejectedError: Another publisher's, or two packages are the same model and version.
        UnavailableError: A folder cannot be read.
    """
    found: dict[tuple[str, str], VerifiedManifest] = {}
    for folder in packages:
        with Package.open(folder) as package:
            verified = verify_manifest(package.manifest_bytes(), publisher_keys=(publisher,), allow_plaintext=True)
        name = (verified.manifest.model_id, str(verified.manifest.version))
        if name in found:
            raise RejectedError(f"{name[0]}@{name[1]} is given twice", code="MODEL_DUPLICATE", actual=str(folder))
        found[name] = verified
    return tuple(found.values())


@dataclass(frozen=True, slots=True)
class Offer:
    """What the runtime is to serve, and how it gets at it."""

    packages: tuple[Path, ...]
    """Signed packages."""
    publisher: "PublicKey"
    """Who signed them."""
    listen: tuple[str, ...]
    """The relay's addresses."""
    keys: tuple[str, ...] = ()
    """URIs of the keys that open them; none where all are plaintext."""
    key_server: str | None = None
    """Where those are; None for what the AWS SDK is configured for."""


def package_names(packages: Sequence[Path]) -> tuple[str, ...]:
    """Return what the host's services call *packages*: nothing for a single one."""
    return ("",) if len(packages) == 1 else tuple(f"package-{number}" for number in range(1, len(packages) + 1))


def prepare(state: StateFolder, authority: Authority, offer: Offer, *, config: bytes, now: datetime) -> LocalPlan:
    """Write configuration and policy, and return what to start.

    The policy pins what the runtime will measure: this installation and
    *config*; and whose models, by hash.

    Args:
        state: An open state folder.
        authority: Its root.
        offer: What to serve.
        config: The measured configuration, with the runtime at `StateFolder.listen`
            and the host's services at `StateFolder.services`.
        now: When the policy begins.

    Raises:
        MalformedError: As `read_models`.
        RejectedError: As `read_models`.
        UnavailableError: Something cannot be read or written.
    """
    models = read_models(offer.packages, offer.publisher)
    registers = {f"pcr{index}": value.hex() for index, value in measure(config, authority.id).items()}
    document = _policy(authority, registers, models, offer.publisher, now)
    Policy.parse(document, now=now)  # a policy that our own clients refuse must not be handed out
    _write(state.config, config)
    _write(state.policy, document)
    return LocalPlan(
        state=state,
        models=models,
        registers=registers,
        runtime=("enclave", "run", "--config", str(state.config), "--authority", str(state.authority), "--json"),
        relay=_relay(state, offer),
    )


def _relay(state: StateFolder, offer: Offer) -> tuple[str, ...]:
    named = zip(package_names(offer.packages), offer.packages, strict=True)
    endpoint = ("--kms-endpoint", offer.key_server) if offer.key_server is not None else ()
    return (
        *("host", "run", "--target", state.listen, "--services", state.services, "--json"),
        *(word for address in offer.listen for word in ("--listen", address)),
        *(word for name, folder in named for word in ("--package", _named(name, folder))),
        *(word for key in offer.keys for word in ("--key", key)),
        *endpoint,
    )


def _named(name: str, folder: Path) -> str:
    path = str(folder.absolute())
    return f"{name}={path}" if name else path


def _policy(
    authority: Authority,
    registers: dict[str, str],
    models: Sequence[VerifiedManifest],
    publisher: "PublicKey",
    now: datetime,
) -> bytes:
    """Return the client policy for exactly this deployment (attestation.md section 6)."""
    document = {
        "schema": "ephemeralml.policy/1",
        "policy_id": f"deploy-local-{authority.fingerprint.hex()[:16]}",
        # Later deployments from one state folder replace earlier ones, and a version never falls.
        "version": int(now.timestamp() * 1000),
        "created_at": format_rfc3339(now.replace(microsecond=0)),
        "expires_at": format_rfc3339((now + POLICY_LIFETIME).replace(microsecond=0)),
        "formats": ["local"],
        "min_assurance": "document",
        "security_modes": ["evaluation"],
        "allow_local": True,
        "local": {
            "roots": [f"sha256:{authority.fingerprint.hex()}"],
            "allow": [
                {"name": "deploy local", **{f"pcr{index}": registers[f"pcr{index}"] for index in _PINNED}},
            ],
        },
        "models": {
            "publisher_keys": [str(publisher)],
            "allow": [
                {
                    "model_id": model.manifest.model_id,
                    "min_version": str(model.manifest.version),
                    "model_hash": model.model_hash.hex(),
                    "scheme": model.model_hash_scheme,
                }
                for model in models
            ],
        },
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(".new")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # made here: neither a link nor anybody's open file
            file.write(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UnavailableError(f"cannot write {str(path)!r}: {error.strerror}") from error
