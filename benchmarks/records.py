"""Throughput of the record path: `python benchmarks/records.py [--seconds 1.0]`.

Sending is a body message encoded, sealed and framed; receiving is the stream's
bytes cut into frames, opened and decoded, from reads of 256 KiB. Both through
the two ends of an established channel, on one core. Prints medians and what
the bare cipher does with the same bytes.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from types import MappingProxyType

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from ephemeralml.attestation.evidence import AppraisalTime, Evidence, Format, TimeBasis, VerifiedEvidence
from ephemeralml.attestation.verdict import Assurance
from ephemeralml.channel import (
    Body,
    ClientChannel,
    HelloReceived,
    Identity,
    MessageReceived,
    ServerChannel,
    ServerOffer,
    Suite,
)

READ = 256 << 10
SIZES = ((1 << 10, "1 KiB"), ((1 << 20) - 9, "1 MiB"))


def pair(suite: Suite) -> tuple[ClientChannel, ServerChannel]:
    """Return both ends of an established channel; its evidence is believed unseen, being none."""
    client = ClientChannel(suites=(suite,), formats=(Format.LOCAL,))
    server = ServerChannel(formats=(Format.LOCAL,))
    for _ in range(2):
        for event in server.receive_data(client.data_to_send()):
            if isinstance(event, HelloReceived):
                server.prepare(b"r" * 32, Identity("bench", "local", (), bytes(32)))
                server.send_hello(Evidence(Format.LOCAL, b"none"))
        for event in client.receive_data(server.data_to_send()):
            if isinstance(event, ServerOffer):
                client.accept(_believed(event))
    return client, server


def _believed(offer: ServerOffer) -> VerifiedEvidence:
    return VerifiedEvidence(
        format=offer.evidence.format,
        digest=offer.evidence.digest,
        receipt_key=offer.receipt_key,
        measurement_type=None,
        registers=MappingProxyType({}),
        software=True,
        debug=False,
        assurance=Assurance.DOCUMENT,
        at=AppraisalTime(TimeBasis.NOW, None, "clock"),
    )


def rounds(seconds: float, work: Callable[[], float]) -> float:
    """Return the median of what *work* gives, repeated for *seconds*."""
    found = [work()]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        found.append(work())
    return statistics.median(found)


def measure(suite: Suite, size: int, seconds: float) -> tuple[float, float, float]:
    """Return seconds per record for sending, for receiving, and for the bare cipher."""
    client, server = pair(suite)
    body = Body(1, os.urandom(size), fin=False)
    count = max(1, (4 << 20) // size)
    cipher = (AESGCM if suite is Suite.HYBRID_AES256 else ChaCha20Poly1305)(bytes(32))
    receiving: list[float] = []

    def send_and_receive() -> float:
        began = time.perf_counter()
        made = []
        for _ in range(count):
            client.send(body)
            made.append(client.data_to_send())
        sent = time.perf_counter()
        stream = memoryview(b"".join(made))
        reads = [bytes(stream[start : start + READ]) for start in range(0, len(stream), READ)]
        seen = 0
        before = time.perf_counter()
        for data in reads:
            for event in server.receive_data(data):
                seen += isinstance(event, MessageReceived)
        receiving.append((time.perf_counter() - before) / count)
        if seen != count:
            raise RuntimeError("a record was lost")
        return (sent - began) / count

    def bare() -> float:
        began = time.perf_counter()
        for _ in range(count):
            cipher.encrypt(bytes(12), body.data, bytes(28))
        return (time.perf_counter() - began) / count

    sending = rounds(seconds, send_and_receive)
    return sending, statistics.median(receiving), rounds(seconds / 4, bare)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per line (default 1.0)")
    seconds = parser.parse_args().seconds
    print(f"{'suite':18} {'record':>7} {'send':>22} {'receive':>22} {'bare cipher':>22}")
    for suite in (Suite.X25519_CHACHA20, Suite.HYBRID_AES256):
        for size, name in SIZES:
            times = measure(suite, size, seconds)
            cells = [f"{size / each / 1e9:6.2f} GB/s {each * 1e6:8.1f} µs" for each in times]
            print(f"{suite.name:18} {name:>7} " + " ".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
