"""A package of any size for the benches: one safetensors file of zeros, encrypted under a key that is thrown away."""

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ephemeralml import clock
from ephemeralml.crypto.data_key import DEK_BYTES, EncryptionContext, SecretBytes, WrappedKey
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.model.create import PackageRequest, create_package
from ephemeralml.model.manifest import Suite
from ephemeralml.model.sign import sign_package
from ephemeralml.model.verify import VerifiedManifest, verify_manifest
from ephemeralml.semver import SemVer

_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
_KEY_URI = "local:arn:aws:kms:local:000000000000:key/bench"


@dataclass(frozen=True, slots=True)
class SyntheticPackage:
    """A signed package and what opens it."""

    folder: Path
    verified: VerifiedManifest
    dek: SecretBytes

    @property
    def size(self) -> int:
        """Bytes of plaintext."""
        return sum(file.size for file in self.verified.manifest.files)


@contextmanager
def workplace(need: int) -> Iterator[Path]:
    """Yield a folder that is gone afterwards; in memory where *need* bytes fit twice, so that no disk is measured."""
    place = None
    if _MEMORY_FOLDER.is_dir() and os.access(_MEMORY_FOLDER, os.W_OK):
        room = os.statvfs(_MEMORY_FOLDER)
        place = _MEMORY_FOLDER if room.f_bavail * room.f_frsize > 2 * need else None
    with tempfile.TemporaryDirectory(prefix="ephemeralml-bench-", dir=place) as folder:
        yield Path(folder)


def write_model(folder: Path, size: int) -> Path:
    """Write a model of about *size* bytes as a file with a hole, which takes no room."""
    count = size // 4
    tensor = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    header = json.dumps({"weights": tensor}).encode()
    path = folder / "model.safetensors"
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * count)
    return path


class ThrowAway:
    """A key source without a KMS: what it makes is known to this process alone and never stored."""

    def __init__(self) -> None:
        self.dek = os.urandom(DEK_BYTES)

    def generate(self, context: EncryptionContext) -> tuple[SecretBytes, WrappedKey]:
        """Return the key; what stands in ``keys.json`` opens nothing."""
        return SecretBytes(bytearray(self.dek)), self.wrap(SecretBytes(bytearray(self.dek)), context)

    def wrap(self, _dek: SecretBytes, context: EncryptionContext) -> WrappedKey:
        """Return an entry that opens nothing."""
        return WrappedKey("local", _KEY_URI, b"thrown away", context)


def request(suite: Suite) -> PackageRequest:
    """Return what a bench's package says of itself."""
    base = PackageRequest("synthetic", SemVer.parse("1.0.0"), clock.now())
    return replace(base, suite=suite)


def package(folder: Path, size: int, suite: Suite = Suite.CHACHA20POLY1305) -> SyntheticPackage:
    """Make a signed, encrypted package of about *size* bytes in *folder*."""
    source = write_model(folder, size)
    key, keys, out = PrivateKey.generate(), ThrowAway(), folder / "package"
    create_package(source, out, request(suite), key_source=keys)
    sign_package(out, key)
    verified = verify_manifest((out / "manifest.json").read_bytes(), publisher_keys=(key.public,))
    return SyntheticPackage(out, verified, SecretBytes(bytearray(keys.dek)))
