"""`ephemeralml demo`: the whole job on this machine."""

import json
import shlex
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ephemeralml.cli import console
from ephemeralml.cli.exit_codes import Exit, ExitCode
from ephemeralml.errors import UnavailableError

if TYPE_CHECKING:
    from rich.console import Console as Printer

    from ephemeralml.cli.attacks import Attack, Judgement
    from ephemeralml.cli.local_stack import LocalStack
    from ephemeralml.client.reply import Reply

app = typer.Typer()

SENTENCES = (
    "The patient was given penicillin and recovered within a week.",
    "A week after the antibiotic treatment the man was well again.",
    "The court adjourned the hearing until the first of March.",
)
PLAIN_WORDS = "software TEE: this machine's owner can read everything in it, so it proves nothing about hardware"


@dataclass(kw_only=True)
class _Story:
    """What happened, step by step."""

    endpoint: str = ""
    boot_ms: float = 0.0
    key: str = ""
    pcr0: str = ""
    similarities: list[list[float]] = field(default_factory=list)
    receipts: list[Path] = field(default_factory=list)
    policy: Path | None = None
    offline: "Judgement | None" = None
    attacks: list["Attack"] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every receipt verified and every attack was refused."""
        from ephemeralml.cli.attacks import refused_all

        assert self.offline is not None
        return self.offline.exit_code == 0 and refused_all(self.attacks)

    def to_json(self) -> dict[str, Any]:
        """Return the demo's document."""
        assert self.offline is not None
        return {
            "schema": "ephemeralml.demo/1",
            "held": self.held,
            "hardware": False,
            "endpoint": self.endpoint,
            "boot_ms": round(self.boot_ms, 1),
            "key": self.key,
            "pcr0": self.pcr0,
            "sentences": list(SENTENCES),
            "similarities": [[round(value, 4) for value in line] for line in self.similarities],
            "receipts": [str(path) for path in self.receipts],
            "verified": [
                f"{document['verdict']}, assurance {document['assurance']}" for document in self.offline.documents
            ],
            "attacks": [attack.to_json() for attack in self.attacks],
            "seconds": round(self.seconds, 1),
        }


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep receipts, policies and keys here; else nothing stays.")
    ] = None,
) -> None:
    """Show the whole job on this machine: package, serve, infer, verify, attacks refused.

    Encrypts the real MiniLM under a key that a key server releases to one
    measurement alone, and runs it in a software TEE behind a blind relay, all
    in processes of their own. A software TEE proves nothing about hardware.
    """
    from ephemeralml.cli.local_stack import StackRequest, local_stack

    output = console.current()
    output.warning(PLAIN_WORDS)
    begin = time.monotonic()
    with ExitStack() as block:
        folder = out or Path(block.enter_context(tempfile.TemporaryDirectory(prefix="ephemeralml-demo-")))
        receipts = _new_folder(folder, "receipts")
        forged = _new_folder(folder, "attacks")
        progress = block.enter_context(output.progress())
        request = StackRequest(listen=("tcp://127.0.0.1:0",), state=folder / "state", verbosity=output.verbosity)
        story = _play(block.enter_context(local_stack(request, progress)), receipts, forged, progress)
    story.seconds = time.monotonic() - begin
    output.result(story.to_json(), lambda printer: _print(story, printer, kept=out))
    if not story.held:
        raise Exit(ExitCode.REJECTED)


def _new_folder(folder: Path, name: str) -> Path:
    """Make one of the folders that are kept.

    Raises:
        UsageError: It exists, or *folder* is no folder.
        UnavailableError: The system does not allow it.
    """
    made = folder / name
    try:
        made.mkdir(parents=True)
    except FileExistsError as error:
        raise console.usage(f"{str(made)!r} exists", hint="name another folder with --out") from error
    except NotADirectoryError as error:
        raise console.usage(f"{str(folder)!r} is no folder", hint="name a folder with --out") from error
    except OSError as error:
        raise UnavailableError(f"cannot make the folder {str(made)!r}: {error.strerror}") from error
    return made


