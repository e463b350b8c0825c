"""A local deployment as one value: files prepared, runtime and relay started, stopped at the end.

`deploy local` and `demo` are this block with different things inside. The
layers meet here and nowhere below: `deploy` writes the files, `enclave` renders
its configuration, `host` keeps the processes.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ephemeralml import clock
from ephemeralml.cli import console
from ephemeralml.cli.key_files import private_from_pem
from ephemeralml.crypto.keys import MAX_PEM_BYTES, PrivateKey, PublicKey
from ephemeralml.deploy.local import LocalPlan, StateFolder, demo_package, open_state, prepare, read_models
from ephemeralml.errors import (
    EphemeralError,
    IncompleteError,
    MalformedError,
    RejectedError,
    UnavailableError,
)
from ephemeralml.host.supervisor import ChildFailedError, Command, Supervisor
from ephemeralml.progress import Progress

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
        state = stack.enter_context(open_state(request.state))
        plan = _prepare(state, request, progress)
        supervisor = stack.enter_context(Supervisor(_Logs(state, request.verbosity, stack)))
        progress.step("start runtime and relay")
        # The relay comes first because the last is stopped first: a runtime that has said
        # goodbye to its clients leaves the relay nothing to wait for.
        try:
            said = supervisor.start(*_commands(plan, request))
        except ChildFailedError as error:
            raise child_error(error) from error
        _require_measured(plan, said["runtime"])
        yield LocalStack(
            plan=plan,
            endpoints=tuple(said["relay"]["listen"]),
            receipt_public_key=said["runtime"]["receipt_public_key"],
            supervisor=supervisor,
            boot=said["runtime"],
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


def _prepare(state: StateFolder, request: StackRequest, progress: Progress) -> LocalPlan:
    from ephemeralml.enclave.config import render

    now = clock.now()
    if request.packages:
        if request.publisher is None:
            raise console.usage("--package needs --publisher-key", hint="name the key that signed the package")
        packages, publisher = request.packages, request.publisher
    else:
        key = _publisher_key(state)
        packages, publisher = (demo_package(state, key, now=now, progress=progress),), key.public
    ids = {model.manifest.model_id for model in read_models(packages, publisher)}
    config = render(
        attester="local",
        security_mode="evaluation",
        listen=state.listen,
        publisher_key=publisher,
        model_id=ids.pop() if len(ids) == 1 else "*",
        allow_plaintext=True,
    )
    return prepare(
        state, config=config, packages=packages, publisher=publisher, listen=_addresses(request.listen), now=now
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


def _commands(plan: LocalPlan, request: StackRequest) -> tuple[Command, Command]:
    loudness = ("-v",) if request.verbosity else ()
    quiet = () if request.verbosity else ("--quiet",)
    return (
        Command("relay", (*plan.relay, *quiet), ready_seconds=_BOOT_SECONDS),
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
            self._files = {name: stack.enter_context(state.open_log(name)) for name in ("runtime", "relay")}
        except OSError as error:
            raise UnavailableError(f"cannot write a log: {error.strerror}") from error

    def __call__(self, name: str, line: str) -> None:
        self._files[name].write(line + "\n")
        if self._verbosity:
            console.current().note(f"{name} | {line}")
