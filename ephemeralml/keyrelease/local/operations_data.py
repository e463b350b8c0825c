"""Operations on data: encrypt, decrypt, make data keys and random bytes."""

from collections.abc import Mapping
from typing import Any

from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.keyrelease.local import ciphertext as envelope
from ephemeralml.keyrelease.local.call import Call
from ephemeralml.keyrelease.local.ciphertext import Ciphertext
from ephemeralml.keyrelease.local.desk import Desk, Recipient, dry_run, grant_tokens, random_bytes
from ephemeralml.keyrelease.local.faults import ServiceFault, invalid
from ephemeralml.keyrelease.local.records import KeyRecord

SYMMETRIC = "SYMMETRIC_DEFAULT"
_DATA_KEY_BYTES = {"AES_256": 32, "AES_128": 16}


def encrypt(desk: Desk, call: Call) -> dict[str, Any]:
    """Encrypt."""
    _symmetric(call, "EncryptionAlgorithm")
    context = _context(desk, call, "EncryptionContext")
    key = desk.key(call)
    grant_tokens(desk, call)
    desk.authorize(call, "Encrypt", key, context=context)
    desk.usable(key)
    dry_run(call)
    return {
        "CiphertextBlob": _sealed(desk, call, key, call.fields["Plaintext"], context),
        "KeyId": desk.names.arn(key.id),
        "EncryptionAlgorithm": SYMMETRIC,
    }


def decrypt(desk: Desk, call: Call) -> dict[str, Any]:
    """Decrypt, for the caller or for an attested recipient."""
    _symmetric(call, "EncryptionAlgorithm")
    context = _context(desk, call, "EncryptionContext")
    if "CiphertextBlob" not in call.fields:
        raise invalid("CiphertextBlob is missing")
    recipient = desk.recipient(call)
    key, sealed = _source(desk, call, "KeyId")
    grant_tokens(desk, call)
    desk.authorize(call, "Decrypt", key, context=context, recipient=recipient)
    desk.usable(key)
    plaintext = _opened(desk, key, sealed, context)
    dry_run(call)
    return {
        "KeyId": desk.names.arn(key.id),
        "EncryptionAlgorithm": SYMMETRIC,
        **desk.released(recipient, plaintext),
    }


def re_encrypt(desk: Desk, call: Call) -> dict[str, Any]:
    """ReEncrypt: from one key or context to another; both sides are asked."""
    _symmetric(call, "SourceEncryptionAlgorithm")
    _symmetric(call, "DestinationEncryptionAlgorithm")
    old_context = _context(desk, call, "SourceEncryptionContext")
    new_context = desk.context(call, "DestinationEncryptionContext")
    if "CiphertextBlob" not in call.fields:
        raise invalid("CiphertextBlob is missing")
    source, sealed = _source(desk, call, "SourceKeyId")
    target = desk.key(call, "DestinationKeyId")
    grant_tokens(desk, call)
    same = {"kms:ReEncryptOnSameKey": ("true" if source.id == target.id else "false",)}
    desk.authorize(call, "ReEncryptFrom", source, context=old_context, more=same)
    desk.authorize(call, "ReEncryptTo", target, context=new_context, more=same)
    desk.usable(source)
    desk.usable(target)
    plaintext = _opened(desk, source, sealed, old_context)
    dry_run(call)
    return {
        "CiphertextBlob": _sealed(desk, call, target, plaintext, new_context),
        "SourceKeyId": desk.names.arn(source.id),
        "KeyId": desk.names.arn(target.id),
        "SourceEncryptionAlgorithm": SYMMETRIC,
        "DestinationEncryptionAlgorithm": SYMMETRIC,
    }


def generate_data_key(desk: Desk, call: Call) -> dict[str, Any]:
    """GenerateDataKey, for the caller or for an attested recipient."""
    response, plaintext, recipient = _data_key(desk, call, "GenerateDataKey")
    return response | desk.released(recipient, plaintext)


def generate_data_key_without_plaintext(desk: Desk, call: Call) -> dict[str, Any]:
    """GenerateDataKeyWithoutPlaintext."""
    return _data_key(desk, call, "GenerateDataKeyWithoutPlaintext")[0]


