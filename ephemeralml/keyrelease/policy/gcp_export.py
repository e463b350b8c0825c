"""What lint reads of Google Cloud: provider, key and bindings, exported with `gcloud … --format json`.

One file: ``{"provider": …, "key": …, "key_policy": …, "ring_policy": …,
"project_policy": …, "client_audiences": […]}``.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError

MAX_EXPORT_BYTES = 4 * 1024 * 1024
_MEMBERS = {"provider", "key", "key_policy", "ring_policy", "project_policy", "client_audiences"}


@dataclass(frozen=True, slots=True)
class Binding:
    """One role of some members, on the key, its ring or its project."""

    level: str
    """``key``, ``ring`` or ``project``."""
    role: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Export:
    """Everything that decides who may decrypt."""

    name: str
    """The provider's resource name."""
    issuer: str
    audiences: tuple[str, ...]
    mapping: Mapping[str, str]
    condition: str | None
    bindings: tuple[Binding, ...]
    protection: str | None
    client_audiences: tuple[str, ...]
    missing: tuple[str, ...]
    """Bindings that were not exported."""

    @property
    def principals(self) -> tuple[str, str]:
        """How the principals of the provider's pool begin, sets and single ones."""
        pool = self.name.rpartition("/providers/")[0]
        return f"principalSet://iam.googleapis.com/{pool}/", f"principal://iam.googleapis.com/{pool}/"

    def decrypting(self) -> Iterator[tuple[Binding, str]]:
        """Return every member that a role lets decrypt, by roles known here."""
        for binding in self.bindings:
            if binding.role in DECRYPTING:
                yield from ((binding, member) for member in binding.members)


DECRYPTING = frozenset(
    {
        "roles/cloudkms.cryptoKeyDecrypter",
        "roles/cloudkms.cryptoKeyDecrypterViaDelegation",
        "roles/cloudkms.cryptoKeyEncrypterDecrypter",
        "roles/cloudkms.cryptoKeyEncrypterDecrypterViaDelegation",
        "roles/cloudkms.cryptoOperator",
        "roles/owner",
        "roles/editor",
    }
)
"""Predefined roles that decrypt, or count as if they did."""


def parse_export(data: bytes) -> Export:
    """Read an export.

    Raises:
        MalformedError: It is none.
    """
    document = strict_json.parse_object(data, max_bytes=MAX_EXPORT_BYTES)
    if unknown := sorted(set(document) - _MEMBERS):
        raise _bad(f"unknown member {unknown[0][:64]!a}")
    provider, key = _object(document, "provider"), _object(document, "key")
    if not provider:
        raise _bad("provider is missing")
    oidc, template = _object(provider, "oidc"), _object(key, "versionTemplate")
    levels = {"key": "key_policy", "ring": "ring_policy", "project": "project_policy"}
    mapping = _object(provider, "attributeMapping")
    if any(type(value) is not str for value in mapping.values()):
        raise _bad("attributeMapping is not of texts")
    return Export(
        name=_text(provider, "name") or "",
        issuer=_text(oidc, "issuerUri") or "",
        audiences=_texts(oidc, "allowedAudiences"),
        mapping=mapping,
        condition=_text(provider, "attributeCondition"),
        bindings=tuple(
            binding
            for level, name in levels.items()
            if name in document
            for binding in _bindings(document, name, level)
        ),
        protection=_text(template, "protectionLevel"),
        client_audiences=_texts(document, "client_audiences"),
        missing=tuple(name for name in levels.values() if name not in document),
    )


def _bindings(document: Mapping[str, Any], name: str, level: str) -> Iterator[Binding]:
    items = _object(document, name).get("bindings", [])
    if type(items) is not list:
        raise _bad(f"{name}.bindings is no list")
    for item in items:
        if type(item) is not dict or type(item.get("role")) is not str:
            raise _bad(f"{name} has a binding without role")
        yield Binding(level, item["role"], _texts(item, "members"))


def claims_of(data: bytes) -> dict[str, Any]:
    """Return a token's claims: of a JSON file, or of a JWT whose signature is not looked at here.

    Raises:
        MalformedError: Neither.
    """
    parts = data.strip().split(b".")
    if len(parts) == 3 and not data.lstrip().startswith(b"{"):
        try:
            body = base64.b64decode(parts[1] + b"=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedError("token: its payload is not base64url") from error
        return strict_json.parse_object(body, max_bytes=MAX_EXPORT_BYTES)
    return strict_json.parse_object(data, max_bytes=MAX_EXPORT_BYTES)


def _object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name, {})
    if type(value) is not dict:
        raise _bad(f"{name} is not an object")
    return value


def _text(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if type(value) not in (str, type(None)):
        raise _bad(f"{name} is no text")
    return value


def _texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name, [])
    if type(value) is not list or any(type(item) is not str for item in value):
        raise _bad(f"{name} is no list of texts")
    return tuple(value)


def _bad(message: str) -> MalformedError:
    return MalformedError(f"export: {message}", hint="docs/key-policy.md shows how to make one")
