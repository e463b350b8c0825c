"""Makes envelopes.json: what a KMS sends to an attested recipient, whole and broken.

Written from RFC 5652, RFC 4055, RFC 8017 and X.690 alone; it shares no code with
the reader. Nothing is drawn at random, so every run gives the same file:

    python tests/vectors/cms/generate.py            writes it
    python tests/vectors/cms/generate.py --check    compares

Each entry: hex of the message, and what a reader must do: "opens", "malformed"
(not the structure, step 1) or "rejected" (steps 2 to 5).
"""

import hashlib
import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.serialization import load_pem_private_key

HERE = Path(__file__).resolve().parent
TARGET = HERE / "envelopes.json"

DEK = bytes(range(0x40, 0x60))
CEK = hashlib.sha256(b"content key of the vectors").digest()
SEED = hashlib.sha256(b"OAEP seed of the vectors").digest()
IV = bytes(range(16))
KEY_ID = bytes(range(0xA0, 0xB4))


def tlv(tag, *parts):
    body = b"".join(parts)
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    if size < 256:
        return bytes([tag, 0x81, size]) + body
    return bytes([tag, 0x82, size >> 8, size & 255]) + body


def open_ended(tag, *parts):
    return bytes([tag, 0x80]) + b"".join(parts) + b"\x00\x00"


def oid(dotted):
    first, second, *rest = (int(part) for part in dotted.split("."))
    out = bytearray([40 * first + second])
    for arc in rest:
        septets = [arc & 127]
        while arc := arc >> 7:
            septets.append(128 | arc & 127)
        out += bytes(reversed(septets))
    return tlv(0x06, bytes(out))


NULL = tlv(0x05)
SHA_1, SHA_256, SHA_384 = "1.3.14.3.2.26", "2.16.840.1.101.3.4.2.1", "2.16.840.1.101.3.4.2.2"
MGF1, P_SPECIFIED = "1.2.840.113549.1.1.8", "1.2.840.113549.1.1.9"
OAEP, RSA = "1.2.840.113549.1.1.7", "1.2.840.113549.1.1.1"
ENVELOPED, SIGNED, DATA = "1.2.840.113549.1.7.3", "1.2.840.113549.1.7.2", "1.2.840.113549.1.7.1"
AES_256_CBC, AES_128_CBC, AES_256_GCM = (f"2.16.840.1.101.3.4.1.{number}" for number in (42, 2, 46))


def algorithm(name, *parameters):
    return tlv(0x30, oid(name), *parameters)


def oaep(*, hashed=SHA_256, masked=SHA_256, mask=MGF1, null=NULL, extra=b"", name=OAEP):
    first = tlv(0xA0, algorithm(hashed, null))
    second = tlv(0xA1, algorithm(mask, algorithm(masked, null)))
    return algorithm(name, tlv(0x30, first, second, extra))


def mask_of(seed, length, name):
    blocks = (hashlib.new(name, seed + counter.to_bytes(4, "big")).digest() for counter in range(length))
    out = b""
    while len(out) < length:
        out += next(blocks)
    return out[:length]


def xor(left, right):
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def rsa_oaep(pem, message, *, label=b"", name="sha256"):
    """RFC 8017, section 7.1.1, with a fixed seed."""
    numbers = load_pem_private_key((HERE / pem).read_bytes(), None).private_numbers().public_numbers
    size, digest = 256, hashlib.new(name, label).digest()
    block = digest + bytes(size - len(message) - 2 * len(digest) - 2) + b"\x01" + message
    seed = SEED[: len(digest)]
    masked_block = xor(block, mask_of(seed, len(block), name))
    masked_seed = xor(seed, mask_of(masked_block, len(digest), name))
    number = int.from_bytes(b"\x00" + masked_seed + masked_block, "big")
    return pow(number, numbers.e, numbers.n).to_bytes(size, "big")


def cbc(plaintext, *, padding=None):
    fill = 16 - len(plaintext) % 16
    padded = plaintext + (bytes([fill]) * fill if padding is None else padding)
    encryptor = Cipher(AES256(CEK), CBC(IV)).encryptor()
    return encryptor.update(padded) + encryptor.finalize()


CONTENT = cbc(DEK)
ENCRYPTED_KEY = rsa_oaep("recipient.pem", CEK)
VERSION = tlv(0x02, b"\x02")


def primitive(content=CONTENT):
    return tlv(0x80, content)


