"""The bare engine against the whole path, in turn, in one run.

Bare is what the runtime does for a request without channel, relay and receipt:
read the JSON, tokenise, embed, write the JSON, with the same code and as many
threads. The whole path is client, relay, channel, engine, receipt, and the
client's verification of it, runtime and relay being processes of their own.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ephemeralml.attestation.policy import Policy
from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile, row
from ephemeralml.client.session import connect
from ephemeralml.host.supervisor import Command, Supervisor

_ADDED_TARGET_MS = 1.0
_HANDSHAKE_TARGET_MS = 15.0
_TOKENS = 63
_THREADS = 2
_WORDS = "the patient was given a new medicine and recovered within two weeks of the first visit to the clinic "


def measure(*, quick: bool) -> Section:
    """Start a local deployment of the demonstration's model and measure against it.

    Raises:
        UnavailableError: The engine or the weights are not installed.
    """
    with tempfile.TemporaryDirectory(prefix="ephemeralml-bench-") as folder, ExitStack() as stack:
        deployment = stack.enter_context(_deployment(Path(folder)))
        policy = Policy.load(Path(deployment["policy"]))
        target, model = deployment["endpoint"], deployment["models"][0]
        engine, bare = stack.enter_context(_bare_engine(Path(folder, "state", "packages", model)))
        body = json.dumps({"model": model, "input": _text(engine)}).encode()
        session = stack.enter_context(connect(target, policy=policy))
        samples = interleaved(
            {
                "bare": lambda: bare(body),
                "path": lambda: session.post("/v1/embeddings", content=body),
                "empty": lambda: session.get("/healthz"),
            },
            rounds=60 if quick else 400,
            warmup=10,
        )
        handshakes = interleaved(
            {"handshake": lambda: connect(target, policy=policy).close()}, rounds=15 if quick else 60
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
def _deployment(folder: Path) -> Iterator[dict[str, Any]]:
    """Run `ephemeralml deploy local`, as an operator would."""
    arguments = ("deploy", "local", "--demo-model", "--listen", "tcp://127.0.0.1:0", "--state", str(folder / "state"))
    with Supervisor() as supervisor:
        yield supervisor.start(Command("deployment", (*arguments, "--json"), ready_seconds=120))["deployment"]


@contextmanager
def _bare_engine(folder: Path) -> Iterator[tuple[Any, Callable[[bytes], object]]]:
    """Load the package's model here and return it with what serves one request on it."""
    from ephemeralml.crypto.keys import PrivateKey
    from ephemeralml.enclave.api import embeddings
    from ephemeralml.enclave.engines.encoder import EncoderEngine
    from ephemeralml.model.container import load_files
    from ephemeralml.model.package import Package
    from ephemeralml.model.verify import verify_manifest
    from ephemeralml.progress import Silent

    publisher = PrivateKey.from_pem((folder.parent.parent / "publisher.pem").read_bytes()).public
    with Package.open(folder) as package:
        verified = verify_manifest(package.manifest_bytes(), publisher_keys=(publisher,), allow_plaintext=True)
        engine = EncoderEngine.load(load_files(verified, package, progress=Silent()), threads=_THREADS)

    def serve(body: bytes) -> object:
        document = embeddings.parse_body(body)
        request = embeddings.parse_request(document, max_inputs=2_048, max_text_bytes=1 << 20)
        tokens = engine.tokenize(request.texts or ())
        return embeddings.embeddings_response(
            engine.embed(tokens), request.encoding, model=document["model"], tokens=sum(map(len, tokens))
        )

    try:
        yield engine, serve
    finally:
        engine.close()


def _text(engine: Any) -> str:
    """Return words that are exactly the measured number of tokens, the two special ones included."""
    words = (_WORDS * 4).split()
    for count in range(1, len(words)):
        text = " ".join(words[:count])
        if len(engine.tokenize([text])[0]) == _TOKENS:
            return text
    raise RuntimeError("the words hold no text of that length")
