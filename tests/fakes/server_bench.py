"""A served runtime over a hash engine, with a clock that tests may push."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ephemeralml.enclave.attesters.base import Attester
from ephemeralml.enclave.config import RuntimeConfig
from ephemeralml.enclave.server import Server
from tests.fakes.booted_runtime import booted, config_source, serving, software_attester, write_files
from tests.fakes.embedding_engine import HashEngine


class ServerBench:
    """A served runtime over a hash engine, with a clock that tests may push."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = HashEngine(dim=8)
        self.ahead = 0.0
        self.gate: threading.Event | None = None

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead

    @contextlib.asynccontextmanager
    async def serve(self, *, source: bytes | None = None, wrap: Any = None, **limits: Any) -> AsyncIterator[Server]:
        def attester(config: RuntimeConfig) -> Attester:
            made = software_attester(config)
            return wrap(made) if wrap else made

        files = write_files(self.folder, source or config_source(limits=limits))
        with booted(files, make_engine=lambda *_: self.engine, open_attester=attester) as runtime:
            self.engine.gate = self.gate
            self.engine.batches.clear()
            async with serving(runtime, clock=self.clock) as server:
                yield server
            if self.gate is not None:
                self.gate.set()

    def hold(self) -> threading.Event:
        """Let the engine wait for the returned event, from the end of the boot on."""
        self.gate = threading.Event()
        return self.gate


async def eventually(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for is another thread's or the server's own
            await asyncio.sleep(0.01)
