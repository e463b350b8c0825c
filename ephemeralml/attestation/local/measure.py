"""What the software TEE measures of itself (attestation section 3).

Real hashes of real files, by nobody who could not lie about them: they make a
policy's pins exercise the same path as on hardware, and prove nothing.
"""

import hashlib
import platform
import sys
from pathlib import Path

from ephemeralml.crypto.transcript import lp

PACKAGE = Path(__file__).resolve().parents[2]
"""The installed package's folder."""


def extend(data: bytes, register: bytes = bytes(48)) -> bytes:
    """Return *register*, by default a zero one, extended by *data*: SHA384(register || data)."""
    return hashlib.sha384(register + data).digest()


def package_digest(folder: Path = PACKAGE) -> bytes:
    """Return SHA-384 over ``lp(path) || sha256(file)`` of the source files, in byte order of their paths.

    Source files are every ``*.py`` and ``py.typed``; paths are relative to
    *folder* with ``/`` between their parts.
    """
    digest = hashlib.sha384()
    files = [path for path in folder.rglob("*") if path.suffix == ".py" or path.name == "py.typed"]
    for relative, path in sorted((path.relative_to(folder).as_posix().encode(), path) for path in files):
        digest.update(lp(relative))
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.digest()


def platform_name() -> str:
    """Return the interpreter and the platform in one line."""
    implementation = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{implementation} {sys.platform} {platform.machine()}"


def measure(config: bytes, authority_id: str) -> dict[int, bytes]:
    """Return PCR0 to PCR4 of a software TEE that runs this package with *config*."""
    return {
        0: extend(hashlib.sha384(lp(package_digest()) + lp(config)).digest()),
        1: extend(hashlib.sha384(lp(platform_name().encode())).digest()),
        2: extend(hashlib.sha384(lp(config)).digest()),
        3: extend(b"local"),
        4: extend(authority_id.encode()),
    }
