"""The inputs of `ephemeralml verify`: options to values, files to bytes.

Everything that can be wrong with an option is found here, before the first
receipt is read.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from ephemeralml import clock
from ephemeralml.attestation.evidence import AppraisalTime, TimeBasis
from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import UsageError
from ephemeralml.errors import MalformedError
from ephemeralml.receipt.claims import SLOTS
from ephemeralml.receipt.model_policy import ManifestAtHand
from ephemeralml.receipt.policy import ReceiptPolicy, of_policy_file
from ephemeralml.receipt.rules import Profile

if TYPE_CHECKING:
    from ephemeralml.attestation.collateral import Collateral
    from ephemeralml.attestation.policy import Policy
    from ephemeralml.crypto.keys import PublicKey

MAX_KEY_FILE_BYTES = 16_384
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_POLICY_FILE_BYTES = 2 * 1024 * 1024
MAX_MANIFEST_FILE_BYTES = 8 * 1024 * 1024
MAX_RECEIPTS = 100_000

_KEY_HINT = "a key is 64 hex digits, with or without ed25519: before them, or a file with these or a PEM public key"
_PCR = re.compile(r"([0-9])=([0-9a-fA-F]{96})")


class PlatformName(Enum):
    """Names of `--expect-platform`."""

    NITRO_PCR = "nitro-pcr"
    TDX_MRTD_RTMR = "tdx-mrtd-rtmr"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Request:
    """What every receipt of one invocation is judged by."""

    demands: ReceiptPolicy
    profile: Profile
    at: AppraisalTime
    """How the evidence is judged; with basis GIVEN its instant is the present of the receipt too."""
    now: int
    public_key: bytes | None = None
    document: bytes | None = None
    document_name: str = ""
    policy: "Policy | None" = None
    collateral: "Collateral | None" = None
    manifest: ManifestAtHand | None = None
    replay_store: Path | None = None

    @property
    def time_basis(self) -> str:
        """What the present is, for a receipt without evidence."""
        return "given" if self.at.basis is TimeBasis.GIVEN else "now"


@dataclass(frozen=True, slots=True)
class Expectations:
    """The `--expect-…` options and their files, as given."""

    model: str | None
    model_hash: str | None
    request_hash: str | None
    request: Path | None
    response_hash: str | None
    response: Path | None
    platform: PlatformName | None
    pcrs: tuple[str, ...]
    nonce: str | None
    max_age: int | None
    allow_evaluation: bool

    def demands(self) -> ReceiptPolicy:
        """Return them as values.

        Raises:
            UsageError: One is not what it should be, two contradict, or a file is missing.
        """
        if self.max_age is not None and self.max_age <= 0:
            raise console.usage(f"--max-age {self.max_age} is not greater than zero")
        platform = self.platform if self.platform is not PlatformName.ANY else None
        return ReceiptPolicy(
            max_age=self.max_age,
            model_id=self.model,
            model_hash=hex_option("--expect-model-hash", self.model_hash, 32),
            request_hash=_body_hash("request", self.request_hash, self.request),
            response_hash=_body_hash("response", self.response_hash, self.response),
            platform=platform.value if platform is not None else None,
            nonce=hex_option("--nonce", self.nonce, None),
            registers=_registers(self.pcrs),
            allow_evaluation=self.allow_evaluation,
        )


def hex_option(name: str, text: str | None, size: int | None) -> bytes | None:
    """Return the bytes of a hex option, exactly *size* of them where that is given.

    Raises:
        UsageError: It is not hex, or of another length.
    """
    if text is None:
        return None
    if not re.fullmatch(r"([0-9a-fA-F]{2})+", text):
        raise console.usage(f"{name} {text[:80]!r} is not hex")
    raw = bytes.fromhex(text)
    if size is not None and len(raw) != size:
        raise console.usage(f"{name} has {len(raw)} bytes, {size} are needed")
    return raw


def _body_hash(what: str, text: str | None, path: Path | None) -> bytes | None:
    if text is not None and path is not None:
        raise console.usage(f"--expect-{what}-hash and --{what} are both given", hint="give one of them")
    if path is None:
        return hex_option(f"--expect-{what}-hash", text, 32)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise console.usage(f"cannot read the {what} {str(path)!r}: {error.strerror}") from error


def _registers(options: tuple[str, ...]) -> dict[str, bytes]:
    registers: dict[str, bytes] = {}
    for option in options:
        found = _PCR.fullmatch(option)
        slot = f"pcr{found[1]}" if found else ""
        if found is None or slot not in SLOTS:
            raise console.usage(
                f"--expect-pcr {option[:120]!r} is not N=HEX",
                hint="N is 0, 1, 2, 3, 4 or 8, HEX the 96 hex digits of the register",
            )
        if slot in registers:
            raise console.usage(f"--expect-pcr names register {found[1]} twice")
        registers[slot] = bytes.fromhex(found[2])
    return registers


def public_key(option: str, text: str) -> "PublicKey":
    """Return the Ed25519 key that an option gives: hex, ``ed25519:`` hex, or a file with that or PEM.

    Raises:
        UsageError: It is none of these, or not 32 bytes.
    """
    from ephemeralml.crypto.keys import PublicKey

    digits = text.removeprefix("ed25519:")
    if re.fullmatch(r"[0-9a-fA-F]{64}", digits):
        return PublicKey(bytes.fromhex(digits))
    try:
        data = console.read_file(Path(text), max_bytes=MAX_KEY_FILE_BYTES, what=f"key {option}")
    except MalformedError as error:
        raise console.usage(error.message) from error
    except UsageError:
        if re.fullmatch(r"[0-9a-fA-F]+", digits):
            raise console.usage(f"{option} has {len(digits) / 2:g} bytes, a key has 32") from None
        if text and (is_folder(Path(text)) or is_there(Path(text))):
            raise
        raise console.usage(
            f"{option} {text[:80]!r} is neither a key in hex nor a file that exists", hint=_KEY_HINT
        ) from None
    raw = _key_in_file(data)
    if raw is None:
        raise console.usage(f"{option} {text!r} holds no Ed25519 public key", hint=_KEY_HINT)
    return PublicKey(raw)


def _key_in_file(data: bytes) -> bytes | None:
    found = re.fullmatch(rb"(?:ed25519:)?([0-9a-fA-F]{64})\s*", data)
    if found:
        return bytes.fromhex(found[1].decode())
    if b"-----BEGIN PUBLIC KEY-----" not in data:
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes_raw() if isinstance(key, Ed25519PublicKey) else None


def time_option(text: str) -> AppraisalTime:
    """Return what `--at` says.

    Raises:
        UsageError: It is no basis and no time.
    """
    if text == "now":
        return AppraisalTime(TimeBasis.NOW, clock.now(), "clock")
    if text == "document":
        return AppraisalTime(TimeBasis.DOCUMENT, None, "document")
    try:
        return AppraisalTime(TimeBasis.GIVEN, clock.parse_rfc3339(text), "argument")
    except (ValueError, OverflowError) as error:
        raise console.usage(
            f"--at {text[:60]!r} is no time", hint="now, document, or RFC 3339 such as 2026-01-31T12:00:00Z"
        ) from error


def present(at: AppraisalTime) -> datetime:
    """Return the present: the given time if there is one, else the clock's."""
    return at.instant if at.instant is not None else clock.now()


