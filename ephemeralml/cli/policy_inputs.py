"""The inputs of `ephemeralml policy` and `ephemeralml attestation`: options to values, files to bytes."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from ephemeralml import clock
from ephemeralml.attestation.evidence import Format
from ephemeralml.attestation.model_rules import ModelEntry
from ephemeralml.attestation.nitro.policy import MINIMUM
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
        return _of_evidence(evidence, root, local=local)
    named = _root_option(root) if root is not None else None
    if measurements is not None:
        return _of_measurements(measurements, named, local=local)
    registers = _registers(pcrs)
    if registers:
        _require_enough(registers, "--pcr names")
    if not local:
        if root is not None:
            raise console.usage("--root is for a software TEE's root", hint="add --local")
        return Measured(Format.NITRO, registers)
    if named is None:
        raise console.usage("--local needs --root sha256:HEX, the fingerprint of the software TEE's root")
    return Measured(Format.LOCAL, registers, named)


def _of_evidence(path: Path, root: str | None, *, local: bool) -> Measured:
    """Return what an evidence document states; it names its root itself."""
    found = measurements_of_document(read_evidence(path))
    if local and found.format is not Format.LOCAL:
        raise console.usage("--local is given, and the evidence is not a software TEE's")
    if root is not None and _root_option(root) != found.root:
        raise console.usage("--root is not the root of the evidence", hint="leave it out: the document names its own")
    return found


def _of_measurements(path: Path, root: bytes | None, *, local: bool) -> Measured:
    """Return what a document of `enclave measure` or `eif describe` states.

    Registers of a software TEE make a policy for that software TEE and nothing
    else: hardware could never match them, and nobody should believe it would.
    """
    printed = measurements_of_json(console.read_file(path, max_bytes=MAX_MEASUREMENTS_BYTES, what="measurements"))
    _require_enough(printed.registers, f"{str(path)!r} has")
    software = printed.software
    if local and software is False:
        raise console.usage(
            f"--local is given, and {str(path)!r} was measured by hardware", hint="leave out --local and --root"
        )
    if not (local or software):
        if root is not None:
            raise console.usage("--root is for a software TEE's root", hint="add --local")
        return Measured(Format.NITRO, printed.registers)
    if root is not None and printed.root is not None and root != printed.root:
        raise console.usage(
            f"--root is another root than {str(path)!r} names", hint="leave out --root, or measure again"
        )
    root = root or printed.root
    if root is None:
        raise console.usage(
            f"{str(path)!r} is a software TEE's and does not name its root",
            hint="give --root sha256:HEX, or measure again: `ephemeralml enclave measure --authority DIR` names it",
        )
    return Measured(Format.LOCAL, printed.registers, root)


def _root_option(text: str) -> bytes:
    found = _ROOT.fullmatch(text)
    if found is None:
        raise console.usage(f"--root {text[:120]!r} is not sha256: and 64 lower-case hex digits")
    return bytes.fromhex(found[1])


def _require_enough(registers: Mapping[str, bytes], who: str) -> None:
    """Refuse too few registers to pin an image: any three others would do as well."""
    missing = [slot for slot in MINIMUM if slot not in registers]
    if not missing or ("pcr8" in registers and len(missing) == len(MINIMUM)):
        return
    have = ", ".join(sorted(registers)) or "none that is not zero"
    raise console.usage(
        f"pcr0, pcr1 and pcr2 are needed, and {who} {have}",
        hint=f"add {', '.join(missing)}; pcr8 alone accepts every image that one certificate signed",
    )


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
