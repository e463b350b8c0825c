"""From a request to what has to be done for it.

Two looks are taken. `admit` sees method, path and headers as soon as they
arrive and refuses what no body could save; `plan` sees the whole request. A
plan says which model was selected, since from there on the answer, errors
included, has a receipt (air-v1 section 5).
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ephemeralml.attestation.verdict import printable
from ephemeralml.enclave.api import embeddings, introspection
from ephemeralml.enclave.api.embedding_work import EmbeddingWork
from ephemeralml.enclave.api.errors import (
    ApiError,
    method_not_allowed,
    model_not_found,
    not_found,
    unauthorized,
)
from ephemeralml.enclave.api.introspection import RuntimeFacts, SessionFacts
from ephemeralml.enclave.api.messages import ApiRequest, ApiResponse
from ephemeralml.enclave.models import ModelRegistry, ServedModel
from ephemeralml.enclave.worker import Work

_EMBEDDINGS = "/v1/embeddings"
_MODELS = "/v1/models"
_ATTESTATION = "/v1/attestation"
_INFO = "/v1/ephemeralml/info"
_HEALTH = "/healthz"
_MANIFESTS = "/v1/ephemeralml/manifests/"
_MODEL = "/v1/models/"

_METHODS = {_EMBEDDINGS: "POST", _MODELS: "GET", _ATTESTATION: "GET", _INFO: "GET", _HEALTH: "GET"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: answer at once, or run work on a model's engine."""

    model: ServedModel | None
    """The model selected, whose receipt the answer carries; None for no receipt."""
    response: ApiResponse | None = None
    work: Work | None = field(default=None, repr=False)
    response_bytes: int = 0
    """An upper estimate of the answer that *work* makes, reserved while it runs."""


class Router:
    """The API of one runtime; stateless between requests and safe in threads."""

    def __init__(
        self,
        registry: ModelRegistry,
        facts: RuntimeFacts,
        *,
        clients: Sequence[str],
        max_inputs: int,
        max_text_bytes: int,
    ) -> None:
        self._registry = registry
        self._facts = facts
        self._clients = tuple(bytes.fromhex(digest) for digest in clients)
        self._max_inputs = max_inputs
        self._max_text_bytes = max_text_bytes

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> ApiError | None:
        """Return the error of a request that is refused before its body, or None."""
        if self._clients and not self._known_client(headers.get("authorization", "")):
            return unauthorized()
        bare, separator, query = path.partition("?")
        allowed = _METHODS.get(bare)
        if allowed is None and bare.startswith((_MANIFESTS, _MODEL)):
            allowed = "GET"
        if allowed is None:
            return not_found(bare)
        if method != allowed:
            return method_not_allowed(method, allowed)
        if separator:
            name = query.partition("=")[0]
            return ApiError(
                400,
                f"the query parameter {printable(name)!r} is not supported",
                param=name,
                code="unsupported_parameter",
            )
        return None

    def _known_client(self, authorization: str) -> bool:
        """Compare with every client's digest, so that time does not tell which one came close."""
        scheme, _, token = authorization.partition(" ")
        digest = hashlib.sha256(token.strip().encode()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._clients]
        return scheme.lower() == "bearer" and any(matches)

    def plan(self, request: ApiRequest, session: SessionFacts) -> Plan:
        """Return what to do for an admitted request."""
        try:
            if request.path == _EMBEDDINGS:
                return self._embeddings(request)
            return Plan(None, self._introspect(request, session))
        except ApiError as error:
            return Plan(None, error.response())

    def _embeddings(self, request: ApiRequest) -> Plan:
        document = embeddings.parse_body(request.body)
        name = embeddings.model_name(document)
        model = self._registry.resolve(name)
        if model is None:
            raise model_not_found(name)
        try:
            embeddings.check_task(model.task)
            parsed = embeddings.parse_request(
                document, max_inputs=self._max_inputs, max_text_bytes=self._max_text_bytes
            )
        except ApiError as error:
            return Plan(model, error.response())
        estimate = embeddings.estimate_bytes(parsed, model.engine.dim)
        return Plan(model, work=EmbeddingWork(model, parsed, model.model_id), response_bytes=estimate)

    def _introspect(self, request: ApiRequest, session: SessionFacts) -> ApiResponse:
        path = request.path
        if request.body:
            raise ApiError(400, "a GET has no body", code="unexpected_body")
        if path == _MODELS:
            return introspection.models(self._registry)
        if path == _ATTESTATION:
            return introspection.attestation(session)
        if path == _INFO:
            return introspection.info(self._facts, self._registry)
        if path == _HEALTH:
            return introspection.health(self._facts)
        if path.startswith(_MANIFESTS):
            return introspection.manifest(self._registry, path.removeprefix(_MANIFESTS))
        return introspection.model(self._registry, path.removeprefix(_MODEL))
