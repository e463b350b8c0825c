"""A local deployment as one value: files prepared, runtime and relay started, stopped at the end.

`deploy local` and `demo` are this block with different things inside. The
layers meet here and nowhere below: `deploy` writes the files, `enclave` renders
its configuration, `host` keeps the processes.

The order is a cloud's: the key exists first, its name is measured with the
configuration, and only then is it released to that measurement.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml import clock
from ephemeralml.cli import console
from ephemeralml.cli.key_files import private_from_pem
from ephemeralml.crypto.keys import MAX_PEM_BYTES, PrivateKey, PublicKey
from ephemeralml.deploy.local import (
    LocalPlan,
    Offer,
    StateFolder,
    demo_package,
    key_uris,
    open_authority,
    open_state,
    package_names,
    prepare,
    read_models,
)
from ephemeralml.errors import (
    EphemeralError,
    IncompleteError,
    MalformedError,
    RejectedError,
    UnavailableError,
)
from ephemeralml.host.supervisor import ChildFailedError, Command, Supervisor
from ephemeralml.model.demo import DEMO_MODEL_ID
from ephemeralml.progress import Progress

if TYPE_CHECKING:
    from ephemeralml.deploy.local_keys import KeyServer

DEFAULT_LISTEN = ("127.0.0.1", 7443)
_BOOT_SECONDS = 120.0
_RUNTIME_STOP_SECONDS = 35.0
"""The runtime drains for up to 30 s (its measured limits)."""


@dataclass(frozen=True, slots=True)
class StackRequest:
    """What to deploy."""

    packages: tuple[Path, ...] = ()
    """Signed packages; none is the demo model, packaged and signed here."""
    publisher: PublicKey | None = None
    """Who signed them."""
    listen: tuple[str, ...] = ()
    """Where clients connect; none is a loopback port, 7443 if it is free."""
    state: Path | None = None
    """Kept between deployments; None is a temporary folder."""
    authority: Path | None = None
    """A software root to use; None is the state folder's own."""
    key_server: str | None = None
    """Where the keys of encrypted packages are, if not with the deployment's own key server."""
    verbosity: int = 0


@dataclass(frozen=True, slots=True)
class LocalStack:
    """A running deployment."""

    plan: LocalPlan
    endpoints: tuple[str, ...]
    receipt_public_key: str
    supervisor: Supervisor
    boot: dict[str, Any]
    """The runtime's own report."""
    keys: "KeyServer | None"
    """The deployment's own key server, if its packages need one."""
    packages: tuple[Path, ...]
    """What the host offers the runtime."""

    @property
    def endpoint(self) -> str:
        """The first address that clients may use."""
        return self.endpoints[0]

    @property
    def policy(self) -> Path:
        """What clients need to accept it."""
        return self.plan.state.policy

    @property
    def models(self) -> tuple[str, ...]:
        """The models' ids."""
        return tuple(model.manifest.model_id for model in self.plan.models)


@contextmanager
def local_stack(request: StackRequest, progress: Progress) -> Iterator[LocalStack]:
    """Prepare and start a deployment, and stop it when the block ends.

    Raises:
        EphemeralError: Of the kind that the step that failed means; a child's
            exit code becomes the error of the same meaning.
    """
    with ExitStack() as stack:
        state = stack.enter_context(open_state(request.state, authority=request.authority))
        supervisor = stack.enter_context(Supervisor(_Logs(state, request.verbosity, stack)))
        try:
            made = _Preparation(state, request, supervisor, progress).run()
            progress.step("start runtime and relay")
            # The relay comes first because the last is stopped first: a runtime that has said
            # goodbye to its clients leaves the relay nothing to wait for.
            said = supervisor.start(*_commands(made, request))
        except ChildFailedError as error:
            raise child_error(error) from error
        _require_measured(made.plan, said["runtime"])
        yield LocalStack(
            plan=made.plan,
            endpoints=tuple(said["relay"]["listen"]),
            receipt_public_key=said["runtime"]["receipt_public_key"],
            supervisor=supervisor,
            boot=said["runtime"],
            keys=made.keys,
            packages=made.packages,
        )


def child_error(error: ChildFailedError) -> EphemeralError:
    """Return what a child's end means for the command that started it."""
    match error.exit_code:
        case 3:
            return RejectedError(error.message, code="CHILD_REJECTED", hint=error.hint)
        case 4:
            return MalformedError(error.message, hint=error.hint)
        case 6:
            return IncompleteError(error.message, hint=error.hint)
        case _:
            return error


@dataclass(frozen=True, slots=True)
class _Prepared:
    plan: LocalPlan
    keys: "KeyServer | None"
    packages: tuple[Path, ...]


