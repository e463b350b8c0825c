"""What a KMS refuses, in our terms: the table of key-release.md section 1.

The client at the service and the one behind the relay read the same names, so
an operator meets the same error wherever the key was asked for.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from ephemeralml.errors import EphemeralError, RejectedError, UnavailableError


class Fault(StrEnum):
    """Codes of key release."""

    DENIED = "KEY_RELEASE_DENIED"
    DOCUMENT_REFUSED = "KEY_DOCUMENT_REFUSED"
    CIPHERTEXT_INVALID = "KEY_CIPHERTEXT_INVALID"
    REQUEST_REFUSED = "KEY_REQUEST_REFUSED"
    """A request without recipient that the service finds invalid; not in the specification's table."""
    RESPONSE_INVALID = "KEY_RESPONSE_INVALID"
    PLAINTEXT_RETURNED = "KEY_PLAINTEXT_RETURNED"
    UNAVAILABLE = "KEY_UNAVAILABLE"


class KeyRejectedError(RejectedError):
    """The service refused, or what it answered must not be used.

    Args:
        message: What is wrong.
        fault: Its code.
        kms_error: The service's own name for it, if it gave one.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, fault: Fault, kms_error: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, code=fault.value, hint=hint)
        self.kms_error = kms_error
        """The service's own name for the fault, or None."""


class KeyUnavailableError(UnavailableError):
    """The key, its service or the credentials for it are missing.

    Args:
        message: What is missing.
        kms_error: The service's own name for it, if it gave one.
        hint: What to do about it.
    """

    code = Fault.UNAVAILABLE.value
    """The specification's name for the fault."""

    def __init__(self, message: str, *, kms_error: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.kms_error = kms_error
        """The service's own name for the fault, or None."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that failed, as far as its explanation needs it."""

    action: str
    """``Decrypt``, ``Encrypt``, ``GenerateDataKey`` …"""
    key: str
    """The key's URI."""
    recipient: bool = False
    """Whether an attestation document went with it."""
    pcr0: bytes | None = None
    """The document's image register, where it could be read."""
    context: Mapping[str, str] = field(default_factory=dict)
    region: str = ""
    """Where it was sent, as far as that is known: the region it was signed for …"""
    endpoint: str = ""
    """… and the service's URL, without a path."""

    @property
    def place(self) -> str:
        """Where it was sent, as errors say it; empty where that is not known."""
        words = [f"at {self.endpoint}"] if self.endpoint else []
        return " ".join([*words, f"in {self.region}"] if self.region else words)


TRANSIENT = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "TooManyRequestsException",
        "RequestLimitExceeded",
        "KMSInternalException",
        "InternalFailure",
        "InternalServerError",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "DependencyTimeoutException",
        "KeyUnavailableException",
        "RequestTimeout",
    }
)
"""Errors that another try may cure."""

_CREDENTIALS = frozenset(
    {
        "ExpiredTokenException",
        "ExpiredToken",
        "RequestExpired",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "IncompleteSignatureException",
        "IncompleteSignature",
        "MissingAuthenticationTokenException",
        "MissingAuthenticationToken",
        "OptInRequired",
    }
)
_STATES = {
    "NotFoundException": (
        "does not exist",
        "check its name, the account of the credentials, the region and the endpoint",
    ),
    "DisabledException": ("is disabled", "an administrator can enable it: aws kms enable-key"),
    "KMSInvalidStateException": ("is in a state that forbids its use", "aws kms describe-key shows its state"),
    "InvalidKeyUsageException": ("is not a key for encryption and decryption", "a symmetric key is needed"),
}
_SIGNED_FOR = frozenset({"InvalidSignatureException", "SignatureDoesNotMatch"})
_CIPHERTEXT = frozenset({"InvalidCiphertextException", "IncorrectKeyException"})
NOT_CONFIGURED = "KeyNotConfigured"
"""What the host services answer for a key that their operator did not name; no KMS's name."""
_WIRE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def is_transient(name: str, status: int | None) -> bool:
    """Return whether another try may help against an error of this name and HTTP status."""
    return name in TRANSIENT or status == 429 or (status is not None and status >= 500)


def from_aws(name: str, asked: Asked, *, state: str | None = None) -> EphemeralError:
    """Return our error for one of AWS KMS's (key-release.md section 1).

    Args:
        name: The service's name for it.
        asked: What was asked for.
        state: The key's state, where it was looked up.
    """
    if name == "AccessDeniedException":
        return _explain(Fault.DENIED, asked, name)
    if name == "ValidationException":
        return _explain(Fault.DOCUMENT_REFUSED if asked.recipient else Fault.REQUEST_REFUSED, asked, name)
    if name in _CIPHERTEXT:
        return _explain(Fault.CIPHERTEXT_INVALID, asked, name)
    if name in _STATES:
        what, hint = _STATES[name]
        where = f" {asked.place}" if asked.place and name == "NotFoundException" else ""
        suffix = f" ({state})" if state else ""
        return KeyUnavailableError(f"the key {asked.key} {what}{where}{suffix}", kms_error=name, hint=hint)
    if name in _CREDENTIALS:
        return credentials_missing(asked, name)
    return KeyUnavailableError(f"the key service failed at {asked.action} with {asked.key}: {name}", kms_error=name)


def is_about_credentials(name: str) -> bool:
    """Return whether an error of this name is about who asks, not about what was asked for."""
    return name in _CREDENTIALS


