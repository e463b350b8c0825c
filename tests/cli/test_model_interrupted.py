"""`model download` and `upload` over a slow line: an order to stop ends them at once and costs next to nothing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import save

from ephemeralml.model.create import create_package
from ephemeralml.model.sign import sign_package
from tests.fakes.key_source import OneKey
from tests.fakes.packages import PUBLISHER, request
from tests.fakes.s3_server import BUCKET, S3Server, moto_server
from tests.fakes.slow_line import SlowLine, slow_line

KEY = str(PUBLISHER.public)
SIZE = 48 << 20
RATE = 12 << 20
WORD = "interrupted; run it again to go on"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    folder = tmp_path_factory.mktemp("large")
    (folder / "model").mkdir()
    weights = np.random.default_rng(7).random(SIZE // 4, dtype=np.float32)
    (folder / "model" / "model.safetensors").write_bytes(save({"w": weights}))
    create_package(folder / "model", folder / "package", request(chunk_size=4 << 20), key_source=OneKey())
    sign_package(folder / "package", PUBLISHER)
    return folder / "package"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with moto_server() as server:
        yield server


class Command:
    """The real command against a store behind a line."""

    def __init__(self, server: S3Server, line: SlowLine) -> None:
        self._environment = {**os.environ, **server.environment(line.endpoint)}

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "ephemeralml", "model", *map(str, arguments)],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        return out


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def stopped(process: "subprocess.Popen[str]", *orders: signal.Signals) -> tuple[int, str, float]:
    """Send *orders*, and return the exit code, what was said, and the seconds that it took."""
    began = time.monotonic()
    for order in orders:
        process.send_signal(order)
        time.sleep(0.05)
    _, err = process.communicate(timeout=30)
    return process.returncode, err, time.monotonic() - began


@pytest.fixture
def line(s3: S3Server) -> Iterator[SlowLine]:
    with slow_line(s3.port, RATE) as made:
        yield made


def kept(part: Path) -> int:
    return sum(path.stat().st_size for path in (part / "blobs").iterdir())


@pytest.mark.parametrize(
    "orders", [[signal.SIGINT] * 4, [signal.SIGTERM], [signal.SIGKILL]], ids=["4 × INT", "TERM", "KILL"]
)
def test_a_download_that_is_stopped_keeps_what_came(
    s3: S3Server, line: SlowLine, package: Path, tmp_path: Path, orders: list[signal.Signals]
) -> None:
    place = f"s3://{BUCKET}/{tmp_path.name}"
    command = Command(s3, line)
    line.rate = 1e9
    command.run("upload", package, place)
    line.rate, line.down = RATE, 0
    download = ("download", place, tmp_path / "p", "--publisher-key", KEY)
    process = command.start(*download)
    until(lambda: line.down > SIZE * 2 // 3)
    came = line.down
    code, err, seconds = stopped(process, *orders)
    if orders[0] is not signal.SIGKILL:
        assert (code, err.splitlines()[-1]) == (130, WORD)
        assert "Traceback" not in err
        assert "Exception" not in err
        assert seconds < 2, "nothing is waited for"
    left = kept(tmp_path / "p.part")
    assert left > came - (12 << 20), "little more than what was on the line is lost"
    line.rate, line.down = 1e9, 0
    command.run(*download)
    assert line.down < SIZE - left + (2 << 20), "what was kept is not fetched again"
    assert not (tmp_path / "p.part").exists()


@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM])
def test_an_upload_that_is_stopped_ends_at_once_and_goes_on(
    s3: S3Server, line: SlowLine, package: Path, tmp_path: Path, order: signal.Signals
) -> None:
    import json

    place = f"s3://{BUCKET}/{tmp_path.name}"
    command = Command(s3, line)
    process = command.start("upload", package, place)
    until(lambda: line.up > SIZE * 5 // 6)
    code, err, seconds = stopped(process, order)
    assert (code, err.splitlines()[-1]) == (130, WORD)
    assert seconds < 2
    line.rate, line.up = 1e9, 0
    done = json.loads(command.run("upload", package, place, "--json"))
    assert 0 < done["bytes"] < SIZE - (8 << 20), "only what was sent now is counted"
    assert line.up < done["bytes"] + (1 << 20)
    line.down = 0
    command.run("download", place, tmp_path / "p", "--publisher-key", KEY)


def test_an_order_to_stop_does_not_wait_for_a_silent_server(s3: S3Server, line: SlowLine, tmp_path: Path) -> None:
    line.rate = 10
    process = Command(s3, line).start("download", f"s3://{BUCKET}/x", tmp_path / "p", "--publisher-key", KEY)
    until(lambda: line.up > 0)
    code, err, seconds = stopped(process, signal.SIGINT)
    assert (code, err.splitlines()[-1]) == (130, WORD)
    assert seconds < 2


def test_an_order_to_stop_does_not_wait_for_a_digest(package: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(package), str(tmp_path / "stored")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "hashing\n"
    code, err, seconds = stopped(process, *[signal.SIGINT] * 4)
    assert (code, err.splitlines()[-1]) == (130, WORD)
    assert "Traceback" not in err
    assert seconds < 2


_ENDLESS = """
import sys, time
from ephemeralml.cli.main import main
from ephemeralml.model import verify
def endless(*_):
    print("hashing", flush=True)
    time.sleep(30)
verify._blob_digest = endless
sys.argv[1:1] = ["model", "upload"]
main()
"""
