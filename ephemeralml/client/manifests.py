"""Whose model it is: the signed manifest behind a model hash (serving section 3)."""

import hashlib
import hmac
import threading

from ephemeralml.attestation.model_rules import MODEL_PUBLISHER_REJECTED
from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.verdict import printable
from ephemeralml.channel.hello import ModelEntry
from ephemeralml.client.reply import Reply
from ephemeralml.errors import IncompleteError, RejectedError
from ephemeralml.model import envelope, manifest
from ephemeralml.model.manifest import Manifest

SCHEME = "sha256-manifest"
MODEL_HASH_MISMATCH = "MODEL_HASH_MISMATCH"
MAX_ENVELOPE_BYTES = envelope.MAX_ENVELOPE_BYTES
_PATH = "/v1/ephemeralml/manifests/"


def manifest_path(entry: ModelEntry) -> str:
    """Return where the runtime serves the manifest of *entry*."""
    return _PATH + entry.hash.hex()


def verify_manifest(data: bytes, entry: ModelEntry, policy: Policy) -> Manifest:
    """Verify the manifest of the model that a request names.

    1. The hash scheme is the manifest's.                       MODEL_HASH_MISMATCH
    2. It is a DSSE envelope of a model manifest.               MalformedError
    3. A publisher of *policy* signed it, where it names any.   MODEL_PUBLISHER_REJECTED
    4. SHA-256 of the payload is the identity's model hash.     MODEL_HASH_MISMATCH
    5. It is the manifest of this id and version.               MODEL_HASH_MISMATCH

    That the runtime computes with these very files is what its measured code
    is for; no client can look.

    Raises:
        MalformedError: Step 2.
        RejectedError: Steps 1, 3, 4 and 5.
    """
    if entry.scheme != SCHEME:  # 1
        raise RejectedError(
            f"model '{printable(entry.id)}' is identified by no manifest, so no publisher can be checked",
            code=MODEL_HASH_MISMATCH,
            expected=SCHEME,
            actual=printable(entry.scheme),
        )
    signed = envelope.parse(data)  # 2
    keys = policy.models.publisher_keys
    if keys:  # 3
        try:
            signed.verify(keys, payload_type=envelope.PAYLOAD_TYPE)
        except RejectedError as error:
            raise RejectedError(
                f"the manifest of model '{printable(entry.id)}': {error.message}",
                code=MODEL_PUBLISHER_REJECTED,
                expected=error.expected,
                actual=error.actual,
                hint="models.publisher_keys of the policy says whose models are accepted",
            ) from error
    digest = hashlib.sha256(signed.payload).digest()
    if not hmac.compare_digest(digest, entry.hash):  # 4
        raise RejectedError(
            "the manifest is not the one whose hash the runtime states",
            code=MODEL_HASH_MISMATCH,
            expected=entry.hash.hex(),
            actual=digest.hex(),
        )
    parsed = manifest.parse(signed.payload)
    if (parsed.model_id, str(parsed.version)) != (entry.id, entry.version):  # 5
        raise RejectedError(
            "the manifest is another model's",
            code=MODEL_HASH_MISMATCH,
            expected=printable(f"{entry.id}@{entry.version}"),
            actual=printable(f"{parsed.model_id}@{parsed.version}"),
        )
    return parsed


def manifest_body(reply: Reply) -> bytes:
    """Return the manifest that the runtime answered with.

    Raises:
        IncompleteError: It answered something else.
    """
    if reply.status != 200:
        raise IncompleteError(
            f"the runtime does not hand out the model's manifest (status {reply.status})",
            code="MANIFEST_MISSING",
            hint="the policy names publishers, so the model's signature has to be checked",
        )
    return reply.body


class ManifestStore:
    """Manifests that were verified under one policy; safe to share between sessions and threads."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._verified: dict[ModelEntry, bytes] = {}
        self._lock = threading.Lock()

    def missing(self, entry: ModelEntry | None) -> bool:
        """Return whether *entry*'s manifest must be fetched before its first prompt."""
        return entry is not None and bool(self._policy.models.publisher_keys) and entry not in self._verified

    def get(self, entry: ModelEntry | None) -> bytes | None:
        """Return the envelope of *entry*, if it has been verified."""
        return self._verified.get(entry) if entry is not None else None

    def add(self, entry: ModelEntry, data: bytes) -> None:
        """Verify and keep a manifest; errors as `verify_manifest`."""
        if len(data) > MAX_ENVELOPE_BYTES:
            raise RejectedError(
                "the runtime's manifest is larger than any manifest may be",
                code=MODEL_HASH_MISMATCH,
                expected=f"at most {MAX_ENVELOPE_BYTES} bytes",
                actual=f"{len(data)} bytes",
            )
        verify_manifest(data, entry, self._policy)
        with self._lock:
            self._verified[entry] = bytes(data)
