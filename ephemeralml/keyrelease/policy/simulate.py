"""Predict what a key answers to whom (key-release.md sections 3 and 5)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from types import MappingProxyType

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.policy import conditions
from ephemeralml.keyrelease.policy.cast import Cast
from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument
from ephemeralml.keyrelease.policy.evaluate import Grant, Request, evaluate
from ephemeralml.keyrelease.policy.reach import DECRYPT, PUT_POLICY, is_context, reaching, registers
from ephemeralml.keyrelease.policy.tuples import ReleaseTuple


class Recipient(Enum):
    """What a Decrypt brings as its attestation document."""

    NONE = "none"
    DOCUMENT = "document"
    """Genuine, with an RSA key."""
    RANDOM = "random bytes"
    FLIPPED = "a flipped bit"
    NO_KEY = "no RSA key"


class Ciphertext(Enum):
    """Whether the ciphertext belongs to the key and the context of the request."""

    FITS = "fits"
    OTHER_CONTEXT = "other context"
    OTHER_KEY = "other key"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the KMS."""

    action: str
    recipient: Recipient = Recipient.NONE
    pcrs: Mapping[int, bytes] | None = None
    ciphertext: Ciphertext = Ciphertext.FITS
    context: Mapping[str, str] | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class World:
    """The key and everything that decides beside it."""

    policy: KeyPolicy
    key: str
    """The key's ARN."""
    account: str
    now: datetime
    grants: tuple[Grant, ...] = ()
    identity_policies: Mapping[str, Sequence[PolicyDocument]] = field(default_factory=lambda: MappingProxyType({}))
    scps: tuple[PolicyDocument, ...] = ()
    source_ip: str | None = None
    secure_transport: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """What the KMS says."""

    name: str
    """``success`` or AWS's name of the error."""
    statement: str
    """What decided; empty where nothing allowed it."""
    reason: str

    @property
    def allowed(self) -> bool:
        """Whether the caller has what it asked for."""
        return self.name == "success"


def predict(call: Call, principal: str, world: World) -> Answer:
    """Return the answer to *call*: the document is judged first, then the policy, then the ciphertext."""
    if call.recipient in (Recipient.RANDOM, Recipient.FLIPPED, Recipient.NO_KEY):
        return Answer(
            "ValidationException", "", f"the document is refused before the policy is read: {call.recipient.value}"
        )
    attested = call.recipient is Recipient.DOCUMENT
    carried = conditions.build(
        principal=principal,
        account=world.account,
        context=call.context,
        pcrs=call.pcrs if attested else None,
        now=call.at or world.now,
        source_ip=world.source_ip,
        secure_transport=world.secure_transport,
        action=call.action,
    )
    decision = evaluate(
        Request(principal, call.action, world.key, carried),
        policy=world.policy,
        grants=world.grants,
        identity_policies=world.identity_policies,
        scps=world.scps,
        account=world.account,
    )
    if not decision.allowed:
        return Answer("AccessDeniedException", decision.statement, decision.reason)
    match call.ciphertext:
        case Ciphertext.OTHER_KEY:
            return Answer("IncorrectKeyException", decision.statement, "the ciphertext is of another key")
        case Ciphertext.OTHER_CONTEXT:
            return Answer(
                "InvalidCiphertextException", decision.statement, "the ciphertext was made under another context"
            )
        case Ciphertext.FITS:
            return Answer("success", decision.statement, decision.reason)


ROWS = (
    *(f"A{number}" for number in range(1, 11)),
    *("ReEncryptFrom", "CreateGrant", "PutKeyPolicy", "AfterExpiry"),
)
"""The requests of the matrix."""


