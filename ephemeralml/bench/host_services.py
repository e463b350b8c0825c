"""Package bytes through the host's services against the same bytes over plain sockets (nitro-platform section 7).

Both send files from inside the kernel, so many ranges at once, into memory that
was touched before. The sockets are unix ones: where there is vsock, it is the
same code over another family.
"""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile
from ephemeralml.bench.synthetic_model import workplace
from ephemeralml.enclave.config import ServiceRules
from ephemeralml.enclave.host_services import HostServices
from ephemeralml.host.package_source import FolderSource
from ephemeralml.host.services import Offer, Services
from ephemeralml.model import lanes
from ephemeralml.model.container import IN_FLIGHT, RANGE_BYTES
from ephemeralml.storage.base import Storage
from ephemeralml.transport.address import Address

_SIZE = 256 << 20
_TARGET = 0.75
_NAME = "package bytes through the host's services, of plain sockets"
_BLOB = f"blobs/{'0' * 64}.raw"


def measure(*, quick: bool) -> Section:
    """Fetch one blob, both ways in turn."""
    with workplace(_SIZE) as place:
        (place / "blobs").mkdir()
        with (place / _BLOB).open("xb") as file:
            file.write(bytes(_SIZE))
        server = Services(Address.parse(f"unix://{place}/services"), Offer({"": FolderSource(place)}, {}))
        server.start()
        try:
            host = HostServices(ServiceRules(address=f"unix://{place}/services"))
            with closing(host), closing(host.package("")) as store:
                return _compare(store, place / _BLOB, rounds=5 if quick else 15)
        finally:
            server.stop()


def _compare(store: Storage, path: Path, *, rounds: int) -> Section:
    with memoryview(bytearray(_SIZE)) as whole:
        whole[:] = bytes(_SIZE)
        samples = interleaved(
            {
                "plain": lambda: _in_lanes(whole, lambda start, part: _plain(path, start, part)),
                "services": lambda: _in_lanes(whole, lambda start, part: store.read_into(_BLOB, start, part)),
            },
            rounds=rounds,
            warmup=2,
        )
    rows = [_rate(f"{name}, {what}", samples[key]) for key, name, what in _WHAT]
    share = quantile([plain / ours for plain, ours in zip(samples["plain"], samples["services"], strict=True)], 0.5)
    layout = f"{_SIZE >> 20} MiB, {IN_FLIGHT} × {RANGE_BYTES >> 20} MiB in flight, one process on both sides"
    rows.append(Row(_NAME, share, "×", p50=share, n=rounds, note=layout))
    return Section(tuple(rows), (Target(_NAME, share, _TARGET, "×", at_most=False),))


_WHAT = (("plain", "package bytes", "plain unix sockets"), ("services", "package bytes", "host services"))


def _rate(name: str, seconds: Sequence[float]) -> Row:
    rates = [_SIZE / took / 1e9 for took in seconds]
    return Row(name, quantile(rates, 0.5), "GB/s", quantile(rates, 0.5), quantile(rates, 0.05), len(rates))


def _in_lanes(whole: memoryview, fetch: Callable[[int, memoryview], None]) -> None:
    starts = iter(range(0, len(whole), RANGE_BYTES))

    def lane(_: threading.Event) -> None:
        for start in starts:
            with whole[start : start + RANGE_BYTES] as part:
                fetch(start, part)

    lanes.run([lane] * IN_FLIGHT, name="bench")


def _plain(path: Path, start: int, part: memoryview) -> None:
    """Send the range of a file through a fresh pair of sockets."""
    near, far = socket.socketpair()

    def send() -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sent = 0
            while sent < len(part):
                sent += os.sendfile(far.fileno(), fd, start + sent, len(part) - sent)
        finally:
            os.close(fd)
            far.close()

    sender = threading.Thread(target=send)
    sender.start()
    with near:
        done = 0
        while done < len(part) and (count := near.recv_into(part[done:])):
            done += count
    sender.join()
