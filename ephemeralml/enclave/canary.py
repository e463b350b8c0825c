"""The known-answer request at the end of a boot (serving section 1, air-v1 section 11).

A machine that computes wrongly, or that signs what its own verifier refuses,
must not come up.
"""

import hashlib
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ephemeralml.channel.hello import Identity
from ephemeralml.enclave.attesters.base import SessionEvidence
from ephemeralml.enclave.engines.base import EmbeddingEngine
from ephemeralml.enclave.models import SCHEME, ServedModel
from ephemeralml.enclave.receipts import ReceiptIssuer
from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.receipt.live import ModelEntry, verify_live

TEXT = "The canary sings: attested inference, verified receipts."
COMPANION = "Another text of another length, so that the first one is padded and shares a batch with it."
BATCH_TOLERANCE = 1e-6
_NORM_TOLERANCE = 1e-3
_REQUEST = b'{"input":"canary"}'
_NONCE = b"ephemeralml canary"

T = TypeVar("T")


def check_engine(engine: EmbeddingEngine, *, seconds: float) -> None:
    """Embed a fixed text and judge the answer.

    1. It comes in time.
    2. It has the engine's dimension, is finite and not zero; unit length unless
       the model does not normalise.
    3. The same text again gives the same bits.
    4. Beside another text in one batch it differs by at most 1e-6.

    Raises:
        UnavailableError: 1.
        RejectedError: 2 to 4 (code CANARY_WRONG).
    """

    def answers() -> list[np.ndarray]:
        ids = engine.tokenize([TEXT, COMPANION])
        return [engine.embed([ids[0]])[0], engine.embed([ids[0]])[0], engine.embed(ids)[0]]

    # 1
    first, again, batched = within(seconds, answers)
    # 2
    norm = float(np.linalg.norm(first))
    if first.shape != (engine.dim,) or not np.isfinite(first).all() or norm == 0:
        raise _wrong("is no vector of the model's size, or not finite")
    if engine.normalized and abs(norm - 1) > _NORM_TOLERANCE:
        raise _wrong("has not unit length")
    # 3
    if first.tobytes() != again.tobytes():
        raise _wrong("differs from one time to the next")
    # 4
    if float(np.abs(first - batched).max()) > BATCH_TOLERANCE * max(1.0, norm):
        raise _wrong("depends on what else is in its batch")


def check_receipt(issuer: ReceiptIssuer, model: ServedModel, evidence: SessionEvidence, identity: Identity) -> None:
    """Issue one receipt as a session would, and verify it as a client would.

    Raises:
        RejectedError: The verifier refuses it.
    """
    request_hash, response_hash = hashlib.sha256(_REQUEST).digest(), hashlib.sha256(b"").digest()
    receipt = issuer.for_session(evidence).issue(
        model, request_hash=request_hash, response_hash=response_hash, nonce=_NONCE, execution_ms=1
    )
    verify_live(
        receipt,
        session_key=issuer.key.public,
        document_digest=evidence.digest,
        measurement_type=evidence.measurement_type,
        registers=evidence.registers,
        security_mode=identity.security_mode,
        model=ModelEntry(model.model_id, model.version, model.model_hash, SCHEME),
        request_hash=request_hash,
        response_hash=response_hash,
        nonce=_NONCE,
        expected_sequence=0,
        now=issuer.unix_time(),
    )


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what *function* returns, if it does so in time.

    A call that overruns keeps its thread; the boot fails and the process ends.

    Raises:
        UnavailableError: It took longer.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread whole
            errors.append(error)

    thread = threading.Thread(target=run, name="canary", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise UnavailableError(f"the known-answer request took more than {seconds:g} s")
    return results[0]


def _wrong(how: str) -> RejectedError:
    return RejectedError(f"the answer to the known-answer request {how}", code="CANARY_WRONG")