def _play(stack: "LocalStack", folder: Path, forged: Path, progress: Any) -> _Story:
    from ephemeralml.attestation.policy import Policy
    from ephemeralml.cli import attacks, gate_attacks
    from ephemeralml.client.archive import ReceiptFiles
    from ephemeralml.client.session import connect

    boot = stack.boot
    story = _Story(
        endpoint=stack.endpoint,
        boot_ms=sum(step["ms"] for step in boot["steps"]),
        pcr0=boot["measurements"]["pcr0"],
    )
    assert stack.keys is not None
    wrapped = gate_attacks.wrapped_key(stack.packages[0])
    story.policy, story.key = stack.policy, wrapped.key
    policy = Policy.load(stack.policy)
    progress.step("attest and embed three sentences")
    with connect(stack.endpoint, policy=policy) as session:
        replies = [session.post("/v1/embeddings", content=_body(stack.models[0], text)) for text in SENTENCES]
    kept = [reply.receipted for reply in replies if reply.receipted is not None]
    for number, receipted in enumerate(kept, 1):
        path = folder / f"{number}.cbor"
        ReceiptFiles(path).write(receipted)
        story.receipts.append(path)
    story.similarities = _similarities(replies)
    progress.step("verify the receipts offline")
    story.offline = attacks.judge("verify", *map(str, story.receipts), "--policy", str(stack.policy))
    progress.step("attack")
    first, evidence = story.receipts[0], story.receipts[0].with_name("1.cbor.att")
    production = forged / "production-policy.json"
    production.write_bytes(_production_policy(stack))
    story.attacks = [
        attacks.edited_receipt(first, kept[0].response_hash, stack.policy, forged / "edited.cbor"),
        attacks.wrong_model(first, stack.policy),
        attacks.flipping_relay(stack.endpoint, policy, "/v1/embeddings", _body(stack.models[0], SENTENCES[0])),
        attacks.production_policy(evidence, production),
        gate_attacks.other_measurements(stack, forged / "other-enclave.toml"),
        gate_attacks.no_attestation(stack.keys, wrapped),
        gate_attacks.edited_document(stack, stack.keys, wrapped),
    ]
    return story


def _body(model: str, text: str) -> bytes:
    return json.dumps({"model": model, "input": text}).encode()


def _similarities(replies: list["Reply"]) -> list[list[float]]:
    """Return the cosine of every pair; the vectors have unit length."""
    vectors = [reply.json()["data"][0]["embedding"] for reply in replies]
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in vectors] for one in vectors]


def _production_policy(stack: "LocalStack") -> bytes:
    """Return a policy for AWS Nitro that pins exactly what this runtime measured: only the root is missing."""
    document = json.loads(stack.policy.read_bytes())
    pinned = document["local"]["allow"]
    del document["local"], document["allow_local"]
    document |= {
        "policy_id": "demo-production",
        "formats": ["nitro"],
        "min_assurance": "tee",
        "security_modes": ["production"],
        "nitro": {"roots": ["aws"], "allow": pinned},
    }
    return json.dumps(document, indent=2).encode()


def _print(story: _Story, printer: "Printer", *, kept: Path | None) -> None:
    assert story.offline is not None
    printer.print(f"served      minilm-l6-v2 at {story.endpoint}, booted in {story.boot_ms:.0f} ms", markup=False)
    printer.print(f"encrypted   {story.key}", markup=False, soft_wrap=True)
    printer.print("            released to this measurement alone; the host passed on ciphertext", markup=False)
    printer.print(f"attested    PCR0 {story.pcr0[:32]}… matches the policy; keys agreed inside the TEE", markup=False)
    printer.print("similarity", markup=False)
    for line, sentence in zip(story.similarities, SENTENCES, strict=True):
        printer.print("            " + "".join(f"{value:7.3f}" for value in line) + f"   {sentence}", markup=False)
    printer.print("receipts    verified offline, by a process of its own", markup=False)
    for path, document in zip(story.receipts, story.offline.documents, strict=True):
        mark = "✓" if document["verdict"] == "verified" else "✗"
        printer.print(
            f"          {mark} {path.name}: {document['verdict']}, assurance {document['assurance']}", markup=False
        )
    printer.print("attacks", markup=False)
    for attack in story.attacks:
        verdict = f"refused, {attack.code}" if attack.refused else f"NOT REFUSED, {attack.code}"
        printer.print(f"          {'✓' if attack.refused else '✗'} {attack.name}: {verdict}", markup=False)
    if kept is not None:
        command = shlex.join(["ephemeralml", "verify", str(kept / "receipts"), "--policy", str(story.policy)])
        printer.print(f"kept        {command}", markup=False)
    result = "everything held" if story.held else "SOMETHING DID NOT HOLD"
    printer.print(f"{result}, in {story.seconds:.1f} s, on a {PLAIN_WORDS}", markup=False)