def calls(one: ReleaseTuple, context: Mapping[str, str], ends: datetime | None) -> dict[str, Call]:
    """Return the matrix's requests for one image."""
    # An image that is not pinned itself has registers all the same: only a debug launch has zeros.
    right = {index: bytes(48) for index in range(16)} | dict.fromkeys((0, 1, 2), b"\x5a" * 48) | dict(one.registers)
    wrong = right | {index: bytes(byte ^ 0xA5 for byte in right[index]) for index in {0, 1, 2} | set(one.registers)}
    debug = right | dict.fromkeys((0, 1, 2), bytes(48))
    good = Call(DECRYPT, Recipient.DOCUMENT, right, Ciphertext.FITS, context)
    return {
        "A1": good,
        "A2": replace(good, pcrs=wrong),
        "A3": replace(good, recipient=Recipient.NONE, pcrs=None),
        "A4": replace(good, recipient=Recipient.RANDOM),
        "A5": replace(good, recipient=Recipient.FLIPPED),
        "A6": good,
        "A7": replace(good, pcrs=debug),
        "A8": replace(good, ciphertext=Ciphertext.OTHER_CONTEXT, context={"model_id": "another-model"}),
        "A9": replace(good, recipient=Recipient.NO_KEY),
        "A10": replace(good, ciphertext=Ciphertext.OTHER_KEY),
        "ReEncryptFrom": Call("kms:ReEncryptFrom", context=context),
        "CreateGrant": Call("kms:CreateGrant"),
        "PutKeyPolicy": Call(PUT_POLICY),
        "AfterExpiry": replace(good, at=ends + timedelta(seconds=1) if ends is not None else None),
    }


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer of the matrix beside what it should be."""

    image: str
    who: str
    principal: str
    request: str
    answer: Answer
    expected: bool | None
    """None: either is fine."""

    @property
    def differs(self) -> bool:
        """Whether it is not what a safe policy gives."""
        return self.expected is not None and self.expected is not self.answer.allowed


Expectation = Mapping[str, Mapping[str, bool | None]]
"""By caller and request; what is missing is as `default_expectation` says."""


def default_expectation(who: str, request: str, *, ends: bool) -> bool | None:
    """Return what a safe policy answers: None where it may do either.

    Identity policies may be left to change the policy (`--delegate-admin`), and
    a grantee may bring a listed image's document: neither opens the key.
    """
    match who, request:
        case "parent", "A1" | "A6":
            return True
        case "parent", "AfterExpiry":
            return False if ends else None
        case "administrator", "PutKeyPolicy":
            return True
        case "root" | "iam-role", "PutKeyPolicy":
            return None
        case "grantee", "A1" | "A6" | "AfterExpiry":
            return None
        case _:
            return False


def simulate(
    world: World, cast: Cast, tuples: Sequence[ReleaseTuple], *, matrix: Expectation | None = None
) -> Iterator[Cell]:
    """Return the whole matrix, image by image.

    The caller with ``kms:*`` in an identity policy and the one with a grant of
    every operation are added to *world*: they show what a Deny is for.
    """
    peopled = cast.into(world.identity_policies, world.grants)
    world = replace(world, identity_policies=peopled[0], grants=peopled[1])
    wanted = matrix or {}
    for one in tuples:
        ends = one.until or _end_of(world.policy, one)
        for request, call in calls(one, context_for(world.policy, one), ends).items():
            for who, principal in cast.people().items():
                default = default_expectation(who, request, ends=ends is not None)
                expected = wanted.get(who, {}).get(request, default)
                yield Cell(one.name, who, principal, request, predict(call, principal, world), expected)


def _releasing(policy: KeyPolicy, one: ReleaseTuple) -> list[int]:
    """Return the places of the Allows of Decrypt whose registers are the image's."""
    held = {index: value.hex() for index, value in one.registers.items()}
    found = []
    for place, statement in enumerate(policy.statements):
        release = registers(statement) if statement in reaching(policy, DECRYPT) else {}
        if release and all(held.get(index) in listed for index, listed in release.items()):
            found.append(place)
    return found


def _end_of(policy: KeyPolicy, one: ReleaseTuple) -> datetime | None:
    from ephemeralml import clock

    for place in _releasing(policy, one):
        for clause in policy.statements[place].clauses:
            if clause.operator.name.startswith("DateLess") and clause.values:
                try:
                    return clock.parse_rfc3339(clause.values[0])
                except ValueError:
                    return None
    return None


def context_for(policy: KeyPolicy, one: ReleaseTuple) -> dict[str, str]:
    """Return an encryption context that the image's Release statement asks for."""
    found: dict[str, str] = {}
    places = _releasing(policy, one)
    for clause in policy.statements[places[0]].clauses if places else ():
        if is_context(clause.key):
            name = clause.key.split(":", 2)[2]
            fixed = clause.operator.fixes_text and bool(clause.values)
            found.setdefault(name, clause.values[0].replace("*", "x").replace("?", "x") if fixed else "1.0.0")
    return found or {"model_id": "model", "version": "1.0.0"}


def parse_matrix(document: object) -> Expectation:
    """Read a `--matrix` file: by caller and request ``allow``, ``deny`` or ``either``.

    Raises:
        MalformedError: It is none.
    """
    answers: dict[object, bool | None] = {"allow": True, "deny": False, "either": None}
    if not isinstance(document, dict):
        raise MalformedError("matrix: not an object")
    read: dict[str, dict[str, bool | None]] = {}
    for who, row in document.items():
        if who not in Cast.ROLES or not isinstance(row, dict):
            raise MalformedError(f"matrix: {str(who)[:64]!a} is none of {', '.join(Cast.ROLES)}, or has no object")
        for request, answer in row.items():
            if request not in ROWS or type(answer) is not str or answer not in answers:
                raise MalformedError(
                    f"matrix: {who}.{str(request)[:64]!a} is not one of the requests with allow, deny or either"
                )
            read.setdefault(who, {})[request] = answers[answer]
    return read
