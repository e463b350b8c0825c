"""The one shape of CMS in which a KMS returns a secret to an attested recipient.

EnvelopedData (RFC 5652, section 6) to one RSA key with OAEP over SHA-256
(RFC 4055, section 4), content under AES-256-CBC, written in BER:
key-release.md section 2. `wrap` is the KMS's side, `unwrap` the recipient's.
Nothing here is authenticated: whoever has the public key can make a message
that opens. What the secret opens must be judged by other means.
"""

import hashlib
import os
from dataclasses import dataclass
from itertools import product
from typing import NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, OAEP
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ephemeralml.crypto import ber
from ephemeralml.crypto.ber import Element
from ephemeralml.crypto.data_key import DEK_BYTES, SecretBytes
from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import MalformedError, RejectedError

RESPONSE_INVALID = "KEY_RESPONSE_INVALID"
"""Code of every refusal here."""

MIN_RSA_BITS = 2_048
MAX_RSA_BITS = 4_096
MAX_EXPONENT_BITS = 32
"""More would only make encrypting to the key slow."""
MAX_PLAINTEXT_BYTES = 4_096
MAX_CONTENT_BYTES = MAX_PLAINTEXT_BYTES + 16
"""Ciphertext of the longest plaintext, padded."""

_CEK_BYTES = 32
_BLOCK_BYTES = 16
_PART_BYTES = 1_024
# Size of the OCTET STRING parts that `wrap` writes in constructed form.

_ENVELOPED_DATA = bytes.fromhex("2a864886f70d010703")  # 1.2.840.113549.1.7.3
_DATA = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
_RSAES_OAEP = bytes.fromhex("2a864886f70d010107")  # 1.2.840.113549.1.1.7
_MGF1 = bytes.fromhex("2a864886f70d010108")  # 1.2.840.113549.1.1.8
_SHA_256 = bytes.fromhex("608648016503040201")  # 2.16.840.1.101.3.4.2.1
_AES_256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42

_EXPLICIT_0 = ber.CONTEXT | ber.CONSTRUCTED
_EXPLICIT_1 = ber.CONTEXT | ber.CONSTRUCTED | 1
_IMPLICIT_0 = ber.CONTEXT

_VERSION_2 = Element(ber.INTEGER, b"\x02")


def _oid(value: bytes) -> bytes:
    return ber.encode(ber.OBJECT_IDENTIFIER, value)


def _sequence(*parts: bytes) -> bytes:
    return ber.encode(ber.SEQUENCE, *parts)


def _oaep_algorithm(hash_parameters: bytes, mask_parameters: bytes) -> bytes:
    """AlgorithmIdentifier of OAEP with SHA-256 twice and the empty label, which is the default and left out."""
    return _sequence(
        _oid(_RSAES_OAEP),
        _sequence(
            ber.encode(_EXPLICIT_0, _sequence(_oid(_SHA_256), hash_parameters)),
            ber.encode(_EXPLICIT_1, _sequence(_oid(_MGF1), _sequence(_oid(_SHA_256), mask_parameters))),
        ),
    )


_NULL = ber.encode(ber.NULL)
_OAEP_WRITTEN = _oaep_algorithm(_NULL, _NULL)
_OAEP_ACCEPTED = frozenset(ber.read(_oaep_algorithm(*parameters)) for parameters in product((_NULL, b""), repeat=2))
# SHA-256's parameters may be NULL or absent: RFC 4055, section 2.1 has both accepted.


