"""What every operation of the key server goes through: find the key, judge the document, ask the policy.

Order (key-release.md section 8): the caller's signature and the fields come
before this; then the attestation document, its key, the conditions, the
policy, the key's state, and the ciphertext last.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import cycle
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from ephemeralml.attestation.nitro.authentic import AuthenticDocument, authentic_document
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.crypto import cms
from ephemeralml.errors import IncompleteError, MalformedError, RejectedError
from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.faults import ServiceFault, invalid, not_found
from ephemeralml.keyrelease.local.names import Names, default_policy
from ephemeralml.keyrelease.local.records import GrantRecord, KeyRecord, KeyState
from ephemeralml.keyrelease.local.store import Store
from ephemeralml.keyrelease.policy import conditions
from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.evaluate import Decision, Grant, Request, evaluate
from ephemeralml.keyrelease.policy.principals import last_name

MAX_CONTEXT_CHARACTERS = 8_192
"""KMS's own limit on an encryption context, names and values together."""
AHEAD = timedelta(minutes=5)
"""How far a document's time may be ahead where its age is limited at all."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """An attested recipient: its document and its RSA key."""

    document: AuthenticDocument
    key: RSAPublicKey


@dataclass(slots=True)
class Desk:
    """The server's state and settings, as operations use them."""

    store: Store
    names: Names
    roots: TrustRoots
    """Who vouches for attestation documents; remembers verified links between requests."""
    max_document_age: timedelta | None = None
    """None takes a document while its certificates are valid, as AWS does."""
    cms_forms: tuple[bool, ...] = (True, False)
    """Whether content is constructed, by turns."""
    _turns: Any = field(init=False)

    def __post_init__(self) -> None:
        self._turns = cycle(self.cms_forms)

    def key(self, call: Call, name: str = "KeyId", *, aliases: bool = True) -> KeyRecord:
        """Return the key that a field names: by id or ARN, or alias or its ARN.

        Raises:
            ServiceFault: NotFoundException.
        """
        return self.find(call, call.fields[name], aliases=aliases)

    def find(self, call: Call, text: str, *, aliases: bool = True) -> KeyRecord:
        """Return the key of that name; see `key`."""
        found = self.names.read(text)
        if found is None or (found.alias and not aliases):
            raise not_found("a key of that name")
        key_id = found.name
        if found.alias:
            alias = self.store.alias(found.name)
            if alias is None:
                raise not_found("an alias of that name")
            key_id = alias.key_id
        record = self.store.key(key_id, call.timestamp)
        if record is None:
            raise not_found("the key")
        return record

    def recipient(self, call: Call) -> Recipient | None:
        """Judge the request's attestation document, if it has one.

        Raises:
            ServiceFault: ValidationException, whatever is wrong with it.
        """
        asked = call.get("Recipient")
        if asked is None:
            return None
        document = asked.get("AttestationDocument")
        if document is None or asked.get("KeyEncryptionAlgorithm") != "RSAES_OAEP_SHA_256":
            raise invalid("Recipient needs an AttestationDocument and the algorithm RSAES_OAEP_SHA_256")
        try:
            authentic = authentic_document(document, roots=self.roots, at=call.now)
        except (MalformedError, RejectedError, IncompleteError) as error:
            call.trail.notes["document"] = error.code or "refused"
            raise invalid("the attestation document is not valid") from error
        call.trail.attested(authentic)
        self._check_age(authentic, call.now)
        if authentic.public_key is None:
            raise invalid("the attestation document has no public key")
        try:
            return Recipient(authentic, cms.recipient_key(authentic.public_key))
        except MalformedError as error:
            raise invalid("the attestation document's public key is not an RSA key of 2048 to 4096 bits") from error

    def _check_age(self, document: AuthenticDocument, now: datetime) -> None:
        limit = self.max_document_age
        if limit is not None and not -AHEAD <= now - document.timestamp <= limit:
            raise invalid("the attestation document is too old")

    def authorize(
        self,
        call: Call,
        action: str,
        key: KeyRecord | None,
        *,
        context: Mapping[str, str] | None = None,
        recipient: Recipient | None = None,
        more: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Ask the policies whether the caller may do *action*, such as ``Decrypt``.

        Raises:
            ServiceFault: AccessDeniedException.
        """
        arn = self.names.arn(key.id) if key is not None else "*"
        policy = key.policy if key is not None else default_policy(self.names.account)
        grants = self.store.grants_naming(key.id, last_name(call.principal.arn)) if key is not None else []
        pcrs = recipient.document.pcrs if recipient is not None else None
        decision = self.decide(call, f"kms:{action}", arn, policy, grants, context=context, pcrs=pcrs, more=more)
        trail = call.trail
        if key is not None:
            trail.key = arn
        trail.statement, trail.reason = decision.statement or None, decision.reason
        trail.decision = "allow" if decision.allowed else "deny"
        if not decision.allowed:
            raise ServiceFault(
                "AccessDeniedException",
                f"User: {call.principal.arn} is not authorized to perform: kms:{action} on resource: {arn}",
            )

    def decide(
        self,
        call: Call,
        action: str,
        arn: str,
        policy: str,
        grants: Sequence[GrantRecord] = (),
        *,
        context: Mapping[str, str] | None = None,
        pcrs: Mapping[int, bytes] | None = None,
        more: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Decision:
        """Evaluate a request under *policy*, with the caller's identity policies."""
        principal = call.principal
        known = conditions.build(
            principal=principal.arn,
            account=self.names.account,
            context=context,
            pcrs=pcrs,
            now=call.now,
            source_ip=call.source_ip,
            secure_transport=call.tls,
            action=action,
            more=more,
        )
        return evaluate(
            Request(principal.arn, action, arn, known),
            policy=parsed_policy(policy),
            grants=[_grant(grant) for grant in grants],
            identity_policies={principal.arn: [parsed_identity(text) for text in principal.policies]},
            account=self.names.account,
        )

    def usable(self, key: KeyRecord) -> None:
        """Refuse a key that is not enabled.

        Raises:
            ServiceFault: DisabledException or KMSInvalidStateException.
        """
        if key.state is KeyState.DISABLED:
            raise ServiceFault("DisabledException", f"{self.names.arn(key.id)} is disabled")
        self.not_pending(key)

    def not_pending(self, key: KeyRecord) -> None:
        """Refuse a key that waits for its deletion.

        Raises:
            ServiceFault: KMSInvalidStateException.
        """
        if key.state is KeyState.PENDING_DELETION:
            raise ServiceFault("KMSInvalidStateException", f"{self.names.arn(key.id)} is pending deletion")

    def context(self, call: Call, name: str = "EncryptionContext") -> Mapping[str, str]:
        """Return an encryption context, bounded as KMS does.

        Raises:
            ServiceFault: ValidationException.
        """
        context: Mapping[str, str] = call.get(name) or {}
        if sum(len(key) + len(value) for key, value in context.items()) > MAX_CONTEXT_CHARACTERS:
            raise invalid(f"{name} has more than {MAX_CONTEXT_CHARACTERS} characters")
        return context

    def released(self, recipient: Recipient | None, plaintext: bytes) -> dict[str, Any]:
        """Return the part of a response that holds a secret: for the attested recipient alone, if there is one."""
        if recipient is None:
            return {"Plaintext": plaintext}
        sealed = cms.wrap(recipient.key, plaintext, constructed=next(self._turns))
        return {"CiphertextForRecipient": sealed}


@lru_cache(maxsize=1_024)
def parsed_policy(text: str) -> KeyPolicy:
    """Return a key policy that was validated when it came in."""
    return KeyPolicy.parse(text)


@lru_cache(maxsize=256)
def parsed_identity(text: str) -> PolicyDocument:
    """Return an identity policy."""
    return PolicyDocument.parse(text)


def dry_run(call: Call) -> None:
    """End a request that was only asked about.

    Raises:
        ServiceFault: DryRunOperationException.
    """
    if call.get("DryRun"):
        raise ServiceFault("DryRunOperationException", "the request would have succeeded, but DryRun is set")


def grant_tokens(desk: Desk, call: Call) -> None:
    """Refuse tokens of no grant; a grant here is in force at once, so a token adds nothing.

    Raises:
        ServiceFault: InvalidGrantTokenException.
    """
    if not all(desk.store.holds_grant_token(token) for token in call.get("GrantTokens", ())):
        raise ServiceFault("InvalidGrantTokenException", "a grant token is not valid")


def _grant(record: GrantRecord) -> Grant:
    return Grant(
        id=record.id,
        grantee=record.grantee,
        operations=record.operations,
        context_equals=record.context_equals,
        context_subset=record.context_subset,
        retiring=record.retiring,
        name=record.name or "",
    )


Random = Callable[[int], bytes]


def random_bytes(size: int) -> bytes:
    """Return random bytes from the operating system."""
    return secrets.token_bytes(size)
