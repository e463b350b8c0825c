"""A load from a local object store against a plain parallel GET of the same ranges.

Plain is what anyone would write: the ranges of the blob, so many in flight,
straight into a fresh memory file, SHA-256 of each. The load fetches the same
ranges, opens and hashes the chunks and seals the memory.
"""

import hashlib
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile
from ephemeralml.bench.synthetic_model import SyntheticPackage, package, workplace
from ephemeralml.errors import UnavailableError
from ephemeralml.model import lanes
from ephemeralml.model.container import IN_FLIGHT, RANGE_BYTES, load_files
from ephemeralml.storage.base import Storage
from ephemeralml.storage.file import FileStorage

_SHARE_TARGET = 0.75
_TARGET_NAME = "load from a local object store, of a plain parallel GET"
_BUCKET = "bench"
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    command: tuple[str, ...]
    secret: str
    model_bytes: int
    """moto reads the whole object for every range, so it gets a small one."""


def measure(*, quick: bool) -> Section:
    """Load from the S3 server that is installed; without one only from files."""
    size = (64 if quick else 256) << 20
    sections = [_from_folder(size, quick=quick)]
    with tempfile.TemporaryDirectory(prefix="ephemeralml-bench-") as folder:
        server = _installed(Path(folder), size)
        if server is None:
            why = "no S3 server is installed: s3rver (npm) or moto (PyPI)"
            row = Row(_TARGET_NAME, None, "GB/s", note=why)
            sections.append(Section((row,), (Target(_TARGET_NAME, None, _SHARE_TARGET, "×", at_most=False),)))
        else:
            sections.append(_from_server(server, quick=quick))
    return Section(
        tuple(row for section in sections for row in section.rows),
        tuple(target for section in sections for target in section.targets),
    )


def _from_folder(size: int, *, quick: bool) -> Section:
    with workplace(2 * size) as place:
        made = package(place, size)
        store = FileStorage(made.folder)
        return _compare("folder", made, store, quick=quick, targets=False)


def _from_server(server: _Server, *, quick: bool) -> Section:
    with workplace(2 * server.model_bytes) as place, _running(server) as store:
        made = package(place, server.model_bytes)
        for file in made.verified.manifest.files:
            store.write(file.blob, _blocks(made.folder / file.blob))
        return _compare(server.name, made, store, quick=quick, targets=True)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(8 << 20):
            yield block


def _compare(name: str, made: SyntheticPackage, store: Storage, *, quick: bool, targets: bool) -> Section:
    samples = interleaved(
        {"get": lambda: _plain_get(made, store), "load": lambda: _load(made, store)},
        rounds=3 if quick else 7,
        warmup=1,
    )
    rates = {key: [made.size / seconds / 1e9 for seconds in times] for key, times in samples.items()}
    shares = [get / load for get, load in zip(samples["get"], samples["load"], strict=True)]
    layout = f"{made.size >> 20} MiB, {IN_FLIGHT} × {RANGE_BYTES >> 20} MiB in flight"
    rows = tuple(
        Row(f"{what}, {name}", quantile(found, 0.5), "GB/s", quantile(found, 0.5), quantile(found, 0.05), len(found))
        for what, found in (("plain parallel GET and SHA-256", rates["get"]), ("load, verified", rates["load"]))
    )
    share = quantile(shares, 0.5)
    rows += (Row(f"load / plain GET, {name}", share, "×", p50=share, n=len(shares), note=layout),)
    return Section(rows, (Target(_TARGET_NAME, share, _SHARE_TARGET, "×", at_most=False),) if targets else ())


def _load(made: SyntheticPackage, store: Storage) -> None:
    for file in load_files(made.verified, store, dek=made.dek).values():
        file.close()


def _plain_get(made: SyntheticPackage, store: Storage) -> None:
    (file,) = made.verified.manifest.files
    fd = os.memfd_create("bench", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, file.blob_size)
        with mmap.mmap(fd, file.blob_size) as memory, memoryview(memory) as whole:
            starts = iter(range(0, file.blob_size, RANGE_BYTES))

            def lane(_: threading.Event) -> None:
                for start in starts:
                    with whole[start : start + RANGE_BYTES] as part:
                        store.read_into(file.blob, start, part)
                        hashlib.sha256(part).digest()

            lanes.run([lane] * IN_FLIGHT, name="bench")
    finally:
        os.close(fd)


def _installed(folder: Path, size: int) -> _Server | None:
    beside = Path(sys.prefix, "s3rver", "node_modules", ".bin", "s3rver")
    for place in (os.environ.get("EPHEMERALML_S3RVER"), str(beside), shutil.which("s3rver")):
        if place and Path(place).exists():
            command = (place, "-d", str(folder), "-a", "127.0.0.1", "--silent", "-p")
            return _Server("s3rver", command, "S3RVER", size)
    moto = Path(sys.prefix, "bin", "moto_server")
    if moto.exists():
        return _Server("moto", (str(moto), "-H", "127.0.0.1", "-p"), "testing", min(size, 64 << 20))
    return None


@contextmanager
def _running(server: _Server) -> Iterator[Storage]:
    """Run the server on a free port and yield a store over an empty bucket of it."""
    import boto3
    from botocore.config import Config

    from ephemeralml.storage.s3 import S3Storage

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen((*server.command, str(port)), stdin=quiet, stdout=quiet, stderr=quiet)  # noqa: S603 - found above
    try:
        _wait(process, port, server.name)
        session = boto3.session.Session(server.secret, server.secret, region_name="us-east-1")
        config = Config(
            max_pool_connections=2 * IN_FLIGHT,
            response_checksum_validation="when_required",
            request_checksum_calculation="when_required",
            proxies={},
        )
        client = session.client("s3", endpoint_url=f"http://127.0.0.1:{port}", config=config)
        client.create_bucket(Bucket=_BUCKET)
        with S3Storage(_BUCKET, client=client) as store:
            yield store
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, name: str) -> None:
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise UnavailableError(f"{name} does not answer on port {port}")
