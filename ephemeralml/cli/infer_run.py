"""One run of `ephemeralml infer`: connect, choose, ask, keep, show."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.verdict import printable
from ephemeralml.cli import console, infer_text
from ephemeralml.cli.exit_codes import Exit, ExitCode, of_error
from ephemeralml.cli.infer_inputs import Prompt, Task, check_creatable
from ephemeralml.client.archive import Bodies, ReceiptFiles, ReceiptFolder
from ephemeralml.client.call import encode_body
from ephemeralml.client.load import run_load
from ephemeralml.client.manifests import SCHEME
from ephemeralml.client.reply import Reply
from ephemeralml.client.selection import INFO_PATH, find
from ephemeralml.client.session import CONNECT_SECONDS, Session, connect
from ephemeralml.errors import EphemeralError, IncompleteError, UnavailableError

_RUNTIME_STATUSES = frozenset({401, 403, 408, 429})
"""Error statuses below 500 that are no fault of what was asked."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for."""

    target: str
    policy: Policy
    prompt: Prompt
    headers: Mapping[str, str] = field(repr=False)
    nonce: bytes | None
    receipt: Path | None
    evidence_dir: Path | None
    save_bodies: bool
    force: bool
    timeout: float


@dataclass(frozen=True, slots=True)
class _Chosen:
    task: Task
    model: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def ask_once(request: Request) -> None:
    """Ask once, verify, write what is to be kept, then print."""
    folder = _folder(request)
    with _session(request) as session:
        chosen = _choose(session, request)
        if request.receipt is not None:
            _fetch_manifest(session, chosen.model)
        reply, shown = _ask(session, chosen, request)
    files, lost = _kept(reply, chosen, request, folder)
    output = console.current()
    output.note(infer_text.verdict_line(reply.receipted))
    if not reply.ok:
        if lost is not None:
            output.warning(f"the receipt is not kept: {lost.message}")
        raise _refusal(reply, request.prompt, chosen.task)
    if output.json or not shown:
        document = infer_text.reply_document(reply, session.attested, [str(path) for path in files])
        output.result(document, lambda out: infer_text.show_reply(out, reply))
    if lost is not None:
        # Said on stderr alone: stdout has its one document.
        console.say("error:", console.visible(f"the receipt is not kept: {lost.message}"))
        console.say(
            "hint:", console.visible(lost.hint or "the answer above was verified; ask again for another receipt")
        )
        raise Exit(of_error(lost))


def ask_often(request: Request, count: int, concurrency: int) -> None:
    """Ask *count* times from *concurrency* threads; every receipt is verified."""
    output = console.current()
    folder = _folder(request)
    with _session(request) as session, output.progress() as progress:
        chosen = _choose(session, request)

        def ask() -> Reply:
            reply = session.post(chosen.task.path, content=chosen.body, headers=chosen.headers, timeout=request.timeout)
            _keep(reply, chosen, request, folder)
            return reply

        progress.step(f"asking {count} times")
        report = run_load(ask, count=count, concurrency=concurrency, progress=progress)
    document = infer_text.load_document(report, session.attested)
    output.result(document, lambda out: infer_text.show_load(out, report))
    if report.errors:
        raise Exit(ExitCode.UNAVAILABLE)


def _folder(request: Request) -> ReceiptFolder | None:
    if request.evidence_dir is None:
        return None
    folder = ReceiptFolder(request.evidence_dir)
    check_creatable(request.evidence_dir / "receipt.cbor")
    return folder


def _session(request: Request) -> Session:
    session = connect(request.target, policy=request.policy, timeout=min(request.timeout, CONNECT_SECONDS))
    for warning in infer_text.warnings_of(session.attested):
        console.current().warning(warning)
    return session


