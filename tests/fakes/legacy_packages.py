"""Packages of the reference system, written the way legacy.md section 3 describes them.

Independent of the reader: the library's one-shot AEAD, and a signature over
JSON that is put together here.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ephemeralml.crypto.keys import PrivateKey
from tests.fakes import tiny_bert
from tests.fakes.packages import PUBLISHER

DEK = bytes(range(100, 132))
NONCE = bytes(range(12))


def manifest(weights: bytes, folder: Path, *, edit: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the manifest's fields, without a signature."""
    document = {
        "model_id": "tiny-bert",
        "version": "1.0.0",
        "model_hash": list(hashlib.sha256(weights).digest()),
        "hash_algorithm": "sha256",
        "key_id": "projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "tokenizer_hash": list(hashlib.sha256((folder / "tokenizer.json").read_bytes()).digest()),
        "config_hash": list(hashlib.sha256((folder / "config.json").read_bytes()).digest()),
        "gcs_uris": {"weights": "gs://büchse/model.safetensors.enc", "config": "gs://büchse/config.json"},
        "created_at": "2025-11-02T10:00:00Z",
    }
    return {**document, **(edit or {})}


def sign(document: dict[str, Any], key: PrivateKey) -> dict[str, Any]:
    """Return *document* signed as the reference system did."""
    present = {name: document[name] for name in sorted(document) if document[name] is not None}
    text = "{" + ",".join(f"{json.dumps(name)}:{_compact(value)}" for name, value in present.items()) + "}"
    return {**document, "signature": list(key.sign(text.encode()))}


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def write(
    folder: Path,
    *,
    key: PrivateKey = PUBLISHER,
    dek: bytes = DEK,
    edit: dict[str, Any] | None = None,
    after_signing: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Path:
    """Write a legacy package of the tiny encoder to *folder*."""
    tiny_bert.write(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.enc").write_bytes(NONCE + ChaCha20Poly1305(dek).encrypt(NONCE, weights, None))
    document = sign(manifest(weights, folder, edit=edit), key)
    after_signing(document)
    (folder / "manifest.json").write_text(json.dumps(document), encoding="utf-8")
    return folder
