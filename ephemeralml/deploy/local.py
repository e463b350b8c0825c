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
from ephemeralml.model.package import Package
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest, verify_package
from ephemeralml.progress import Progress
from ephemeralml.semver import SemVer

if TYPE_CHECKING:
    from ephemeralml.crypto.keys import PrivateKey, PublicKey

POLICY_LIFETIME = timedelta(days=7)
"""A development policy that somebody forgets does not last."""
MAX_SOCKET_PATH = 107
SHORT_FOLDER = "/tmp"  # noqa: S108 - a folder of our own, mode 0700, is made in it
_PINNED = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Where one local deployment keeps its files; `open_state` makes it."""

    path: Path
    socket: Path
    """Where the runtime listens."""

    @property
    def authority(self) -> Path:
        """The software TEE's root."""
        return self.path / "authority"

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
    def listen(self) -> str:
        """The runtime's address."""
        return f"unix://{self.socket}"


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
def open_state(folder: Path | None) -> Iterator[StateFolder]:
    """Make or reuse a state folder and hold it for the block; None is a temporary one, removed at its end.

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
            socket = path / "runtime.sock"
            if len(os.fsencode(socket)) > MAX_SOCKET_PATH:
                # Below TMPDIR the name may be too long again; /tmp is where the standard puts such files.
                short = stack.enter_context(tempfile.TemporaryDirectory(prefix="ephemeralml-", dir=SHORT_FOLDER))
                socket = Path(short) / "runtime.sock"
        except BlockingIOError as error:
            raise UnavailableError(
                f"another deployment runs from {str(folder)!r}", hint="stop it, or name another folder with --state"
            ) from error
        except OSError as error:
            raise UnavailableError(f"cannot write the state folder {str(folder)!r}: {error.strerror}") from error
        yield StateFolder(path, socket)


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


def demo_package(state: StateFolder, key: "PrivateKey", *, now: datetime, progress: Progress) -> Path:
    """Package and sign the demo model, or return the package that an earlier run left whole.

    Raises:
        UnavailableError: The weights are not installed, or the disk is full.
    """
    out = state.package(DEMO_MODEL_ID)
    if _intact(out, key.public):
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
    create_package(demo_model_folder(), out, request, progress=progress)
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


def prepare(
    state: StateFolder,
    *,
    config: bytes,
    packages: Sequence[Path],
    publisher: "PublicKey",
    listen: Sequence[str],
    now: datetime,
) -> LocalPlan:
    """Write configuration and policy, and return what to start.

    The policy pins what the runtime will measure: this installation and
    *config*; and whose models, by hash.

    Args:
        state: An open state folder.
        config: The measured configuration, with the runtime at `state.listen`.
        packages: Signed packages.
        publisher: Who signed them.
        listen: The relay's addresses.
        now: When the policy begins.

    Raises:
        MalformedError: As `read_models`.
        RejectedError: As `read_models`.
        UnavailableError: Something cannot be read or written.
    """
    models = read_models(packages, publisher)
    kept = (state.authority / ROOT_CERTIFICATE).exists()
    authority = Authority.load(state.authority) if kept else Authority.create(state.authority, at=now)
    registers = {f"pcr{index}": value.hex() for index, value in measure(config, authority.id).items()}
    document = _policy(authority, registers, models, publisher, now)
    Policy.parse(document, now=now)  # a policy that our own clients refuse must not be handed out
    _write(state.config, config)
    _write(state.policy, document)
    with_packages = [argument for folder in packages for argument in ("--package", str(folder.absolute()))]
    return LocalPlan(
        state=state,
        models=models,
        registers=registers,
        runtime=(
            *("enclave", "run", "--config", str(state.config), "--authority", str(state.authority)),
            *with_packages,
            "--json",
        ),
        relay=(
            *("host", "run", "--target", state.listen, "--json"),
            *(argument for address in listen for argument in ("--listen", address)),
        ),
    )


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