def profile_option(name: str) -> Profile:
    """Return the profile.

    Raises:
        UsageError: No profile, or the one that this version does not have yet.
    """
    if name == "legacy":
        raise console.usage(
            "--profile legacy is not in this version",
            hint="strict and compat are; legacy receipts are a later addition",
        )
    try:
        return Profile(name)
    except ValueError as error:
        raise console.usage(f"--profile {name[:80]!r} is neither strict nor compat") from error


def load_policy(path: Path, key: str | None, now: datetime) -> "Policy":
    """Read the policy file; one that has expired is returned, and its row fails.

    Raises:
        EphemeralError: As `Policy.parse`.
    """
    from ephemeralml.attestation.policy import Policy

    data = console.read_file(path, max_bytes=MAX_POLICY_FILE_BYTES, what="policy")
    return Policy.parse(
        data, key=public_key("--policy-key", key) if key is not None else None, now=now, allow_expired=True
    )


def load_manifest(path: Path) -> ManifestAtHand:
    """Read a signed manifest.

    Raises:
        UsageError: The file is not there.
        MalformedError: It is no envelope around a manifest.
    """
    return ManifestAtHand.parse(console.read_file(path, max_bytes=MAX_MANIFEST_FILE_BYTES, what="manifest"))


def load_collateral(folder: Path) -> "Collateral":
    """Read a collateral folder.

    Raises:
        UsageError: There is no such folder.
        EphemeralError: As `collateral_folder.load_collateral`.
    """
    from ephemeralml.attestation import collateral_folder

    if not is_folder(folder):
        raise console.usage(f"--collateral {str(folder)!r} is not a folder")
    return collateral_folder.load_collateral(folder)


def with_policy(demands: ReceiptPolicy, policy: "Policy | None") -> ReceiptPolicy:
    """Return *demands* with the policy file's."""
    return of_policy_file(policy, demands) if policy is not None else demands


def with_manifest(demands: ReceiptPolicy, manifest: ManifestAtHand, policy: "Policy | None") -> ReceiptPolicy:
    """Return *demands* with the manifest's hash, and its signature judged where the policy names keys."""
    keys = policy.models.publisher_keys if policy is not None else ()
    proof = manifest.proof(keys) if keys else None
    return replace(demands, manifest_hash=manifest.payload_hash, publisher=proof)


def receipt_files(arguments: list[Path]) -> list[Path]:
    """Return the receipts that the arguments name; a folder stands for its *.cbor files, sorted, however deep.

    Raises:
        UsageError: A folder without receipts, or too many.
    """
    files: list[Path] = []
    for argument in arguments:
        if not is_folder(argument):
            files.append(argument)
            continue
        # What cannot be read, a dangling link for one, is an error and never passed over.
        found = sorted(path for path in argument.rglob("*.cbor") if not is_folder(path))
        if not found:
            raise console.usage(f"the folder {str(argument)!r} holds no *.cbor files")
        files.extend(found)
    if len(files) > MAX_RECEIPTS:
        raise console.usage(f"{len(files)} receipts at once, at most {MAX_RECEIPTS} are taken")
    return files


def is_folder(path: Path) -> bool:
    """Return whether *path* is a folder; what cannot even be a name is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """Return whether *path* is a file; what cannot even be a name is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_receipt(path: Path) -> bytes:
    """Read a receipt; one byte beyond the limit is kept, so that the SIZE check reports it.

    Raises:
        UsageError: It cannot be read.
    """
    from ephemeralml.receipt.claims import MAX_RECEIPT_BYTES

    try:
        with path.open("rb") as file:
            return file.read(MAX_RECEIPT_BYTES + 1)
    except OSError as error:
        raise console.usage(f"cannot read receipt {str(path)!r}: {error.strerror}") from error


def read_document(path: Path) -> bytes:
    """Read an evidence document.

    Raises:
        UsageError: It cannot be read.
        MalformedError: It is larger than any evidence.
    """
    try:
        return console.read_file(path, max_bytes=MAX_DOCUMENT_BYTES, what="evidence")
    except MalformedError as error:
        raise MalformedError(error.message, code="EVIDENCE_FORMAT_UNKNOWN", hint=error.hint) from error
