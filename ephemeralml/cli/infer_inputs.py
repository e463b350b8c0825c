"""What `ephemeralml infer` reads before it connects: prompt, policy, names of outputs."""

import os
import sys
import tempfile
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ephemeralml import clock
from ephemeralml.cli import console, verify_inputs
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.transport.address import Address

if TYPE_CHECKING:
    from ephemeralml.attestation.policy import Policy

MAX_PROMPT_BYTES = 15 << 20
"""Below a runtime's max_body, with room for JSON's escapes of ordinary text."""
MAX_TOKEN_BYTES = 4_096
_WAYS = "--text S, --file F, or - alone for stdin"


class Task(Enum):
    """What is asked of a model."""

    EMBED = "embedding"
    CHAT = "generation"

    @property
    def path(self) -> str:
        """The API's path."""
        return "/v1/embeddings" if self is Task.EMBED else "/v1/chat/completions"

    @property
    def option(self) -> str:
        """The option that asks for it."""
        return "--embed" if self is Task.EMBED else "--chat"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked, as far as the command line says it."""

    text: str = field(repr=False)
    task: Task | None
    model: str | None
    max_tokens: int | None
    stream: bool

    def body(self, task: Task, model: str) -> dict[str, Any]:
        """Return the request's JSON."""
        if task is Task.EMBED:
            return {"model": model, "input": self.text}
        asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": self.text}]}
        if self.max_tokens is not None:
            asked["max_tokens"] = self.max_tokens
        if self.stream:
            asked["stream"] = True
        return asked


def prompt_text(text: str | None, file: Path | None, source: str | None) -> str:
    """Return the prompt that exactly one of the three ways gives.

    Raises:
        UsageError: None of them, several, an empty one, or a file that cannot be read.
        MalformedError: It is no UTF-8, or too long.
    """
    if source not in (None, "-"):
        raise console.usage(f"{source!r} is no option", hint=f"give the prompt with {_WAYS}")
    if sum(way is not None for way in (text, file, source)) != 1:
        raise console.usage("give the prompt one way", hint=_WAYS)
    # Nobody means a dash as the prompt, and it would be asked without a word.
    for option, value in (("--text", text), ("--file", None if file is None else str(file))):
        if value == "-":
            raise console.usage(f"{option} - is no prompt", hint="for stdin write - alone, without an option before it")
    if text is not None:
        data = text.encode("utf-8", "surrogateescape")
    elif file is not None:
        data = console.read_file(file, max_bytes=MAX_PROMPT_BYTES, what="prompt")
    else:
        data = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if not data:
        raise console.usage("the prompt is empty")
    if len(data) > MAX_PROMPT_BYTES:
        raise MalformedError(f"a prompt of more than {MAX_PROMPT_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("the prompt is not UTF-8") from error


def check_target(target: str) -> None:
    """Refuse what is no address.

    Raises:
        UsageError: It is none.
    """
    try:
        Address.parse(target)
    except MalformedError as error:
        raise console.usage(f"--target: {error.message}", hint=error.hint) from error


def task_option(*, chat: bool, embed: bool, stream: bool | None, max_tokens: int | None) -> Task | None:
    """Return the task that the options ask for, None where they leave it to the model."""
    if chat and embed:
        raise console.usage("--chat and --embed exclude each other")
    if embed and (stream or max_tokens is not None):
        raise console.usage("--stream and --max-tokens go with --chat", hint="an embedding has no tokens to stream")
    if chat:
        return Task.CHAT
    return Task.EMBED if embed else None


def accepted(policy: Path | None, policy_key: str | None, *, insecure: bool) -> "Policy":
    """Return the policy to connect under; the unsafe one warns.

    A signed policy is held against the state file, so that an older version is
    refused; an unsigned one has nobody who could vouch for its number.
    """
    from ephemeralml.attestation.policy import Policy
    from ephemeralml.attestation.policy_state import PolicyState

    if (policy is None) is not insecure:
        raise console.usage(
            "give the policy" if policy is None else "--policy and --insecure-accept-local exclude each other",
            hint="--policy FILE; or --insecure-accept-local for a software TEE on this machine, for tests alone",
        )
    if policy is None:
        if policy_key is not None:
            raise console.usage("--policy-key is given without --policy")
        console.current().warning("--insecure-accept-local: whatever software TEE answers is accepted")
        return Policy.accept_local()
    loaded = verify_inputs.load_policy(policy, policy_key, clock.now())
    if loaded.signer is not None:
        PolicyState(_state_file()).admit(loaded)
    return loaded


def check_outputs(receipt: Path | None, folder: Path | None, *, save_bodies: bool, force: bool) -> None:
    """Refuse outputs that cannot be written before anything is sent; a file is made and removed to find out.

    Raises:
        UsageError: They contradict each other, or there is something already.
        UnavailableError: The disk or the permissions do not allow it.
    """
    if save_bodies and receipt is None and folder is None:
        raise console.usage("--save-bodies keeps them beside a receipt", hint="add --receipt or --evidence-dir")
    if folder is not None and os.path.lexists(folder) and not folder.is_dir():
        raise console.usage(f"--evidence-dir {str(folder)!r} is no folder", hint="name a folder, it is made if need be")
    if receipt is None:
        return
    from ephemeralml.client.archive import ReceiptFiles

    files = ReceiptFiles(receipt)
    for path in files.all:
        console.check_writable(path, force=force)
    files.check(force=force)
    check_creatable(max(files.all, key=lambda path: len(path.name)))


def check_creatable(path: Path) -> None:
    """Try to make a file of a name like *path*'s, beside it.

    Raises:
        UnavailableError: The disk, the permissions or the name's length do not allow it.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise UnavailableError(
            f"cannot write {str(path)!r}: {error.strerror}", hint="name a place that this user may write to"
        ) from error


def _state_file() -> Path:
    base = os.environ.get("XDG_STATE_HOME")
    folder = (Path(base) if base else Path.home() / ".local" / "state") / "ephemeralml"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "policies.json"


def nonce_option(text: str | None) -> bytes | None:
    """Return the nonce that an option gives in hex."""
    if text is None:
        return None
    try:
        nonce = bytes.fromhex(text)
    except ValueError:
        nonce = b""
    if not 8 <= len(nonce) <= 64 or len(text) != 2 * len(nonce):
        raise console.usage("--nonce is not 8 to 64 bytes in hex")
    return nonce


def authorization(token_file: Path | None) -> dict[str, str]:
    """Return the header that carries a bearer token, inside the channel."""
    if token_file is None:
        return {}
    token = console.read_file(token_file, max_bytes=MAX_TOKEN_BYTES, what="token").decode("ascii", "replace").strip()
    if not token.isprintable() or not token or not token.isascii():
        raise MalformedError(f"{str(token_file)!r} holds no token: printable ASCII is wanted")
    return {"authorization": f"Bearer {token}"}