def generate_random(desk: Desk, call: Call) -> dict[str, Any]:
    """GenerateRandom, for the caller or for an attested recipient; the caller's own policies decide."""
    if "CustomKeyStoreId" in call.fields:
        raise ServiceFault("CustomKeyStoreNotFoundException", "there are no custom key stores here")
    size = call.get("NumberOfBytes")
    if size is None:
        raise invalid("NumberOfBytes is missing")
    recipient = desk.recipient(call)
    desk.authorize(call, "GenerateRandom", None, recipient=recipient)
    return desk.released(recipient, random_bytes(size))


def _data_key(desk: Desk, call: Call, action: str) -> tuple[dict[str, Any], bytes, Recipient | None]:
    spec, size = call.get("KeySpec"), call.get("NumberOfBytes")
    if (spec is None) is (size is None):
        raise invalid("exactly one of KeySpec and NumberOfBytes is needed")
    context = _context(desk, call, "EncryptionContext")
    recipient = desk.recipient(call)
    key = desk.key(call)
    grant_tokens(desk, call)
    desk.authorize(call, action, key, context=context, recipient=recipient)
    desk.usable(key)
    dry_run(call)
    plaintext = random_bytes(size if size is not None else _DATA_KEY_BYTES[spec])
    response = {"CiphertextBlob": _sealed(desk, call, key, plaintext, context), "KeyId": desk.names.arn(key.id)}
    return response, plaintext, recipient


def _context(desk: Desk, call: Call, name: str) -> Mapping[str, str]:
    context = desk.context(call, name)
    call.trail.context = context
    return context


def _symmetric(call: Call, name: str) -> None:
    if call.get(name, SYMMETRIC) != SYMMETRIC:
        raise ServiceFault("InvalidKeyUsageException", f"keys here work with {SYMMETRIC} alone")


def _source(desk: Desk, call: Call, name: str) -> tuple[KeyRecord, Ciphertext | None]:
    """Return the key to decrypt with, and the ciphertext where it reads as one of ours.

    A key that the request names is asked for its policy before anything is said
    about the ciphertext; without a name the ciphertext says which key it is.
    """
    try:
        sealed = Ciphertext.parse(call.fields["CiphertextBlob"])
    except MalformedError as error:
        if name not in call.fields:
            raise ServiceFault("InvalidCiphertextException", "the ciphertext is not valid") from error
        sealed = None
    if name in call.fields:
        return desk.key(call, name), sealed
    assert sealed is not None
    key = desk.store.key(sealed.key_id, call.timestamp)
    if key is None:
        raise ServiceFault("InvalidCiphertextException", "the ciphertext is of no key here")
    return key, sealed


def _opened(desk: Desk, key: KeyRecord, sealed: Ciphertext | None, context: Mapping[str, str]) -> bytes:
    if sealed is None:
        raise ServiceFault("InvalidCiphertextException", "the ciphertext is not valid")
    if sealed.key_id != key.id:
        raise ServiceFault("IncorrectKeyException", "the key that the request names is not the one that encrypted")
    material = desk.store.material(key.id, sealed.version)
    if material is None:
        raise ServiceFault("InvalidCiphertextException", "the ciphertext is of no version of this key")
    try:
        return envelope.decrypt(material, sealed, context)
    except RejectedError as error:
        raise ServiceFault("InvalidCiphertextException", "the ciphertext or its context is not valid") from error


def _sealed(desk: Desk, call: Call, key: KeyRecord, plaintext: bytes, context: Mapping[str, str]) -> bytes:
    version = key.version
    if key.next_rotation is not None and key.next_rotation <= call.timestamp:
        version = desk.store.rotate(key.id, call.timestamp)
    material = desk.store.material(key.id, version)
    if material is None:
        raise ServiceFault("KMSInternalException", "the key has no material", status=500)
    nonce = random_bytes(envelope.NONCE_BYTES)
    return envelope.encrypt(material, plaintext, key_id=key.id, version=version, context=context, nonce=nonce)
