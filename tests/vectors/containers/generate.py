"""Known answers for containers, written from model-package.md sections 2 and 6 alone.

Shares no code with the package: HKDF stands here in its two steps (RFC 5869),
the Merkle tree as RFC 6962 puts it, and every chunk is sealed by itself.
`python -m tests.vectors.containers.generate` writes ``containers.json``.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

CIPHERS = {1: ChaCha20Poly1305, 2: AESGCM}
SIZES = (0, 1, 65_535, 65_536, 65_537, 131_072, 200_000)
SHOWN_BYTES = 256
"""Containers up to this length stand in the file whole; of longer ones their digest does."""


def plaintext(size: int) -> bytes:
    """Bytes that look random and can be made again by anyone: SHA-256 of counters."""
    blocks = [hashlib.sha256(number.to_bytes(8, "big")).digest() for number in range(-(-size // 32))]
    return b"".join(blocks)[:size]


def hkdf(dek: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    secret = hmac.new(salt, dek, hashlib.sha256).digest()
    made, block, counter = b"", b"", 1
    while len(made) < length:
        block = hmac.new(secret, block + info + bytes([counter]), hashlib.sha256).digest()
        made += block
        counter += 1
    return made[:length]


def tree_hash(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return hashlib.sha256(b"\x01" + tree_hash(leaves[:half]) + tree_hash(leaves[half:])).digest()


def container(suite: int, chunk_size: int, dek: bytes, salt: bytes, path: str, data: bytes) -> tuple[bytes, bytes]:
    """Return a container and its chunk root."""
    path_hash = hashlib.sha256(path.encode()).digest()
    header = b"EMLCTNR1" + bytes([suite, 0, 0, 0]) + chunk_size.to_bytes(4, "big") + len(data).to_bytes(8, "big")
    header += salt + path_hash + bytes(8)
    derived = hkdf(dek, salt, b"ephemeralml/container/1" + path_hash, 39)
    chunks = [data[start : start + chunk_size] for start in range(0, len(data), chunk_size)] or [b""]
    sealed = header
    for index, chunk in enumerate(chunks):
        nonce = derived[32:] + index.to_bytes(4, "big") + (b"\x01" if index == len(chunks) - 1 else b"\x00")
        sealed += CIPHERS[suite](derived[:32]).encrypt(nonce, chunk, hashlib.sha256(header).digest())
    return sealed, tree_hash([hashlib.sha256(chunk).digest() for chunk in chunks])


def vectors() -> Iterator[dict[str, Any]]:
    for suite in CIPHERS:
        for number, size in enumerate(SIZES):
            chunk_size = 131_072 if size == 200_000 else 65_536
            path = ("model.safetensors", "a/config.json", "Gewichte/ä.gguf")[number % 3]
            dek = hashlib.sha256(f"dek {suite} {size}".encode()).digest()
            salt = hashlib.sha256(f"salt {suite} {size}".encode()).digest()
            sealed, root = container(suite, chunk_size, dek, salt, path, plaintext(size))
            vector: dict[str, Any] = {
                "suite": suite,
                "chunk_size": chunk_size,
                "size": size,
                "path": path,
                "dek": dek.hex(),
                "salt": salt.hex(),
                "sha256": hashlib.sha256(sealed).hexdigest(),
                "chunk_root": root.hex(),
            }
            if len(sealed) <= SHOWN_BYTES:
                vector["container"] = sealed.hex()
            yield vector


if __name__ == "__main__":
    path = Path(__file__).with_name("containers.json")
    path.write_text(json.dumps(list(vectors()), indent=1, ensure_ascii=False) + "\n")
