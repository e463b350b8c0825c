"""How long it is from a runtime's process start to the first verified receipt, with an encrypted model.

Key server, relay and the package are there before; the runtime's process then
boots, has the key released against its document, fetches, decrypts and verifies
MiniLM, and answers one request of a client that was waiting.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeralml import clock
from ephemeralml.attestation.policy import Policy
from ephemeralml.bench.measure import Section, Target, row
from ephemeralml.client.session import connect
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.deploy import local_keys
from ephemeralml.deploy.local import (
    LocalPlan,
    Offer,
    StateFolder,
    demo_package,
    open_authority,
    open_state,
    package_names,
    prepare,
)
from ephemeralml.enclave.config import render
from ephemeralml.host.supervisor import Command, Supervisor
from ephemeralml.model.demo import DEMO_MODEL_ID
from ephemeralml.progress import Silent

_TARGET_S = 2.5
_NAME = "MiniLM, encrypted: process start to first receipt"
_BOOT_SECONDS = 120.0
_BODY = json.dumps({"model": DEMO_MODEL_ID, "input": "the first request"}).encode()


@dataclass(frozen=True, slots=True)
class _Host:
    """All that runs before the runtime does."""

    plan: LocalPlan
    target: str


def measure(*, quick: bool) -> Section:
    """Start the runtime again and again.

    Raises:
        UnavailableError: The engine, the weights or the key server's libraries are not installed.
    """
    with _host() as host:
        policy = Policy.load(host.plan.state.policy)
        boots, firsts = zip(*(_start(host, policy) for _ in range(2 if quick else 5)), strict=True)
    rows = (
        row("runtime ready: booted, key released, model loaded and tried", boots, scale=1, unit="s"),
        row(_NAME, firsts, scale=1, unit="s", note="the reference system needed 7.05 s"),
    )
    return Section(rows, (Target(_NAME, rows[1].value, _TARGET_S, "s", at_most=True),))


def _start(host: _Host, policy: Policy) -> tuple[float, float]:
    """Return the seconds until the runtime is ready, and until the first receipt is verified."""
    begin = time.perf_counter()
    with Supervisor() as supervisor:
        supervisor.start(Command("runtime", host.plan.runtime, ready_seconds=_BOOT_SECONDS))
        ready = time.perf_counter() - begin
        with connect(host.target, policy=policy) as session:
            session.post("/v1/embeddings", content=_BODY).json()
            return ready, time.perf_counter() - begin


@contextmanager
def _host() -> Iterator[_Host]:
    """Start key server and relay over an encrypted package, with the key released to the image that will boot."""
    with (
        tempfile.TemporaryDirectory(prefix="ephemeralml-bench-") as folder,
        open_state(Path(folder)) as state,
        Supervisor() as supervisor,
    ):
        open_authority(state, clock.now())
        said = supervisor.start(Command("kms", local_keys.server_command(state), ready_seconds=_BOOT_SECONDS))["kms"]
        server = local_keys.KeyServer(state.keys, said["endpoint"], said["account"], said["region"])
        plan = _plan(state, server)
        credentials = server.environment(local_keys.PARENT)
        relay = Command(
            "relay", plan.relay, ready_seconds=_BOOT_SECONDS, environment=credentials, withheld=local_keys.SDK_VARIABLES
        )
        yield _Host(plan, supervisor.start(relay)["relay"]["listen"][0])


def _plan(state: StateFolder, server: local_keys.KeyServer) -> LocalPlan:
    signer, now = PrivateKey.generate(), clock.now()
    key = local_keys.model_key(server, (DEMO_MODEL_ID,))
    with closing(local_keys.publisher_keys(server, key)) as publisher:
        package = demo_package(state, signer, publisher, now=now, progress=Silent())
    config = render(
        attester="local",
        security_mode="evaluation",
        listen=state.listen,
        publisher_key=signer.public,
        model_id=DEMO_MODEL_ID,
        allow_plaintext=False,
        key_uris=(str(key),),
        services=state.services,
        packages=package_names((package,)),
    )
    offer = Offer((package,), signer.public, ("tcp://127.0.0.1:0",), (str(key),), server.endpoint)
    plan = prepare(state, open_authority(state, now), offer, config=config, now=now)
    local_keys.release_to(server, str(key), (DEMO_MODEL_ID,), plan.registers)
    return plan