def credentials_missing(asked: Asked, name: str | None = None) -> KeyUnavailableError:
    """Return the error for credentials that are absent, expired or refused."""
    detail = f" ({name})" if name else ""
    where = f" {asked.place}" if asked.place and name else ""
    hint = "check the credentials of this machine's role or profile, and its clock"
    if name in _SIGNED_FOR:
        hint = "is that the service's region and endpoint? else check the credentials of this machine and its clock"
    return KeyUnavailableError(
        f"no valid credentials for {asked.action} with {asked.key}{where}{detail}", kms_error=name, hint=hint
    )


def no_endpoint(key: str) -> KeyUnavailableError:
    """Return the error for a key of a server of one's own, where nothing says where that is."""
    return KeyUnavailableError(
        f"no endpoint for {key}",
        hint="give --kms-endpoint or set AWS_ENDPOINT_URL_KMS to where ephemeralml kms serve listens",
    )


def not_answering(asked: Asked, why: str) -> KeyUnavailableError:
    """Return the error for a service that was not reached, *why* in a word or two."""
    where = f" at {asked.endpoint}" if asked.endpoint else ""
    return KeyUnavailableError(
        f"the key service{where} did not answer {asked.action} with {asked.key}: {why}",
        hint="check the network and the endpoint",
    )


def response_invalid(what: str) -> KeyRejectedError:
    """Return the error for an answer that lacks something or contradicts the request."""
    return KeyRejectedError(f"the key service's answer must not be used: {what}", fault=Fault.RESPONSE_INVALID)


def plaintext_returned(asked: Asked) -> EphemeralError:
    """Return the error for a service that ignored the recipient and sent the key in the clear."""
    return _explain(Fault.PLAINTEXT_RETURNED, asked, None)


def wire_code(error: EphemeralError) -> str:
    """Return what the host services answer in ``error`` for a failed release (nitro-platform.md section 7)."""
    name = getattr(error, "kms_error", None) or getattr(error, "code", None)
    return name if isinstance(name, str) and _WIRE_NAME.fullmatch(name) else Fault.UNAVAILABLE.value


def from_wire(code: object, asked: Asked) -> EphemeralError:
    """Return the error for what the host services answered in ``error``: one of our codes, or AWS's name.

    The host is not trusted; a wrong reason is the worst it can give here.
    """
    if not isinstance(code, str) or _WIRE_NAME.fullmatch(code) is None:
        return KeyUnavailableError("the host services refused the key for a reason that does not parse")
    if code == NOT_CONFIGURED:
        return KeyUnavailableError(
            f"the host was not given the key {asked.key}",
            kms_error=code,
            hint=f"start host run with --key {asked.key}",
        )
    if code == Fault.UNAVAILABLE:
        return not_answering(asked, "the host services could not reach it")
    if code in set(Fault):
        return _explain(Fault(code), asked, None)
    return from_aws(code, asked)


def _explain(fault: Fault, asked: Asked, name: str | None) -> EphemeralError:
    hint: str | None = None
    match fault:
        case Fault.DENIED:
            message, hint = _denied(asked)
        case Fault.DOCUMENT_REFUSED:
            message = f"the key service refuses the attestation document for {asked.key}"
            hint = "is the document genuine, its certificates valid now, and its public key RSA?"
        case Fault.CIPHERTEXT_INVALID:
            message = f"wrong context, key or ciphertext for {asked.key}{_named(asked.context)}"
            hint = "was the package wrapped for another model, version or key? model rewrap makes a new entry"
        case Fault.REQUEST_REFUSED:
            message = f"the key service finds {asked.action} with {asked.key} invalid"
        case Fault.RESPONSE_INVALID:
            message = f"the key service's answer for {asked.key} must not be used"
        case Fault.PLAINTEXT_RETURNED:
            message = f"the key service returned the data key of {asked.key} in the clear, ignoring the recipient"
            hint = "this service does not enforce attestation; rewrap the model's key under one that does"
        case Fault.UNAVAILABLE:
            return not_answering(asked, "unavailable")
        case _:
            assert_never(fault)
    return KeyRejectedError(message, fault=fault, kms_error=name, hint=hint)


def _denied(asked: Asked) -> tuple[str, str]:
    """The refusals A2, A3, A7 and A8 of key-release.md section 3 look alike; what was sent tells them apart."""
    if asked.action != "Decrypt":
        return f"these credentials may not do {asked.action} with {asked.key}", "check the key policy's statements"
    if not asked.recipient:
        return (
            f"{asked.key} is not released without an attestation document",
            "its policy releases it to measured workloads only; give the data key with --dek, or ask its owner",
        )
    if asked.pcr0 is not None and not any(asked.pcr0):
        return (
            f"{asked.key} is not released to a debug enclave (its PCR0 is zero)",
            "start the enclave without debug mode",
        )
    image = f" with PCR0 {asked.pcr0.hex()}" if asked.pcr0 is not None else ""
    return (
        f"the policy of {asked.key} does not release it to this workload{image}{_named(asked.context)}",
        "compare the key policy's image, context and role with what was sent: kms policy simulate",
    )


def _named(context: Mapping[str, str]) -> str:
    model, version = context.get("model_id"), context.get("version")
    return f" for {model[:128]!a} {version[:64]!a}" if model and version else ""
