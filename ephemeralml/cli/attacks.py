"""The attacks that `demo` shows refused, each against the real thing.

Whether an attack was refused is read from what the client or the command line
says, its exit code and its failure code; nothing here knows the answer.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Self

from ephemeralml.attestation.policy import Policy
from ephemeralml.channel.frames import FrameReader, FrameType, encode_frame
from ephemeralml.errors import EphemeralError, RejectedError
from ephemeralml.transport import Address, SyncStream
from ephemeralml.transport import connect as dial

_COMMAND_SECONDS = 60
_READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack and what came of it."""

    name: str
    refused: bool
    code: str
    """The failure code, or what happened instead."""
    command: str
    """How to repeat it."""

    def to_json(self) -> dict[str, Any]:
        """Return the attack as the demo's document has it."""
        return {"name": self.name, "refused": self.refused, "code": self.code, "command": self.command}


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a child `ephemeralml … --json` said."""

    exit_code: int
    documents: tuple[dict[str, Any], ...]

    def failures(self) -> list[str]:
        """Return the codes of the checks that failed."""
        rows = [row for document in self.documents for row in document.get("checks", document.get("rows", ()))]
        return [str(row["code"]) for row in rows if row["status"] == "fail"]


def judge(*arguments: str) -> Judgement:
    """Run `ephemeralml` with ``--json`` in a process of its own, as an auditor would."""
    done = subprocess.run(  # noqa: S603 - this installation's own command
        # -P: nothing is imported from the working folder, whoever made it.
        [sys.executable, "-P", "-m", "ephemeralml", *arguments, "--json"],
        capture_output=True,
        check=False,
        timeout=_COMMAND_SECONDS,
    )
    said = json.loads(done.stdout) if done.stdout.strip() else {}
    return Judgement(done.returncode, tuple(said) if isinstance(said, list) else (said,))


def edited_receipt(receipt: Path, response_hash: bytes, policy: Path, copy: Path) -> Attack:
    """Make *copy* of *receipt* speak of another answer, and verify it."""
    other = response_hash[:-1] + bytes([response_hash[-1] ^ 1])
    copy.write_bytes(receipt.read_bytes().replace(response_hash, other))
    evidence = receipt.with_name(receipt.name + ".att")
    return _by_command(
        "a receipt edited to speak of another answer", "verify", copy, "--attestation", evidence, "--policy", policy
    )


def wrong_model(receipt: Path, policy: Path) -> Attack:
    """Ask whether *receipt* is of a model that it is not of."""
    expected = "00" * 31 + "01"
    return _by_command(
        "a receipt for another model", "verify", receipt, "--policy", policy, "--expect-model-hash", expected
    )


def production_policy(evidence: Path, policy: Path) -> Attack:
    """Judge the software TEE's document by a policy for real enclaves that pins its very registers."""
    return _by_command("a software TEE under a production policy", "policy", "check", policy, "--evidence", evidence)


def _by_command(name: str, *arguments: object) -> Attack:
    words = [str(argument) for argument in arguments]
    judged = judge(*words)
    failures = judged.failures()
    refused = judged.exit_code == 3 and bool(failures)
    code = ", ".join(dict.fromkeys(failures)) if failures else f"exit {judged.exit_code}"
    return Attack(name, refused, code, f"ephemeralml {' '.join(words)}")


def flipping_relay(target: str, policy: Policy, path: str, body: bytes) -> Attack:
    """Put a relay in the way that flips one bit of the first record it returns."""
    from ephemeralml.client.session import connect

    name = "a relay that flips one bit of the answer"
    with FlippingRelay(Address.parse(target)) as relay:
        try:
            with connect(relay.address, policy=policy) as session:
                session.post(path, content=body)
        except RejectedError as error:
            return Attack(name, relay.flipped == 1, error.code, "")
        except EphemeralError as error:
            return Attack(name, False, type(error).__name__, "")
    return Attack(name, False, "accepted", "")


class FlippingRelay:
    """A hostile relay for one connection: honest but for one bit."""

    def __init__(self, target: Address) -> None:
        import socket

        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = Thread(target=self._serve, name="flipping relay", daemon=True)
        self.flipped = 0
        """Records changed so far."""

    @property
    def address(self) -> str:
        """Where the victim connects."""
        host, port = self._listener.getsockname()[:2]
        return f"tcp://{host}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(_COMMAND_SECONDS)

    def _serve(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            upstream = dial(self._target)
            with client:
                answers = Thread(target=self._answers, args=(upstream, client), daemon=True)
                answers.start()
                with suppress(OSError, EphemeralError):
                    while data := client.recv(_READ_BYTES):
                        upstream.send(data)
                with suppress(OSError, EphemeralError):
                    upstream.send_eof()
                answers.join(_COMMAND_SECONDS)
            upstream.close()

    def _answers(self, upstream: SyncStream, client: Any) -> None:
        reader = FrameReader()
        with suppress(OSError, EphemeralError):
            while data := upstream.receive(_READ_BYTES):
                reader.receive(data)
                for frame in reader:
                    payload = bytes(frame.payload)
                    if frame.type is FrameType.RECORD and not self.flipped:
                        payload = payload[:-1] + bytes([payload[-1] ^ 1])
                        self.flipped += 1
                    client.sendall(encode_frame(frame.type, payload))
            client.shutdown(1)


def refused_all(attacks: Sequence[Attack]) -> bool:
    """Return whether every attack was refused."""
    return all(attack.refused for attack in attacks)