def parts_of(content, *sizes):
    start = 0
    for size in sizes:
        yield tlv(0x04, content[start : start + size])
        start += size
    yield tlv(0x04, content[start:])


def recipient(*, version=VERSION, identifier=None, algorithm=None, key=None, extra=b""):
    return tlv(
        0x30,
        version,
        tlv(0x80, KEY_ID) if identifier is None else identifier,
        oaep() if algorithm is None else algorithm,
        tlv(0x04, ENCRYPTED_KEY) if key is None else key,
        extra,
    )


def cipher(name=AES_256_CBC, parameters=None):
    return algorithm(name, tlv(0x04, IV) if parameters is None else parameters)


def message(
    *,
    content=None,
    recipients=None,
    version=VERSION,
    kind=ENVELOPED,
    data=DATA,
    algorithm=None,
    wrap=open_ended,
    before=b"",
    after=b"",
    content_tail=b"",
    info_tail=b"",
):
    encrypted = wrap(
        0x30,
        oid(data),
        cipher() if algorithm is None else algorithm,
        primitive() if content is None else content,
        content_tail,
    )
    who = tlv(0x31, recipient()) if recipients is None else recipients
    enveloped = wrap(0x30, version, before, who, encrypted, after)
    return wrap(0x30, oid(kind), wrap(0xA0, enveloped), info_tail)


def nested(depth):
    inner = tlv(0x04, CONTENT)
    for _ in range(depth):
        inner = open_ended(0x24, inner)
    return open_ended(0xA0, inner)


def opening():
    halves = list(parts_of(CONTENT, 16, 7))
    yield "primitive-content", message()
    yield "constructed-content-indefinite-one-part", message(content=open_ended(0xA0, tlv(0x04, CONTENT)))
    yield "constructed-content-indefinite-three-parts", message(content=open_ended(0xA0, *halves))
    yield "constructed-content-definite-three-parts", message(content=tlv(0xA0, *halves))
    yield "constructed-content-with-empty-part", message(content=open_ended(0xA0, tlv(0x04), *halves))
    yield (
        "constructed-content-a-byte-a-part",
        message(content=open_ended(0xA0, *(tlv(0x04, CONTENT[i : i + 1]) for i in range(len(CONTENT))))),
    )
    yield "every-length-definite", message(wrap=tlv, content=primitive())
    yield "hash-parameters-absent", message(recipients=tlv(0x31, recipient(algorithm=oaep(null=b""))))
    yield "empty-key-identifier", message(recipients=tlv(0x31, recipient(identifier=tlv(0x80))))
    yield "recipients-indefinite", message(recipients=open_ended(0x31, recipient()))