class _Preparation:
    """The steps between an empty state folder and processes that may start."""

    def __init__(self, state: StateFolder, request: StackRequest, supervisor: Supervisor, progress: Progress) -> None:
        self._state = state
        self._request = request
        self._supervisor = supervisor
        self._progress = progress
        self._now = clock.now()

    def run(self) -> _Prepared:
        from ephemeralml.deploy import local_keys

        state = self._state
        authority = open_authority(state, self._now)
        keys = self._start_keys() if self._own_keys() else None
        offer, models = self._offer(keys)
        plan = prepare(state, authority, offer, config=self._config(offer, models), now=self._now)
        if keys is not None:
            self._progress.step("open the key to this runtime's measurement")
            for uri in offer.keys:
                local_keys.release_to(keys, uri, models, plan.registers)
        return _Prepared(plan, keys, offer.packages)

    def _own_keys(self) -> bool:
        """Return whether this deployment runs a key server: for the demo model, and for packages that name no other."""
        request = self._request
        return not request.packages or (request.key_server is None and bool(key_uris(request.packages)))

    def _start_keys(self) -> "KeyServer":
        from ephemeralml.deploy.local_keys import SDK_VARIABLES, KeyServer, server_command

        self._progress.step("start the key server")
        command = Command("kms", server_command(self._state), ready_seconds=_BOOT_SECONDS, withheld=SDK_VARIABLES)
        said = self._supervisor.start(command)["kms"]
        return KeyServer(self._state.keys, said["endpoint"], said["account"], said["region"])

    def _offer(self, keys: "KeyServer | None") -> tuple[Offer, tuple[str, ...]]:
        """Return what to serve, with the ids of the models."""
        request, listen = self._request, tuple(_addresses(self._request.listen))
        if request.packages:
            if request.publisher is None:
                raise console.usage("--package needs --publisher-key", hint="name the key that signed the package")
            packages, publisher = request.packages, request.publisher
        else:
            assert keys is not None
            packages, publisher = self._demo(keys)
        endpoint = keys.endpoint if keys is not None else request.key_server
        offer = Offer(packages, publisher, listen, key_uris(packages), endpoint)
        found = read_models(packages, publisher)
        return offer, tuple(dict.fromkeys(model.manifest.model_id for model in found))

    def _demo(self, keys: "KeyServer") -> tuple[tuple[Path, ...], PublicKey]:
        from ephemeralml.deploy import local_keys

        signer = _publisher_key(self._state)
        data_keys = local_keys.publisher_keys(keys, local_keys.model_key(keys, (DEMO_MODEL_ID,)))
        package = demo_package(self._state, signer, data_keys, now=self._now, progress=self._progress)
        return (package,), signer.public

    def _config(self, offer: Offer, models: Sequence[str]) -> bytes:
        from ephemeralml.enclave.config import render

        return render(
            attester="local",
            security_mode="evaluation",
            listen=self._state.listen,
            publisher_key=offer.publisher,
            model_id=models[0] if len(models) == 1 else "*",
            allow_plaintext=not offer.keys,
            key_uris=offer.keys,
            services=self._state.services,
            packages=package_names(offer.packages),
        )


def _publisher_key(state: StateFolder) -> PrivateKey:
    """Return this state folder's publisher key; the first deployment makes it."""
    path = state.publisher_key
    if path.exists():
        return private_from_pem(console.read_file(path, max_bytes=MAX_PEM_BYTES, what="the publisher key"), path)
    key = PrivateKey.generate()
    console.write_file(path, key.to_pem(), force=False, private=True)
    return key


def _addresses(wanted: Sequence[str]) -> Sequence[str]:
    if wanted:
        return wanted
    host, port = DEFAULT_LISTEN
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(DEFAULT_LISTEN)
        except OSError:
            console.current().note(f"port {port} is taken, listening on another")
            port = 0
    return (f"tcp://{host}:{port}",)


def _commands(made: _Prepared, request: StackRequest) -> tuple[Command, Command]:
    from ephemeralml.deploy.local_keys import PARENT, SDK_VARIABLES

    plan = made.plan
    credentials = made.keys.environment(PARENT) if made.keys is not None else {}
    withheld = SDK_VARIABLES if made.keys is not None else ()
    loudness = ("-v",) if request.verbosity else ()
    quiet = () if request.verbosity else ("--quiet",)
    return (
        Command(
            "relay", (*plan.relay, *quiet), ready_seconds=_BOOT_SECONDS, environment=credentials, withheld=withheld
        ),
        Command("runtime", (*plan.runtime, *loudness), ready_seconds=_BOOT_SECONDS, stop_seconds=_RUNTIME_STOP_SECONDS),
    )


def _require_measured(plan: LocalPlan, boot: dict[str, Any]) -> None:
    """Refuse a runtime that measured something else than the policy pins: the code changed meanwhile."""
    differing = [
        name for name in ("pcr0", "pcr1", "pcr2") if boot.get("measurements", {}).get(name) != plan.registers[name]
    ]
    if differing:
        raise RejectedError(
            f"the runtime measured another {', '.join(differing)} than this installation has",
            code="NITRO_MEASUREMENT_MISMATCH",
            expected=plan.registers[differing[0]],
            actual=boot.get("measurements", {}).get(differing[0]),
            hint="files of the installation changed while it started; start again",
        )


class _Logs:
    """Keeps what the children say beside the deployment, and shows it with ``-v``."""

    def __init__(self, state: StateFolder, verbosity: int, stack: ExitStack) -> None:
        self._verbosity = verbosity
        try:
            self._files = {name: stack.enter_context(state.open_log(name)) for name in ("runtime", "relay", "kms")}
        except OSError as error:
            raise UnavailableError(f"cannot write a log: {error.strerror}") from error

    def __call__(self, name: str, line: str) -> None:
        self._files[name].write(line + "\n")
        if self._verbosity:
            console.current().note(f"{name} | {line}")
