"""The inputs of `ephemeralml policy` and `ephemeralml attestation`: options to values, files to bytes."""

import re
from datetime import datetime, timedelta
from pathlib import Path

from ephemeralml import clock
from ephemeralml.attestation.evidence import Format
from ephemeralml.attestation.model_rules import ModelEntry
from ephemeralml.attestation.policy import MAX_POLICY_BYTES, Policy, seal_policy
from ephemeralml.attestation.policy_render import (
    MAX_MEASUREMENTS_BYTES,
    Measured,
    PolicyDraft,
    measurements_of_document,
    measurements_of_json,
    render_policy,
)
from ephemeralml.cli import console
from ephemeralml.cli.key_files import read_public_key
from ephemeralml.crypto.keys import PrivateKey, PublicKey
from ephemeralml.errors import MalformedError
from ephemeralml.resources import bundled
from ephemeralml.semver import SemVer

MAX_EVIDENCE_BYTES = 4 * 1024 * 1024

_REGISTER = re.compile(r"([012348])=([0-9a-f]{96})")
_ROOT = re.compile(r"sha256:([0-9a-f]{64})")
_MODEL = re.compile(r"(?P<id>[^@=]{1,256})(?:@(?P<version>[^=]{1,128}))?(?:=(?P<hash>[0-9a-f]{64}))?")


def load_policy(path: Path, key: str | None, now: datetime, *, allow_expired: bool) -> Policy:
    """Read a policy file; with *key* its signature must be that key's.

    Raises:
        EphemeralError: As `Policy.parse`.
    """
    data = console.read_file(path, max_bytes=2 * MAX_POLICY_BYTES, what="policy")
    public = read_public_key(key) if key is not None else None
    return Policy.parse(data, key=public, now=now, allow_expired=allow_expired)


def sealed_policy(path: Path, key: PrivateKey, now: datetime) -> tuple[Policy, bytes]:
    """Read a policy's JSON and sign it; return the policy as a client reads it, and its envelope.

    Raises:
        EphemeralError: As `seal_policy`.
    """
    data = console.read_file(path, max_bytes=2 * MAX_POLICY_BYTES, what="policy")
    return seal_policy(data, key, now=now)


def read_evidence(path: Path) -> bytes:
    """Read an evidence document.

    Raises:
        UsageError: The file does not exist.
    """
    return console.read_file(path, max_bytes=MAX_EVIDENCE_BYTES, what="evidence")


def measured(
    *, measurements: Path | None, evidence: Path | None, pcrs: list[str], root: str | None, local: bool
) -> Measured:
    """Return what a new policy pins, from exactly one source.

    Raises:
        UsageError: No source or several, or an option that is not as it must be.
        EphemeralError: A file that does not say what it should.
    """
    given = [
        name for name, value in (("--measurements", measurements), ("--evidence", evidence), ("--pcr", pcrs)) if value
    ]
    if len(given) > 1:
        raise console.usage(f"{' and '.join(given)} are both given", hint="give one of them")
    if not given and not local:
        raise console.usage(
            "there is nothing to pin", hint="give --measurements, --evidence or --pcr N=HEX for the image you trust"
        )
    if evidence is not None:
        found = measurements_of_document(read_evidence(evidence))
        if local and found.format is not Format.LOCAL:
            raise console.usage("--local is given, and the evidence is not a software TEE's")
        return found
    if measurements is not None:
        data = console.read_file(measurements, max_bytes=MAX_MEASUREMENTS_BYTES, what="measurements")
        registers = measurements_of_json(data)
    else:
        registers = _registers(pcrs)
    if not local:
        if root is not None:
            raise console.usage("--root is for a software TEE's root", hint="add --local")
        return Measured(Format.NITRO, registers)
    found_root = _ROOT.fullmatch(root or "")
    if found_root is None:
        raise console.usage("--local needs --root sha256:HEX, the fingerprint of the software TEE's root")
    return Measured(Format.LOCAL, registers, bytes.fromhex(found_root[1]))


def model_entry(text: str) -> ModelEntry:
    """Read ``ID[@MIN_VERSION][=HASH]``.

    Raises:
        UsageError: *text* is no such thing.
    """
    found = _MODEL.fullmatch(text)
    if found is None:
        raise console.usage(
            f"--model {text[:120]!r} is not ID[@MIN_VERSION][=HASH]", hint="for instance minilm-l6-v2@1.0.0"
        )
    try:
        version = SemVer.parse(found["version"]) if found["version"] is not None else None
    except ValueError as error:
        raise console.usage(
            f"--model {text[:120]!r}: {error}", hint="write a version as 1.2.3 or 1.2.3-rc.1"
        ) from error
    digest = bytes.fromhex(found["hash"]) if found["hash"] is not None else None
    return ModelEntry(found["id"], version, digest, "sha256-manifest" if digest is not None else None)


def new_policy(
    measured: Measured,
    models: tuple[ModelEntry, ...],
    publisher_keys: tuple[PublicKey, ...],
    policy_id: str,
    version: int,
    name: str,
    valid_days: int,
) -> Policy:
    """Return the policy that the options of `policy init` make, from now on.

    Raises:
        UsageError: It would be refused, and why.
    """
    if not models and not publisher_keys:
        raise console.usage("the policy would accept any model", hint="give --model, --publisher-key or both")
    now = clock.now().replace(microsecond=0)
    until = now + timedelta(days=valid_days)
    draft = PolicyDraft(policy_id, version, now, until, measured, name, models, publisher_keys)
    try:
        data = render_policy(draft, bundled("templates", "policy.json").read_bytes())
    except MalformedError as error:
        raise console.usage(error.message.removeprefix("policy: "), hint=error.hint) from error
    return Policy.parse(data, now=now)


def _registers(options: list[str]) -> dict[str, bytes]:
    registers: dict[str, bytes] = {}
    for option in options:
        found = _REGISTER.fullmatch(option)
        if found is None:
            raise console.usage(
                f"--pcr {option[:120]!r} is not N=HEX", hint="N is 0, 1, 2, 3, 4 or 8, HEX its 96 lower-case hex digits"
            )
        if f"pcr{found[1]}" in registers:
            raise console.usage(f"--pcr names register {found[1]} twice")
        registers[f"pcr{found[1]}"] = bytes.fromhex(found[2])
    return registers
