"""Whole packages: made from files, loaded into memory, and what memory that takes."""

import shutil
import subprocess
import sys
from pathlib import Path

from ephemeralml.bench.measure import Row, Section, Target, interleaved, quantile
from ephemeralml.bench.synthetic_model import ThrowAway, package, request, workplace
from ephemeralml.errors import UnavailableError
from ephemeralml.model.container import load_files
from ephemeralml.model.create import create_package
from ephemeralml.model.manifest import Suite
from ephemeralml.model.verify_full import verify_plaintext
from ephemeralml.storage.file import FileStorage

_EXTRA_TARGET_MIB = 256.0
_MEASURED_MODEL_BYTES = 1 << 30
_CHILD_SECONDS = 300.0
_NOTES = {
    "create": "file to file; a digest of chunks, plaintext and blob",
    "verify": "a digest of chunks and of the plaintext",
    "load": "into fresh memory, whose pages are part of the time; a digest of chunks",
}
_SUITES = (Suite.CHACHA20POLY1305, Suite.AES256GCM)


def measure(*, quick: bool) -> Section:
    """Make, verify and load packages from files; then load a large one in a process of its own."""
    rates, memory = _rates(quick=quick), _memory(quick=quick)
    return Section(rates.rows + memory.rows, rates.targets + memory.targets)


def _rates(*, quick: bool) -> Section:
    size = (64 if quick else 256) << 20
    rows: list[Row] = []
    for suite in _SUITES:
        with workplace(3 * size) as place:
            made = package(place, size, suite)
            store = FileStorage(made.folder)
            source = place / "model.safetensors"

            def create(source: Path = source, place: Path = place, suite: Suite = suite) -> None:
                create_package(source, place / "again", request(suite), key_source=ThrowAway())
                shutil.rmtree(place / "again")

            def load() -> None:
                for file in load_files(made.verified, store, dek=made.dek).values():  # noqa: B023 - called below only
                    file.close()

            samples = interleaved(
                {
                    "create": create,
                    "load": load,
                    "verify": lambda: verify_plaintext(made.verified, store, dek=made.dek),  # noqa: B023 - as above
                },
                rounds=3 if quick else 5,
                warmup=1,
            )
        for key, what in (
            ("create", "package made"),
            ("verify", "package verified in full"),
            ("load", "package loaded"),
        ):
            found = [size / seconds / 1e9 for seconds in samples[key]]
            middle = quantile(found, 0.5)
            name, slow = f"{what}, {suite.value}", quantile(found, 0.05)
            rows.append(Row(name, middle, "GB/s", p50=middle, p95=slow, n=len(found), note=_NOTES[key]))
    return Section(tuple(rows))


def _memory(*, quick: bool) -> Section:
    size = _MEASURED_MODEL_BYTES >> (2 if quick else 0)
    with workplace(2 * size) as place:
        made = package(place, size)
        seconds, peak = _child(made.folder, made.verified.publisher_key.raw.hex(), bytes(made.dek.reveal()).hex())
    extra = (peak - made.size) / (1 << 20)
    name = f"memory beyond the plaintext, model of {size >> 20} MiB"
    rows = (
        Row(name, extra, "MiB", p50=extra, n=1, note="largest resident and anonymous memory of a process that loads"),
        Row(f"that load, {size >> 20} MiB", seconds, "s", p50=seconds, n=1),
    )
    return Section(rows, (Target(name, extra, _EXTRA_TARGET_MIB, "MiB", at_most=True),))


def _child(folder: Path, publisher: str, dek: str) -> tuple[float, int]:
    command = [sys.executable, "-P", "-m", "ephemeralml.bench.load_child", str(folder), publisher]
    done = subprocess.run(  # noqa: S603 - ourselves
        command, input=dek, capture_output=True, text=True, timeout=_CHILD_SECONDS, check=False
    )
    if done.returncode != 0:
        raise UnavailableError(f"the process that loads ended with {done.returncode}: {done.stderr[-300:]}")
    seconds, peak = done.stdout.split()
    return float(seconds), int(peak)
