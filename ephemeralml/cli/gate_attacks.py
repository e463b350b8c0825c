"""The attacks on the attestation gate that `demo` shows refused, each against the running key server.

All are made with the host's own credentials: whoever holds those is who the
gate is for. Whether one was refused is read from what the server says.
"""

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml.cli.attacks import Attack, judge
from ephemeralml.deploy.local_keys import PARENT, KeyServer
from ephemeralml.keyrelease.aws import ALGORITHM
from ephemeralml.keyrelease.recipient import RecipientKey
from ephemeralml.keyrelease.uris import KeyUri
from ephemeralml.model.keys_file import parse_keys
from ephemeralml.model.package import KEYS_NAME

if TYPE_CHECKING:
    from ephemeralml.cli.local_stack import LocalStack
    from ephemeralml.crypto.data_key import WrappedKey

_REFUSALS = ("AccessDeniedException", "ValidationException")


def other_measurements(stack: "LocalStack", config: Path) -> Attack:
    """Boot a runtime whose configuration differs by a comment, and so in PCR0 and PCR2, from the same services."""
    state = stack.plan.state
    config.write_bytes(state.config.read_bytes() + b"# one byte more, and it is another enclave\n")
    words = ("enclave", "run", "--config", str(config), "--authority", str(state.authority))
    judged = judge(*words)
    code = judged.documents[0].get("code") if judged.documents else None
    return Attack(
        "the key for another measurement",
        judged.exit_code == 3 and code == "KEY_RELEASE_DENIED",
        str(code or f"exit {judged.exit_code}"),
        f"ephemeralml {' '.join(words)}",
    )


def no_attestation(keys: KeyServer, wrapped: "WrappedKey") -> Attack:
    """Ask for the key without any document."""
    return _asked("the key without attestation", keys, wrapped)


def edited_document(stack: "LocalStack", keys: KeyServer, wrapped: "WrappedKey") -> Attack:
    """Ask with a genuine document of this very enclave in which one bit is flipped."""
    document = bytearray(_document(stack))
    document[len(document) // 2] ^= 1
    return _asked("the key with an edited document", keys, wrapped, bytes(document))


def wrapped_key(package: Path) -> "WrappedKey":
    """Return the first wrapped key of a package."""
    return parse_keys((package / KEYS_NAME).read_bytes())[0]


def _document(stack: "LocalStack") -> bytes:
    """Return a genuine document with the runtime's registers, as its software module signs it."""
    from ephemeralml.enclave.attesters.opening import open_attester
    from ephemeralml.enclave.config import RuntimeConfig
    from ephemeralml.enclave.release import ReleaseDocuments

    state = stack.plan.state
    with closing(open_attester(RuntimeConfig.load(state.config), authority=state.authority)) as attester:
        receipt_key = bytes.fromhex(stack.receipt_public_key)
        return ReleaseDocuments(attester, receipt_key).attest_release(RecipientKey.generate().spki)


def _asked(name: str, keys: KeyServer, wrapped: "WrappedKey", document: bytes | None = None) -> Attack:
    from botocore.exceptions import BotoCoreError, ClientError

    recipient: dict[str, Any] = {}
    if document is not None:
        recipient = {"Recipient": {"KeyEncryptionAlgorithm": ALGORITHM, "AttestationDocument": document}}
    with closing(keys.client(PARENT)) as kms:
        try:
            kms.decrypt(
                KeyId=KeyUri.parse(wrapped.key).resource,
                CiphertextBlob=wrapped.ciphertext,
                EncryptionContext=dict(wrapped.context),
                **recipient,
            )
        except ClientError as error:
            code = str(error.response["Error"]["Code"])
            return Attack(name, code in _REFUSALS, code, "")
        except BotoCoreError as error:
            return Attack(name, False, type(error).__name__, "")
    return Attack(name, False, "released", "")
