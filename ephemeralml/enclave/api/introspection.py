"""What the runtime says of itself: models, manifests, evidence, health."""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from ephemeralml.enclave.api.errors import ApiError, model_not_found
from ephemeralml.enclave.api.messages import ApiResponse, json_response
from ephemeralml.enclave.attesters.base import SessionEvidence
from ephemeralml.enclave.models import SCHEME, ModelRegistry, ServedModel


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What is the same for every session of a boot."""

    version: str
    security_mode: str
    config_digest: bytes
    receipt_key: bytes
    started_at: int
    """Unix seconds."""
    limits: Mapping[str, int]
    draining: Callable[[], bool] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What is a session's own."""

    evidence: SessionEvidence
    receipt_key: bytes
    channel_binding: bytes
    nonce: bytes = field(repr=False)


def models(registry: ModelRegistry) -> ApiResponse:
    """``GET /v1/models``: every name that a request may use."""
    names: dict[str, ServedModel] = {}
    for served in registry.models:
        best = registry.resolve(served.model_id)
        names[served.model_id if best is served else served.full_name] = served
    names.update(registry.aliases)
    return json_response({"object": "list", "data": [_entry(name, served) for name, served in names.items()]})


def model(registry: ModelRegistry, name: str) -> ApiResponse:
    """``GET /v1/models/{name}``."""
    name = unquote(name)
    served = registry.resolve(name)
    if served is None:
        raise model_not_found(name)
    return json_response(_entry(name, served))


def _entry(name: str, served: ServedModel) -> dict[str, Any]:
    manifest = served.verified.manifest
    return {
        "id": name,
        "object": "model",
        "created": int(manifest.created_at.timestamp()),
        "owned_by": manifest.publisher,
        "ephemeralml": {
            "model_id": served.model_id,
            "version": served.version,
            "model_hash": served.model_hash.hex(),
            "model_hash_scheme": SCHEME,
            "publisher_key": str(served.verified.publisher_key),
            "task": served.task.value,
        },
    }


def manifest(registry: ModelRegistry, digits: str) -> ApiResponse:
    """``GET /v1/ephemeralml/manifests/{model_hash}``: the signed envelope, byte for byte."""
    served = registry.by_hash(digits)
    if served is None:
        raise ApiError(404, "no loaded model has that hash", code="manifest_not_found")
    return ApiResponse(200, served.verified.envelope)


def attestation(session: SessionFacts) -> ApiResponse:
    """``GET /v1/attestation``: this session's evidence and what it binds."""
    evidence = session.evidence.evidence
    return json_response(
        {
            "schema": "ephemeralml.attestation/1",
            "format": evidence.format.value,
            "document": base64.b64encode(evidence.document).decode(),
            "document_sha256": session.evidence.digest.hex(),
            "endorsements": {
                name: base64.b64encode(content).decode() for name, content in evidence.endorsements.items()
            },
            "receipt_public_key": session.receipt_key.hex(),
            "channel_binding": session.channel_binding.hex(),
            "nonce": session.nonce.hex(),
        }
    )


def health(facts: RuntimeFacts) -> ApiResponse:
    """``GET /healthz``: 200 while requests are taken, 503 while draining."""
    if facts.draining():
        return json_response({"status": "draining"}, status=503)
    return json_response({"status": "ok"})


def info(facts: RuntimeFacts, registry: ModelRegistry) -> ApiResponse:
    """``GET /v1/ephemeralml/info``."""
    return json_response(
        {
            "schema": "ephemeralml.info/1",
            "version": facts.version,
            "security_mode": facts.security_mode,
            "config_sha256": facts.config_digest.hex(),
            "receipt_public_key": facts.receipt_key.hex(),
            "started_at": facts.started_at,
            "limits": dict(facts.limits),
            "models": [
                {**_entry(served.full_name, served)["ephemeralml"], "waiting": served.worker.waiting}
                for served in registry.models
            ],
            "aliases": {alias: served.full_name for alias, served in registry.aliases.items()},
        }
    )
