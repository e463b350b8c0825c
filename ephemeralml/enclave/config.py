"""The measured configuration: one TOML file that is part of the measurement.

Whatever decides whose models run, who may call, what is signed and how much is
accepted stands here and nowhere else (serving section 1). What the host adds,
where packages lie and where a software authority lives, comes as arguments and
can only make the boot fail.
"""

import fnmatch
import hashlib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError, field_validator

from ephemeralml import resources
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.keyrelease.uris import KeyUri
from ephemeralml.semver import SemVer
from ephemeralml.transport.address import Address, Scheme

SCHEMA = "ephemeralml.enclave/1"
MAX_CONFIG_BYTES = 262_144
MIB = 1 << 20
_PACKAGE_NAME = re.compile(r"(?!blobs$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEARTBEAT_PORT, _FIRST_CONSOLE_PORT = 9_000, 10_000
_HINT = "`ephemeralml enclave init` writes a valid one; docs/runtime.md lists the keys"

_Label = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    """A table of the file: unknown keys and lenient types are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _listed(minimum: int, maximum: int) -> object:
    """Bounds of a TOML array that is held as a tuple."""
    return Field(min_length=minimum, max_length=maximum, strict=False)


class AllowedModel(_Section):
    """Which models may be served, by id, and from which version on."""

    id: _Label
    """A model id, or a glob over ids (``minilm-*``)."""
    min_version: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    """The oldest SemVer version; an older package is a rollback. None sets no bound."""

    @field_validator("min_version")
    @classmethod
    def _version_parses(cls, value: str | None) -> str | None:
        if value is not None:
            SemVer.parse(value)
        return value

    @property
    def minimum(self) -> SemVer | None:
        """`min_version`, parsed."""
        return None if self.min_version is None else SemVer.parse(self.min_version)

    def matches(self, model_id: str) -> bool:
        """Return whether *model_id* is one of these, case and all."""
        return fnmatch.fnmatchcase(model_id, self.id)


def _older(one: SemVer | None, other: SemVer | None) -> bool:
    return other is not None and (one is None or one < other)


class ModelRules(_Section):
    """Whose models, and which of them."""

    publisher_keys: Annotated[tuple[str, ...], _listed(1, 64)]
    """``ed25519:HEX`` of each publisher."""
    allow: Annotated[tuple[AllowedModel, ...], _listed(1, 256)]
    allow_plaintext: bool = False
    """Whether packages of suite ``none`` may be served."""
    aliases: dict[_Label, _Label] = Field(default_factory=dict, max_length=256)
    """Further names for a model: alias to id or ``id@version``."""

    @field_validator("publisher_keys")
    @classmethod
    def _keys_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                PublicKey.parse(text)
            except MalformedError as error:
                raise ValueError(error.message) from error
        return value

    @property
    def keys(self) -> tuple[PublicKey, ...]:
        """The publisher keys, parsed."""
        return tuple(PublicKey.parse(text) for text in self.publisher_keys)

    def rule_for(self, model_id: str) -> AllowedModel | None:
        """Return the rule for *model_id*, or None: of several that match, the one with the highest minimum.

        So a wildcard that stands before a model's own rule lowers nothing.
        """
        found: AllowedModel | None = None
        for rule in self.allow:
            if rule.matches(model_id) and (found is None or _older(found.minimum, rule.minimum)):
                found = rule
        return found


class KeyRules(_Section):
    """Which keys may open a package (model-package section 1, key-release section 1)."""

    uris: Annotated[tuple[str, ...], _listed(1, 16)]
    """The exact URIs; an entry of ``keys.json`` under any other key is not tried."""
    bind_manifest: bool = False
    """Whether a wrapped key's context must name the manifest's digest, and so one build of one version."""

    @field_validator("uris")
    @classmethod
    def _uris_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                KeyUri.parse(text)
            except MalformedError as error:
                raise ValueError(error.message) from error
        if len(set(value)) != len(value):
            raise ValueError("a key is named twice")
        return value


class ServiceRules(_Section):
    """Where packages and wrapped keys come from: the host's services (nitro-platform section 7).

    Nothing that stands here is trusted with anything; it can delay or break a boot.
    """

    address: _Label
    """``vsock://3:8001`` in an enclave, ``unix:///path`` or ``tcp://host:port`` elsewhere."""
    packages: Annotated[tuple[str, ...], _listed(1, 64)] = ("",)
    """The packages' names there; the empty one is the only package of a host that names none."""
    stall_seconds: float = Field(default=30.0, gt=0, le=600, strict=False)
    """Without a byte from the host for so long, the boot fails."""
    total_seconds: float = Field(default=900.0, gt=0, le=86_400, strict=False)
    """All that the host is asked for during the boot, together."""

    @field_validator("address")
    @classmethod
    def _address_parses(cls, value: str) -> str:
        try:
            address = Address.parse(value)
        except MalformedError as error:
            raise ValueError(error.message) from error
        if address.scheme not in (Scheme.VSOCK, Scheme.UNIX, Scheme.TCP):
            raise ValueError("write vsock://CID:PORT, unix:///PATH or tcp://HOST:PORT")
        if address.scheme is Scheme.VSOCK and (address.port == _HEARTBEAT_PORT or address.port >= _FIRST_CONSOLE_PORT):
            raise ValueError(f"vsock port {address.port} is the platform's own")
        return value

    @field_validator("packages")
    @classmethod
    def _names_are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name and not _PACKAGE_NAME.fullmatch(name):
                raise ValueError("a package's name is letters, digits, '.', '_' and '-', and not 'blobs'")
        if len(set(value)) != len(value):
            raise ValueError("a package is named twice")
        return value


class Limits(_Section):
    """What one peer and all peers together may use (channel sections 2, 4 and 7)."""

    max_connections: int = Field(default=1_024, ge=1, le=65_536)
    handshake_seconds: float = Field(default=10.0, gt=0, le=10, strict=False)
    idle_seconds: int = Field(default=300, ge=1, le=300)
    session_seconds: float = Field(default=3_600.0, gt=0, le=3_600, strict=False)
    stall_seconds: float = Field(default=60.0, gt=0, le=600, strict=False)
    """A peer that takes none of its pending bytes for so long is cut off."""
    drain_seconds: float = Field(default=30.0, gt=0, le=600, strict=False)
    """How long a stopping runtime waits for requests in flight."""
    max_inflight: int = Field(default=32, ge=1, le=1_024)
    max_record_bytes: int = Field(default=MIB, ge=1_024, le=MIB)
    max_body_bytes: int = Field(default=16 * MIB, ge=1, le=64 * MIB)
    write_buffer_bytes: int = Field(default=4 * MIB, ge=1_024, le=4 * MIB)
    total_body_bytes: int = Field(default=256 * MIB, ge=1, le=256 * MIB)
    total_write_bytes: int = Field(default=256 * MIB, ge=1, le=256 * MIB)
    evidence_at_once: int = Field(default=8, ge=1, le=64)
    evidence_per_second: float = Field(default=50.0, gt=0, le=10_000, strict=False)
    queue_requests: int = Field(default=256, ge=1, le=65_536)
    """Requests that may wait for one model; the next is 429."""
    max_inputs: int = Field(default=2_048, ge=1, le=65_536)
    """Texts in one embedding request."""
    max_text_bytes: int = Field(default=MIB, ge=1, le=16 * MIB)
    """UTF-8 bytes of one text; a tokenizer reads all of it before it cuts."""
    canary_seconds: float = Field(default=30.0, gt=0, le=600, strict=False)
    """How long the known-answer request may take at boot."""


class EngineRules(_Section):
    """How inference runs."""

    threads: int = Field(default=2, ge=1, le=256)
    """CPU threads of one engine."""


class RuntimeConfig(_Section):
    """The whole file.

    `digest` is what the channel identity states, and for a software TEE the
    bytes behind it are part of the registers.
    """

    schema_name: Literal["ephemeralml.enclave/1"] = Field(alias="schema")
    attester: Literal["nsm", "local"]
    """``nsm`` is the Nitro Secure Module; ``local`` the software TEE."""
    security_mode: Literal["production", "evaluation"]
    issuer: _Label
    """The receipts' ``iss``."""
    policy_version: _Label
    """The receipts' ``policy_version``, a label."""
    listen: Annotated[tuple[_Label, ...], _listed(1, 16)]
    """``tcp://host:port``, ``unix:///path`` or ``vsock://any:port``."""
    clients: Annotated[tuple[_Digest, ...], _listed(0, 4_096)] = ()
    """SHA-256 of each bearer token that may call; empty lets every verified channel call."""
    models: ModelRules
    keys: KeyRules | None = None
    """Needed for encrypted packages; without it no key is asked for."""
    services: ServiceRules | None = None
    """Needed where the runtime has no package folders of its own, and for key release."""
    limits: Limits = Field(default_factory=Limits)
    engine: EngineRules = Field(default_factory=EngineRules)

    _source: bytes = PrivateAttr(default=b"")

    @field_validator("issuer", "policy_version")
    @classmethod
    def _label_bytes(cls, value: str) -> str:
        if len(value.encode()) > 256:
            raise ValueError("at most 256 bytes of UTF-8")
        return value

    @classmethod
    def parse(cls, source: bytes) -> Self:
        """Read the file's bytes.

        Raises:
            MalformedError: Not TOML, an unknown key, a missing one, or a value
                that its rule refuses; the message names the key.
        """
        if len(source) > MAX_CONFIG_BYTES:
            raise MalformedError(f"a configuration of {len(source)} bytes, at most {MAX_CONFIG_BYTES} are allowed")
        try:
            document = tomllib.loads(source.decode())
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise MalformedError(f"the configuration is not TOML: {error}", hint=_HINT) from error
        try:
            config = cls.model_validate(document)
        except ValidationError as error:
            raise _named(error) from error
        config._source = source  # noqa: SLF001 - pydantic's private attribute, set where it is made
        return config

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file at *path*.

        Raises:
            UnavailableError: It cannot be read.
            MalformedError: As `parse`.
        """
        try:
            with path.open("rb") as file:
                source = file.read(MAX_CONFIG_BYTES + 1)
        except OSError as error:
            raise UnavailableError(
                f"cannot read the configuration {path}: {error.strerror}",
                hint="name the measured file with --config; `ephemeralml enclave init` makes one",
            ) from error
        return cls.parse(source)

    @property
    def source(self) -> bytes:
        """The file's exact bytes, as they were measured."""
        return self._source

    @property
    def digest(self) -> bytes:
        """SHA-256 of the file's bytes."""
        return hashlib.sha256(self._source).digest()


def _named(error: ValidationError) -> MalformedError:
    """Say which key is wrong, without its value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        message = f"unknown key {key!a} in the configuration"
    elif first["type"] == "missing":
        message = f"the configuration lacks {key!a}"
    else:
        message = f"{key!a} in the configuration: {_own_words(first['msg'])}"
    return MalformedError(message, code="CONFIG_INVALID", hint=_HINT)


def _own_words(message: str) -> str:
    """Return pydantic's message as the rest of a sentence: without its prefix for errors of our own."""
    text = message.removeprefix("Value error, ")[:200]
    return text[:1].lower() + text[1:]


def render(  # noqa: PLR0913 - one per value of the template
    *,
    attester: str,
    security_mode: str,
    listen: str,
    publisher_key: PublicKey,
    model_id: str,
    allow_plaintext: bool,
    issuer: str = "ephemeralml",
    policy_version: str = "local",
    key_uris: Sequence[str] = (),
    bind_manifest: bool = False,
    services: str | None = None,
    packages: Sequence[str] = (),
) -> bytes:
    """Return ``templates/enclave.toml`` filled in for one model of one publisher.

    Args:
        attester: ``local`` or ``nsm``.
        security_mode: ``production`` or ``evaluation``.
        listen: The runtime's address.
        publisher_key: Who must have signed.
        model_id: The model, or a glob.
        allow_plaintext: Whether packages of suite ``none`` may run.
        issuer: A label of receipts.
        policy_version: Another.
        key_uris: The keys that may open packages; none leaves ``[keys]`` a comment.
        bind_manifest: Whether their contexts must name the manifest.
        services: The host services' address; None leaves ``[services]`` a comment.
        packages: The packages' names there; none is the one without a name.
    """
    template = Template(resources.bundled("templates", "enclave.toml").read_text(encoding="utf-8"))
    text = template.substitute(
        attester=_toml(attester),
        security_mode=_toml(security_mode),
        listen=_toml(listen),
        publisher_key=_toml(str(publisher_key)),
        model_id=_toml(model_id),
        allow_plaintext="true" if allow_plaintext else "false",
        issuer=_toml(issuer),
        policy_version=_toml(policy_version),
        keys=_keys_table(key_uris, bind_manifest=bind_manifest),
        services=_services_table(services, packages),
    )
    return text.encode()


def _keys_table(uris: Sequence[str], *, bind_manifest: bool) -> str:
    bound = f"bind_manifest = {'true' if bind_manifest else 'false'}"
    if not uris:
        return f'# [keys]\n# uris = ["aws-kms:arn:aws:kms:…"]\n# {bound}'
    return f"[keys]\nuris = [{', '.join(map(_toml, uris))}]\n{bound}"


def _services_table(address: str | None, packages: Sequence[str]) -> str:
    if address is None:
        return '# [services]\n# address = "vsock://3:8001"\n# packages = ["NAME"]'
    named = f"packages = [{', '.join(map(_toml, packages))}]" if packages else '# packages = ["NAME"]'
    return f"[services]\naddress = {_toml(address)}\n{named}"


def _toml(text: str) -> str:
    """Return *text* as a TOML basic string."""
    escaped = "".join(
        character if character.isprintable() and character not in '"\\' else f"\\U{ord(character):08X}"
        for character in text
    )
    return f'"{escaped}"'