def _choose(session: Session, request: Request) -> _Chosen:
    """Settle model and task, refusing what cannot be meant before the prompt is sent."""
    prompt, models = request.prompt, session.attested.identity.models
    model = prompt.model
    if model is None:
        ids = sorted({entry.id for entry in models})
        if len(ids) != 1:
            served = ", ".join(printable(name) for name in ids) or "none"
            raise console.usage(f"the runtime serves {len(ids)} models", hint=f"choose with --model: {served}")
        model = ids[0]
    can = _task_of(session, model, request)
    if prompt.task is not None and can is not None and can is not prompt.task:
        raise console.usage(
            f"model '{printable(model)}' is for {can.value}, {prompt.task.option} asks for {prompt.task.value}",
            hint=f"use {can.option}",
        )
    task = prompt.task or can
    if task is None:
        raise console.usage("the runtime does not say what the model is for", hint="add --embed or --chat")
    if task is Task.EMBED and (prompt.stream or prompt.max_tokens is not None):
        raise console.usage("--stream and --max-tokens go with --chat", hint=f"'{printable(model)}' embeds")
    body, headers = encode_body(prompt.body(task, model), None, request.headers)
    assert body is not None
    return _Chosen(task, model, body, headers)


def _task_of(session: Session, model: str, request: Request) -> Task | None:
    """Return what the runtime says *model* is for, None where it says nothing of use."""
    reply = session.get(INFO_PATH, headers=request.headers, timeout=request.timeout)
    try:
        document = reply.json() if reply.ok else {}
    except (ValueError, RecursionError):
        return None
    aliases = document.get("aliases")
    name = aliases.get(model, model) if isinstance(aliases, dict) else model
    entry = find(name if isinstance(name, str) else model, session.attested.identity.models)
    listed = document.get("models")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and (item.get("model_id"), item.get("version")) == (entry.id, entry.version):
            return next((task for task in Task if task.value == item.get("task")), None)
    return None


def _fetch_manifest(session: Session, model: str) -> None:
    """Have the signed manifest at hand for the archive, where the model has one."""
    entry = find(model, session.attested.identity.models)
    if entry.scheme != SCHEME:
        return
    try:
        session.manifest(model)
    except IncompleteError as error:
        if session.attested.policy.models.publisher_keys:
            raise
        console.current().warning(f"{error.message}; none is kept")


def _ask(session: Session, chosen: _Chosen, request: Request) -> tuple[Reply, bool]:
    """Return the complete reply, and whether its text has been printed as it came."""
    path = chosen.task.path
    if not request.prompt.stream or console.current().json:
        reply = session.request(
            "POST", path, chosen.body, headers=chosen.headers, nonce=request.nonce, timeout=request.timeout
        )
        return reply, False
    with session.stream(
        "POST", path, chosen.body, headers=chosen.headers, nonce=request.nonce, timeout=request.timeout
    ) as streamed:
        live = streamed.status < 400
        pieces, line = [], b""
        for piece in streamed:
            pieces.append(piece)
            *lines, line = (line + piece).split(b"\n")
            if live:
                _print_deltas(lines)
    if live:
        print(flush=True)
    return Reply(streamed.status, streamed.headers, b"".join(pieces), streamed.receipted), live


def _print_deltas(lines: list[bytes]) -> None:
    for line in lines:
        delta = infer_text.chat_delta(line.decode(errors="replace").rstrip("\r"))
        if delta:
            sys.stdout.write(infer_text.tame(delta))
    sys.stdout.flush()


def _kept(
    reply: Reply, chosen: _Chosen, request: Request, folder: ReceiptFolder | None
) -> tuple[tuple[Path, ...], EphemeralError | None]:
    """Return what was archived, or why nothing was: the answer is not lost with its receipt."""
    try:
        return _keep(reply, chosen, request, folder), None
    except EphemeralError as error:
        return (), error


def _keep(reply: Reply, chosen: _Chosen, request: Request, folder: ReceiptFolder | None) -> tuple[Path, ...]:
    """Archive the receipt as the options ask; returns the files of --receipt."""
    if reply.receipted is None:
        return ()
    bodies = Bodies(chosen.body, reply.body) if request.save_bodies else None
    if folder is not None:
        folder.keep(reply.receipted, bodies)
    if request.receipt is None:
        return ()
    return ReceiptFiles(request.receipt).write(reply.receipted, bodies=bodies, force=request.force)


def _refusal(reply: Reply, prompt: Prompt, task: Task) -> EphemeralError:
    """Return the error that an error status means here."""
    message = infer_text.error_text(reply)
    if reply.status >= 500 or reply.status in _RUNTIME_STATUSES:
        hint = "the runtime wants a token: --token-file" if reply.status == 401 else None
        return UnavailableError(message, hint=hint)
    asked = f"{task.option} asked" if prompt.task is not None else "asked, as the model is for it, was"
    return console.usage(message, hint=f"{asked} {task.path}; the request has to change")
