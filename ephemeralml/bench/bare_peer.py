"""A runtime whose engine can also be asked bare: the child process of `path`.

It boots and serves as `ephemeralml enclave run` does. Beside the channel it
takes request bodies over a plain socket and answers with how long the bare
work took: read the JSON, tokenise, embed, write the JSON, on the very same
engine. Two engines, even of one model, differ by more than what is measured.
"""

import asyncio
import gc
import json
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from ephemeralml.enclave.api.embedding_work import EmbeddingWork
from ephemeralml.enclave.api.embeddings import model_name, parse_body, parse_request
from ephemeralml.enclave.attesters.opening import open_attester
from ephemeralml.enclave.boot import BootInputs, boot
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.enclave.server import Server

LENGTH = struct.Struct(">I")
SECONDS = struct.Struct(">d")
_MAX_INPUTS, _MAX_TEXT_BYTES = 2_048, 1 << 20


def _bare(runtime: Runtime, body: bytes) -> None:
    document = parse_body(body)
    name = model_name(document)
    model = runtime.registry.resolve(name)
    assert model is not None
    request = parse_request(document, max_inputs=_MAX_INPUTS, max_text_bytes=_MAX_TEXT_BYTES)
    work = EmbeddingWork(model, request, name)
    while work.advance() is None:
        pass


def _answer(runtime: Runtime, listener: socket.socket) -> None:
    """Serve one connection: a length and a body in, seconds out."""
    connection, _ = listener.accept()
    with connection, connection.makefile("rb") as stream:
        while head := stream.read(LENGTH.size):
            body = stream.read(*LENGTH.unpack(head))
            start = time.perf_counter()
            _bare(runtime, body)
            connection.sendall(SECONDS.pack(time.perf_counter() - start))


async def _serve(runtime: Runtime) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = Server(runtime)
    await server.start()
    gc.collect()
    gc.freeze()  # as `enclave run` does
    sys.stdout.write(json.dumps({"listen": server.addresses}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    await server.drain()


def main(config: str, authority: str, package: str, bare: str) -> None:
    """Boot, serve and answer bare until SIGTERM."""
    inputs = BootInputs(
        config=Path(config),
        packages=(Path(package),),
        open_attester=lambda measured: open_attester(measured, authority=Path(authority)),
    )
    runtime = boot(inputs)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(bare)
        listener.listen(1)
        threading.Thread(target=_answer, args=(runtime, listener), name="bare", daemon=True).start()
        try:
            asyncio.run(_serve(runtime))
        finally:
            runtime.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