def _oaep() -> OAEP:
    return OAEP(mgf=MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


def _key_identifier(key: RSAPublicKey) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo, as in AWS's messages; undocumented, and no recipient reads it."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def recipient_key(spki: bytes) -> RSAPublicKey:
    """Read the public key that an attestation document names as recipient.

    Raises:
        MalformedError: Not the DER SubjectPublicKeyInfo of an RSA key of 2,048
            to 4,096 bits, or one whose numbers no such key has.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MalformedError("the recipient's public key is not a DER SubjectPublicKeyInfo") from error
    if not isinstance(key, RSAPublicKey):
        raise MalformedError("the recipient's public key is not an RSA key")
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise MalformedError(f"the recipient's RSA key has {key.key_size} bits")
    numbers = key.public_numbers()
    if numbers.n % 2 == 0 or numbers.e.bit_length() > MAX_EXPONENT_BITS:
        raise MalformedError("the recipient's RSA key has an even modulus or a huge exponent")
    return key


def wrap(recipient: RSAPublicKey | bytes, plaintext: bytes, *, constructed: bool) -> bytes:
    """Return *plaintext* to a recipient as a KMS sends it: BER, outer lengths indefinite.

    Args:
        recipient: Its RSA key, or that key's DER SubjectPublicKeyInfo.
        plaintext: At most 4,096 bytes.
        constructed: Whether the content comes in OCTET STRING parts or as one
            primitive string; both forms occur in practice.

    Raises:
        MalformedError: The recipient's key is refused by `recipient_key`.
        ValueError: *plaintext* is too long.
    """
    if len(plaintext) > MAX_PLAINTEXT_BYTES:
        raise ValueError(f"{len(plaintext)} bytes to wrap, at most {MAX_PLAINTEXT_BYTES} are allowed")
    key = recipient if isinstance(recipient, RSAPublicKey) else recipient_key(recipient)
    cek, iv = os.urandom(_CEK_BYTES), os.urandom(_BLOCK_BYTES)
    padder, encryptor = PKCS7(8 * _BLOCK_BYTES).padder(), Cipher(AES256(cek), CBC(iv)).encryptor()
    content = encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()
    encrypted_key = key.encrypt(cek, _oaep())
    wipe_bytes(cek)
    recipient_info = _sequence(
        ber.encode(ber.INTEGER, b"\x02"),
        ber.encode(_IMPLICIT_0, _key_identifier(key)),
        _OAEP_WRITTEN,
        ber.encode(ber.OCTET_STRING, encrypted_key),
    )
    if constructed:
        parts = [content[start : start + _PART_BYTES] for start in range(0, len(content), _PART_BYTES)]
        body = ber.encode_indefinite(_EXPLICIT_0, *(ber.encode(ber.OCTET_STRING, part) for part in parts))
    else:
        body = ber.encode(_IMPLICIT_0, content)
    encrypted_content = ber.encode_indefinite(
        ber.SEQUENCE, _oid(_DATA), _sequence(_oid(_AES_256_CBC), ber.encode(ber.OCTET_STRING, iv)), body
    )
    enveloped = ber.encode_indefinite(
        ber.SEQUENCE, ber.encode(ber.INTEGER, b"\x02"), ber.encode(ber.SET, recipient_info), encrypted_content
    )
    return ber.encode_indefinite(ber.SEQUENCE, _oid(_ENVELOPED_DATA), ber.encode_indefinite(_EXPLICIT_0, enveloped))


def unwrap(message: bytes, private_key: RSAPrivateKey, *, plaintext_bytes: int | None = DEK_BYTES) -> SecretBytes:
    """Open a message as its recipient (key-release.md section 2).

    1. Read the BER and hold it against the one structure accepted.
    2. RSA-OAEP decrypt the content key; it has 32 bytes.
    3. Join the content's parts; a multiple of 16, at most 4,112 bytes.
    4. AES-256-CBC decrypt and remove the PKCS #7 padding.
    5. The result has *plaintext_bytes*, 32 for a data key; None takes any size.

    Step 1 looks at public bytes only and says what is wrong. Whatever fails in
    steps 2 to 5, all of them are gone through, with random or zero bytes in the
    place of what could not be had, and one error says only that they failed: the
    sender of a forged message learns nothing about the key or the padding.

    Raises:
        MalformedError: Step 1, with code KEY_RESPONSE_INVALID.
        RejectedError: Steps 2 to 5, with code KEY_RESPONSE_INVALID and one message.
    """
    envelope = _read(message, private_key.key_size // 8)  # 1
    cek, good = _content_key(private_key, envelope.encrypted_key)  # 2
    content = b"".join(envelope.parts)  # 3
    sized = 0 < len(content) <= MAX_CONTENT_BYTES and len(content) % _BLOCK_BYTES == 0
    plaintext, padded = _decrypt(cek, envelope.iv, content if sized else bytes(3 * _BLOCK_BYTES))  # 4
    wipe_bytes(cek)
    expected = plaintext_bytes is None or len(plaintext) == plaintext_bytes  # 5
    if not good & sized & padded & expected:
        SecretBytes(plaintext).wipe()
        _reject()
    return SecretBytes(plaintext)


@dataclass(frozen=True, slots=True)
class _Envelope:
    encrypted_key: bytes
    iv: bytes
    parts: tuple[bytes, ...]


def _read(message: bytes, key_bytes: int) -> _Envelope:
    try:
        content_info = ber.read(message)
    except MalformedError as error:
        raise MalformedError(f"the key's envelope is no CMS: {error.message}", code=RESPONSE_INVALID) from error
    kind, wrapped = _parts(content_info, ber.SEQUENCE, 2, "ContentInfo")
    _equal(kind, Element(ber.OBJECT_IDENTIFIER, _ENVELOPED_DATA), "content type")
    (enveloped,) = _parts(wrapped, _EXPLICIT_0, 1, "content")
    version, recipients, encrypted = _parts(enveloped, ber.SEQUENCE, 3, "EnvelopedData")
    _equal(version, _VERSION_2, "version")
    (recipient,) = _parts(recipients, ber.SET, 1, "set of recipients")
    iv, parts = _encrypted_content(encrypted)
    return _Envelope(_encrypted_key(recipient, key_bytes), iv, parts)


def _encrypted_key(recipient: Element, key_bytes: int) -> bytes:
    version, identifier, algorithm, encrypted = _parts(recipient, ber.SEQUENCE, 4, "recipient")
    _equal(version, _VERSION_2, "recipient's version")
    _primitive(identifier, _IMPLICIT_0, "recipient's key identifier")
    if algorithm not in _OAEP_ACCEPTED:
        _refuse("key encryption algorithm, RSAES-OAEP with SHA-256 alone is accepted")
    octets = _primitive(encrypted, ber.OCTET_STRING, "encrypted key")
    if len(octets) != key_bytes:
        _refuse("encrypted key's length")
    return octets


def _encrypted_content(encrypted: Element) -> tuple[bytes, tuple[bytes, ...]]:
    kind, algorithm, content = _parts(encrypted, ber.SEQUENCE, 3, "EncryptedContentInfo")
    _equal(kind, Element(ber.OBJECT_IDENTIFIER, _DATA), "encrypted content's type")
    cipher, parameters = _parts(algorithm, ber.SEQUENCE, 2, "content encryption algorithm")
    _equal(cipher, Element(ber.OBJECT_IDENTIFIER, _AES_256_CBC), "content encryption algorithm")
    iv = _primitive(parameters, ber.OCTET_STRING, "initialisation vector")
    if len(iv) != _BLOCK_BYTES:
        _refuse("initialisation vector's length")
    if content.tag == _IMPLICIT_0:
        return iv, (content.content,)
    if content.tag != _EXPLICIT_0:
        _refuse("encrypted content")
    return iv, tuple(_primitive(part, ber.OCTET_STRING, "encrypted content") for part in content.children)


def _content_key(private_key: RSAPrivateKey, encrypted: bytes) -> tuple[bytes, bool]:
    substitute = os.urandom(_CEK_BYTES)
    # OpenSSL turns a number above the modulus away at once; both are public, so that says nothing.
    try:
        cek = private_key.decrypt(encrypted, _oaep())
    except ValueError:
        return substitute, False
    if len(cek) != _CEK_BYTES:
        wipe_bytes(cek)
        return substitute, False
    return cek, True


def _decrypt(cek: bytes, iv: bytes, content: bytes) -> tuple[bytearray, bool]:
    """Return the plaintext without its padding, and whether the padding was right."""
    decryptor = Cipher(AES256(cek), CBC(iv)).decryptor()
    buffer = bytearray(len(content) + _BLOCK_BYTES - 1)  # the size that update_into asks for
    decryptor.update_into(content, buffer)
    decryptor.finalize()
    padding = buffer[len(content) - 1]
    # The last block is compared whole whatever the padding says, and nothing leaves early.
    size = padding if 0 < padding <= _BLOCK_BYTES else _BLOCK_BYTES
    difference = 0
    for back in range(1, _BLOCK_BYTES + 1):
        difference |= (buffer[len(content) - back] ^ size) * (back <= size)
    plaintext = buffer[: len(content) - size]
    SecretBytes(buffer).wipe()
    return plaintext, difference == 0


def _parts(element: Element, tag: int, count: int, name: str) -> tuple[Element, ...]:
    if element.tag != tag or len(element.children) != count:
        _refuse(name)
    return element.children


def _primitive(element: Element, tag: int, name: str) -> bytes:
    if element.tag != tag:
        _refuse(name)
    return element.content


def _equal(element: Element, expected: Element, name: str) -> None:
    if element != expected:
        _refuse(name)


def _refuse(what: str) -> NoReturn:
    raise MalformedError(f"the key's envelope is not what a KMS sends: {what}", code=RESPONSE_INVALID)


def _reject() -> NoReturn:
    raise RejectedError("the key's envelope does not open with this boot's key", code=RESPONSE_INVALID)
