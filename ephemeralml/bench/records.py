"""Record throughput: message, framing and AEAD, one core."""

from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile, row
from ephemeralml.channel.frames import HEADER_BYTES, MAX_PLAINTEXT, FrameReader
from ephemeralml.channel.key_schedule import derive
from ephemeralml.channel.messages import BODY_OVERHEAD, Body, Direction, decode, encode_pieces
from ephemeralml.channel.records import Opener, Sealer
from ephemeralml.channel.suites import Suite

_SESSION_ID = bytes(16)
_TARGET_GB_S = 1.5
_SUITES = {"ChaCha20-Poly1305": Suite.X25519_CHACHA20, "AES-256-GCM": Suite.HYBRID_AES256}


def measure(*, quick: bool) -> Section:
    """Seal and open body messages of 1 KiB and 1 MiB, under both ciphers."""
    rows: list[Row] = []
    targets: list[Target] = []
    for cipher, suite in _SUITES.items():
        for label, size, rounds in (("1 KiB", 1 << 10, 2_000), ("1 MiB", MAX_PLAINTEXT - BODY_OVERHEAD, 100)):
            seal, opened = _times(suite, size, rounds // 5 if quick else rounds)
            for verb, samples in (("seal", seal), ("open", opened)):
                name = f"record {verb} {label}, {cipher}"
                if size < MAX_PLAINTEXT // 2:
                    rows.append(row(name, samples, scale=1e6, unit="us"))
                    continue
                rate = size / quantile(samples, 0.5) / 1e9
                slow = size / quantile(samples, 0.95) / 1e9
                rows.append(Row(name, rate, "GB/s", p50=rate, p95=slow, n=len(samples)))
                targets.append(Target(name, rate, _TARGET_GB_S, "GB/s", at_most=False))
    return Section(tuple(rows), tuple(targets))


def _times(suite: Suite, size: int, rounds: int) -> tuple[list[float], list[float]]:
    """Return the times to turn a message into a frame, and the frame into the message."""
    key = derive(bytes(32), bytes(32)).s2c
    sealer, opener = Sealer(suite, key, _SESSION_ID), Opener(suite, key, _SESSION_ID)
    reader = FrameReader()
    message = Body(1, bytes(size), fin=True)
    wire: bytes | bytearray = b""

    def seal() -> None:
        nonlocal wire
        wire = sealer.seal_frame(encode_pieces(message))

    def open_() -> None:
        for frame in reader.feed(wire):
            decode(opener.open(frame.payload), Direction.SERVER_TO_CLIENT)

    samples = interleaved({"seal": seal, "open": open_}, rounds=rounds)
    assert len(wire) >= HEADER_BYTES + size
    return samples["seal"], samples["open"]
