"""The bare engine against the whole path, in turn, in one run, on one engine.

Bare is what the runtime does for a request without channel, relay and receipt
(`bare_peer`). The whole path is client, relay, channel, engine, receipt, and
the client's verification of it; runtime and relay are processes of their own.
"""

import json
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ephemeralml import clock
from ephemeralml.attestation.policy import Policy
from ephemeralml.bench.bare_peer import LENGTH, SECONDS
from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile, row
from ephemeralml.client.session import Session, connect
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.deploy.local import LocalPlan, Offer, demo_package, open_authority, open_state, prepare
from ephemeralml.enclave.config import render
from ephemeralml.host.supervisor import Command, Supervisor
from ephemeralml.progress import Silent

_ADDED_TARGET_MS = 1.0
_HANDSHAKE_TARGET_MS = 15.0
_TOKENS = 63
_BOOT_SECONDS = 120.0
_WORDS = "the patient was given a new medicine and recovered within two weeks of the first visit to the clinic "


@dataclass(frozen=True, slots=True)
class _Deployment:
    """A running runtime and relay, and the bare way to the engine."""

    target: str
    policy: Policy
    model: str
    bare: Callable[[bytes], float]
    """Seconds that the engine's process needed for a body."""


def measure(*, quick: bool) -> Section:
    """Start a runtime and a relay with the demonstration's model, and measure against them.

    Raises:
        UnavailableError: The engine or the weights are not installed.
    """
    with _deployment() as running, connect(running.target, policy=running.policy) as session:
        body = _body(session, running.model)
        bare: list[float] = []
        samples = interleaved(
            {
                "bare": lambda: bare.append(running.bare(body)),
                "path": lambda: session.post("/v1/embeddings", content=body),
                "empty": lambda: session.get("/healthz"),
            },
            rounds=60 if quick else 400,
            warmup=10,
        )
        samples["bare"] = bare[-len(samples["path"]) :]
        handshakes = interleaved(
            {"handshake": lambda: connect(running.target, policy=running.policy).close()}, rounds=15 if quick else 60
        )["handshake"]
    return _section(samples, handshakes)


def _section(samples: dict[str, list[float]], handshakes: list[float]) -> Section:
    bare, path = (row(name, samples[key], scale=1e3, unit="ms") for name, key in _COMPARED)
    # Paired by round, so that a machine that slows down for a while slows both sides of a difference.
    differences = [whole - alone for whole, alone in zip(samples["path"], samples["bare"], strict=True)]
    added = row("added by channel, relay and receipt", differences, scale=1e3, unit="ms")
    ratio = quantile(samples["path"], 0.5) / quantile(samples["bare"], 0.5)
    rows = (
        bare,
        path,
        added,
        Row("whole path / bare engine", ratio, "×", p50=ratio, n=len(differences)),
        row("whole path without engine and receipt (/healthz)", samples["empty"], scale=1e3, unit="ms"),
        row("handshake, evidence made and verified", handshakes, scale=1e3, unit="ms"),
    )
    targets = (
        Target(f"whole path adds to a {_TOKENS}-token embedding", added.value, _ADDED_TARGET_MS, "ms", at_most=True),
        Target("handshake with evidence", rows[-1].value, _HANDSHAKE_TARGET_MS, "ms", at_most=True),
    )
    return Section(rows, targets)


_COMPARED = (
    (f"bare engine, {_TOKENS} tokens", "bare"),
    (f"whole path, {_TOKENS} tokens", "path"),
)


@contextmanager
def _deployment() -> Iterator[_Deployment]:
    """Prepare what `deploy local` prepares, with a runtime that also answers bare."""
    with tempfile.TemporaryDirectory(prefix="ephemeralml-bench-") as folder, open_state(Path(folder)) as state:
        key, now = PrivateKey.generate(), clock.now()
        package = demo_package(state, key, None, now=now, progress=Silent())
        config = render(
            attester="local",
            security_mode="evaluation",
            listen=state.listen,
            publisher_key=key.public,
            model_id="*",
            allow_plaintext=True,
        )
        offer = Offer((package,), key.public, ("tcp://127.0.0.1:0",))
        plan = prepare(state, open_authority(state, now), offer, config=config, now=now)
        way = Path(folder, "bare.sock")
        with Supervisor() as supervisor:
            said = supervisor.start(
                Command("relay", plan.relay, ready_seconds=_BOOT_SECONDS), _peer(plan, package, way)
            )
            with socket.socket(socket.AF_UNIX) as bare:
                bare.connect(str(way))
                target, model = said["relay"]["listen"][0], plan.models[0].manifest.model_id
                yield _Deployment(target, Policy.load(state.policy), model, lambda body: _ask_bare(bare, body))


def _peer(plan: LocalPlan, package: Path, way: Path) -> Command:
    arguments = (plan.state.config, plan.state.authority, package, way)
    module = "ephemeralml.bench.bare_peer"
    return Command("runtime", tuple(map(str, arguments)), module=module, ready_seconds=_BOOT_SECONDS)


def _ask_bare(bare: socket.socket, body: bytes) -> float:
    bare.sendall(LENGTH.pack(len(body)) + body)
    (seconds,) = SECONDS.unpack(bare.recv(SECONDS.size, socket.MSG_WAITALL))
    return float(seconds)


def _body(session: Session, model: str) -> bytes:
    """Return a request for a text of exactly the measured number of tokens, the two special ones included."""
    words = (_WORDS * 4).split()
    for count in range(_TOKENS // 2, len(words)):
        body = json.dumps({"model": model, "input": " ".join(words[:count])}).encode()
        if session.post("/v1/embeddings", content=body).json()["usage"]["prompt_tokens"] == _TOKENS:
            return body
    raise RuntimeError("the words hold no text of that length")