def malformed():
    one = recipient()
    yield "two-recipients", message(recipients=tlv(0x31, one, one))
    yield "no-recipient", message(recipients=tlv(0x31))
    yield "recipients-in-a-sequence", message(recipients=tlv(0x30, one))
    yield "signed-data", message(kind=SIGNED)
    yield "encrypted-content-of-other-type", message(data=SIGNED)
    yield "version-0", message(version=tlv(0x02, b"\x00"))
    yield "version-in-two-octets", message(version=tlv(0x02, b"\x00\x02"))
    yield "recipient-version-0", message(recipients=tlv(0x31, recipient(version=tlv(0x02, b"\x00"))))
    yield (
        "issuer-and-serial-number",
        message(recipients=tlv(0x31, recipient(identifier=tlv(0x30, tlv(0x30), tlv(0x02, b"\x01"))))),
    )
    yield "originator-info", message(before=tlv(0xA0, tlv(0x30)))
    yield "unprotected-attributes", message(after=tlv(0xA1))
    yield "fourth-field-of-content", message(content_tail=NULL)
    yield "third-field-outside", message(info_tail=NULL)
    for name, broken in (
        ("rsa-pkcs1", algorithm(RSA, NULL)),
        ("oaep-without-parameters", algorithm(OAEP)),
        ("oaep-default-parameters", algorithm(OAEP, tlv(0x30))),
        ("oaep-sha1", oaep(hashed=SHA_1)),
        ("oaep-sha384", oaep(hashed=SHA_384, masked=SHA_384)),
        ("oaep-mgf1-sha1", oaep(masked=SHA_1)),
        ("oaep-other-mask", oaep(mask=RSA)),
        ("oaep-label", oaep(extra=tlv(0xA2, algorithm(P_SPECIFIED, tlv(0x04, b"label"))))),
        ("oaep-name-of-rsa", oaep(name=RSA)),
    ):
        yield name, message(recipients=tlv(0x31, recipient(algorithm=broken)))
    yield "encrypted-key-255-bytes", message(recipients=tlv(0x31, recipient(key=tlv(0x04, ENCRYPTED_KEY[1:]))))
    yield "encrypted-key-257-bytes", message(recipients=tlv(0x31, recipient(key=tlv(0x04, b"\0" + ENCRYPTED_KEY))))
    yield "encrypted-key-in-parts", message(recipients=tlv(0x31, recipient(key=tlv(0x24, tlv(0x04, ENCRYPTED_KEY)))))
    yield "fifth-field-of-recipient", message(recipients=tlv(0x31, recipient(extra=NULL)))
    yield "aes-128-cbc", message(algorithm=cipher(AES_128_CBC))
    yield "aes-256-gcm", message(algorithm=cipher(AES_256_GCM))
    yield "iv-15-bytes", message(algorithm=cipher(parameters=tlv(0x04, IV[1:])))
    yield "iv-missing", message(algorithm=tlv(0x30, oid(AES_256_CBC)))
    yield "content-missing", message(content=b"")
    yield "content-under-tag-1", message(content=tlv(0x81, CONTENT))
    yield "content-parts-of-other-type", message(content=open_ended(0xA0, tlv(0x03, CONTENT)))
    yield "content-parts-nested", message(content=nested(1))
    yield "depth-bomb", message(content=nested(40))
    yield "trailing-byte", message() + b"\x00"
    yield "end-of-contents-missing", message()[:-2]
    yield "end-of-contents-half", message()[:-1]
    yield "length-bomb", b"\x30\x84\xff\xff\xff\xff"
    yield "length-in-five-octets", b"\x30\x85\x00\x00\x00\x00\x02\x05\x00"
    yield "over-16-kib", message(content=open_ended(0xA0, *[tlv(0x04, bytes(1000))] * 17))
    yield "empty", b""


def rejected():
    yield "wrong-recipient", message(recipients=tlv(0x31, recipient(key=tlv(0x04, rsa_oaep("stranger.pem", CEK)))))
    for name, key in (
        ("content-key-16-bytes", rsa_oaep("recipient.pem", CEK[:16])),
        ("content-key-33-bytes", rsa_oaep("recipient.pem", CEK + b"\0")),
        ("content-key-empty", rsa_oaep("recipient.pem", b"")),
        ("oaep-labelled", rsa_oaep("recipient.pem", CEK, label=b"label")),
        ("oaep-of-sha1", rsa_oaep("recipient.pem", CEK, name="sha1")),
        ("encrypted-key-zero", bytes(256)),
        ("encrypted-key-over-modulus", b"\xff" * 256),
        ("other-content-key", rsa_oaep("recipient.pem", IV + IV)),
    ):
        yield name, message(recipients=tlv(0x31, recipient(key=tlv(0x04, key))))
    for name, content in (
        ("content-empty", b""),
        ("content-47-bytes", CONTENT[:-1]),
        ("content-4128-bytes", cbc(bytes(4112))),
        ("padding-zero", cbc(DEK, padding=bytes(16))),
        ("padding-17", cbc(DEK, padding=b"\x11" * 16)),
        ("padding-255", cbc(DEK, padding=b"\xff" * 16)),
        ("padding-not-uniform", cbc(DEK, padding=b"\x00" + b"\x10" * 15)),
        ("padding-last-byte-only", cbc(DEK, padding=bytes(14) + b"\x01\x02")),
        ("key-31-bytes", cbc(DEK[:-1])),
        ("key-33-bytes", cbc(DEK + b"\0")),
        ("key-empty", cbc(b"")),
        ("key-48-bytes", cbc(DEK + IV)),
    ):
        yield name, message(content=primitive(content))
    yield "content-parts-none", message(content=open_ended(0xA0))


def vectors():
    groups = (("opens", opening), ("malformed", malformed), ("rejected", rejected))
    return {
        "dek": DEK.hex(),
        "messages": [
            {"name": name, "outcome": outcome, "message": data.hex()}
            for outcome, make in groups
            for name, data in make()
        ],
    }


def main():
    text = json.dumps(vectors(), indent=1) + "\n"
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text() == text else 1)
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
