"""A process that loads one package and says what memory that took; see `package_rates`.

`python -m ephemeralml.bench.load_child PACKAGE PUBLISHER_KEY`, the data key as
hex on standard input. What it measures is itself, so it imports little.
"""

import os
import sys
import time
from pathlib import Path

from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.crypto.keys import PublicKey
from ephemeralml.model.container import load_files
from ephemeralml.model.verify import verify_manifest
from ephemeralml.storage.file import FileStorage


def peak_kib() -> int:
    """Return the largest resident memory this process had, private and shared."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise RuntimeError("the kernel does not say VmHWM")


def main() -> None:
    """Load, then print the seconds and the peak in bytes.

    The files lie in anonymous memory that is not mapped while it is filled, so
    the kernel does not count it as resident then: it is added here, page by
    page as it was taken.
    """
    folder, publisher = Path(sys.argv[1]), PublicKey(bytes.fromhex(sys.argv[2]))
    dek = SecretBytes(bytearray.fromhex(sys.stdin.read()))
    verified = verify_manifest((folder / "manifest.json").read_bytes(), publisher_keys=(publisher,))
    start = time.perf_counter()
    loaded = load_files(verified, FileStorage(folder), dek=dek)
    seconds = time.perf_counter() - start
    peak = peak_kib() << 10
    taken = sum(os.fstat(file.fd).st_blocks * 512 for file in loaded.values())
    sys.stdout.write(f"{seconds} {peak + taken}\n")


if __name__ == "__main__":
    main()
