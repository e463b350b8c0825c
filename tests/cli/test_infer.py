"""Transcripts of `ephemeralml infer`: exits of channel section 7 (last bullet) and of cli.md."""

import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.channel import CloseReason
from ephemeralml.cli import infer_text
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import UnavailableError
from ephemeralml.model.manifest import Task
from tests.cli.runner import Result, run, run_process
from tests.client.conftest import settled
from tests.fakes.runtime import CHUNKS, PUBLISHER, FakeRuntime, embedding, envelope_of
from tests.fakes.runtime import RuntimeFault as F

MINILM = (envelope_of("minilm", "1.0.0"),)
TALKER = (envelope_of("talker", "2.0.0", Task.GENERATION),)


class Place:
    """A folder with a policy, and runtimes to ask."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[FakeRuntime] = []
        self.runtime: FakeRuntime | None = None

    def serve(self, *faults: F, policy: dict[str, Any] | None = None, **options: Any) -> FakeRuntime:
        options.setdefault("manifests", MINILM)
        self.runtime = FakeRuntime(faults=set(faults), **options)
        self.running.append(self.runtime)
        (self.folder / "policy.json").write_text(json.dumps(self.runtime.policy_document(**(policy or {}))))
        return self.runtime

    def infer(self, *args: object, policy: bool = True, text: bool = True) -> Result:
        assert self.runtime is not None
        given = [*(("--policy", "policy.json") if policy else ()), *(("--text", "hello") if text else ())]
        return run("infer", "--target", self.runtime.target, *given, *args, cwd=self.folder)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    made = Place(tmp_path / "work")
    yield made
    for runtime in made.running:
        runtime.close()


# -- exit 0


def test_embedding_is_shown_by_dimension_norm_and_first_values(place: Place) -> None:
    place.serve()
    result = place.infer("--embed")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith("embedding of 8 values, norm ")
    assert second.startswith(f"[{embedding('hello')[0]:.6f}, ")
    assert "warning: software TEE: not protected from this machine\n" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("verified: receipt ")
    assert "assurance document, local evidence, model minilm@1.0.0" in result.stderr
    assert place.files() == ["policy.json"]


def test_task_and_model_default_to_what_the_runtime_has(place: Place) -> None:
    runtime = place.serve()
    assert place.infer().exit_code == 0
    assert json.loads(runtime.prompts[0]) == {"model": "minilm", "input": "hello"}
    runtime = place.serve(manifests=TALKER)
    result = place.infer()
    assert result.stdout == "".join(CHUNKS) + "\n"
    assert json.loads(runtime.prompts[0])["messages"] == [{"role": "user", "content": "hello"}]


def test_json_is_one_document(place: Place) -> None:
    place.serve()
    document = place.infer("--json").json
    assert document["schema"] == "ephemeralml.infer/1"
    assert (document["status"], document["verdict"], document["assurance"]) == (200, "verified", "document")
    assert document["response"]["data"][0]["embedding"] == embedding("hello")
    assert document["receipt"]["model_id"] == "minilm"
    assert document["session"]["software"] is True
    assert document["warnings"][0] == "software TEE: not protected from this machine"


def test_quiet_leaves_warnings(place: Place) -> None:
    place.serve()
    result = place.infer("--quiet")
    assert "verified:" not in result.stderr
    assert "warning: software TEE" in result.stderr


def test_chat_streams_as_it_comes(place: Place) -> None:
    runtime = place.serve(manifests=TALKER)
    result = place.infer("--chat", "--stream", "--max-tokens", 5, "--receipt", "r.cbor")
    assert (result.exit_code, result.stdout) == (0, "".join(CHUNKS) + "\n")
    asked = json.loads(runtime.prompts[0])
    assert (asked["stream"], asked["max_tokens"]) == (True, 5)
    assert "r.cbor" in place.files()
    assert place.infer("--chat", "--stream", "--json").json["response"].endswith("data: [DONE]\n\n")


def test_receipt_comes_with_its_companions_and_verifies_offline(place: Place) -> None:
    place.serve()
    result = place.infer("--receipt", "r.cbor", "--nonce", "00112233445566778899", "--json")
    assert result.exit_code == 0
    assert result.json["files"] == ["r.cbor.att", "r.cbor.json", "r.cbor.manifest.json", "r.cbor"]
    assert place.files() == ["policy.json", "r.cbor", "r.cbor.att", "r.cbor.json", "r.cbor.manifest.json"]
    checked = run(
        "verify", "r.cbor", "--policy", "policy.json", "--nonce", "00112233445566778899", "--json", cwd=place.folder
    )
    assert (checked.exit_code, checked.json["verdict"]) == (0, "verified")


def test_receipt_is_kept_without_a_manifest_that_the_runtime_lacks(place: Place) -> None:
    place.serve(F.MANIFEST_MISSING)
    result = place.infer("--receipt", "r.cbor")
    assert result.exit_code == 0
    assert "none is kept" in result.stderr
    assert "r.cbor.manifest.json" not in place.files()


def test_evidence_folder_keeps_every_receipt(place: Place) -> None:
    place.serve()
    assert place.infer("--evidence-dir", "kept", "--count", 3).exit_code == 0
    kept = sorted(path.name for path in (place.folder / "kept").iterdir())
    assert len([name for name in kept if name.endswith(".cbor")]) == 3
    assert run("verify", "kept", "--policy", "policy.json", cwd=place.folder).exit_code == 0


def test_saved_bodies_are_exact_and_private_and_the_receipt_holds_against_them(place: Place) -> None:
    runtime = place.serve()
    result = place.infer("--receipt", "r.cbor", "--save-bodies", "--json")
    assert result.exit_code == 0
    assert result.json["files"][-3:] == ["r.cbor.request", "r.cbor.response", "r.cbor"]
    request, response = place.folder / "r.cbor.request", place.folder / "r.cbor.response"
    assert request.read_bytes() == runtime.prompts[-1]
    assert json.loads(response.read_bytes()) == result.json["response"]
    assert {path.stat().st_mode & 0o777 for path in (request, response)} == {0o600}
    against = ("verify", "r.cbor", "--policy", "policy.json", "--request", request.name, "--response")
    checked = run(*against, response.name, "--json", cwd=place.folder)
    assert checked.exit_code == 0
    rows = {row["id"]: row["status"] for row in checked.json["checks"]}
    assert (rows["RHASH"], rows["OHASH"]) == ("pass", "pass")
    assert run(*against, request.name, cwd=place.folder).exit_code == 3


def test_without_being_asked_no_body_is_kept(place: Place) -> None:
    place.serve()
    assert place.infer("--receipt", "r.cbor", "--save-bodies").exit_code == 0
    assert place.infer("--receipt", "r.cbor", "--force").exit_code == 0
    assert not [name for name in place.files() if name.endswith(("request", "response"))]


@pytest.mark.parametrize("more", [(), ("--count", 3, "--concurrency", 2)])
def test_saved_bodies_go_to_the_evidence_folder_too(place: Place, more: tuple[object, ...]) -> None:
    place.serve()
    assert place.infer("--evidence-dir", "kept", "--save-bodies", *more).exit_code == 0
    kept = sorted((place.folder / "kept").glob("*.cbor"))
    assert len(kept) == (3 if more else 1)
    for path in kept:
        bodies = ("--request", f"{path}.request", "--response", f"{path}.response")
        assert run("verify", path, "--policy", "policy.json", *bodies, cwd=place.folder).exit_code == 0


def test_saved_bodies_of_a_streamed_answer(place: Place) -> None:
    place.serve(manifests=TALKER)
    assert place.infer("--chat", "--stream", "--receipt", "r.cbor", "--save-bodies").exit_code == 0
    bodies = ("--request", "r.cbor.request", "--response", "r.cbor.response")
    assert run("verify", "r.cbor", "--policy", "policy.json", *bodies, cwd=place.folder).exit_code == 0


def test_load_test_verifies_every_receipt(place: Place) -> None:
    runtime = place.serve()
    result = place.infer("--count", 20, "--concurrency", 4, "--json")
    assert result.exit_code == 0
    document = result.json
    assert document["schema"] == "ephemeralml.infer-load/1"
    assert (document["requests"], document["receipts_verified"], document["concurrency"]) == (20, 20, 4)
    assert set(document["latency_ms"]) == {"p50", "p95", "p99"}
    assert len(runtime.prompts) == 20
    text = place.infer("--count", 2).stdout
    assert "2 replies in" in text
    assert "receipts    2 verified" in text


def test_prompt_from_file_and_from_stdin(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = place.serve()
    (place.folder / "prompt.txt").write_text("grüße\n")
    assert place.infer("--file", "prompt.txt", text=False).exit_code == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from stdin")))
    assert place.infer("-", text=False).exit_code == 0
    assert [json.loads(body)["input"] for body in runtime.prompts] == ["grüße\n", "from stdin"]


def test_insecure_accept_local_warns_each_time(place: Place) -> None:
    place.serve()
    for _ in range(2):
        result = place.infer("--insecure-accept-local", policy=False)
        assert result.exit_code == 0
        assert "warning: --insecure-accept-local: whatever software TEE answers is accepted" in result.stderr


def test_signed_policy_and_its_rollback(place: Place) -> None:
    runtime = place.serve()
    key = PrivateKey.generate()
    for version in (2, 1):
        (place.folder / f"{version}.json").write_bytes(runtime.policy(version=version).sign(key))
    new = place.infer("--policy", "2.json", "--policy-key", str(key.public), policy=False)
    assert new.exit_code == 0
    old = place.infer("--policy", "1.json", "--policy-key", str(key.public), policy=False)
    assert old.exit_code == 3
    unsigned = place.infer("--policy-key", str(key.public))
    assert unsigned.exit_code == 3
    assert place.infer("--policy", "2.json", policy=False).exit_code == 6


def test_the_number_of_an_unsigned_policy_is_not_kept(place: Place) -> None:
    runtime = place.serve()
    for version in (2, 1):
        (place.folder / f"{version}.json").write_bytes(runtime.policy(version=version).document)
        assert place.infer("--policy", f"{version}.json", policy=False).exit_code == 0
    assert list(place.folder.parent.rglob("policies.json")) == []


def test_an_archive_may_be_judged_by_an_older_version(place: Place) -> None:
    runtime = place.serve()
    key = PrivateKey.generate()
    for version in (1, 2):
        (place.folder / f"{version}.json").write_bytes(runtime.policy(version=version).sign(key))
    signed = ("--policy-key", str(key.public))
    assert place.infer("--policy", "2.json", *signed, "--receipt", "r.cbor", policy=False).exit_code == 0
    (state,) = place.folder.parent.rglob("policies.json")
    before = state.read_bytes()
    assert run("verify", "r.cbor", "--policy", "1.json", *signed, cwd=place.folder).exit_code == 0
    assert state.read_bytes() == before


def test_publisher_is_checked(place: Place) -> None:
    section = {"models": {"publisher_keys": [str(PUBLISHER.public)]}}
    place.serve(policy=section)
    assert place.infer().exit_code == 0
    runtime = place.serve(F.MANIFEST_OTHER_PUBLISHER, policy=section)
    assert place.infer().exit_code == 3
    assert runtime.prompts == []


def test_token_travels_inside(place: Place) -> None:
    place.serve(token="sesame")
    refused = place.infer("--embed")
    assert refused.exit_code == 5
    assert "hint: the runtime wants a token: --token-file" in refused.stderr
    (place.folder / "token").write_text("sesame\n")
    assert place.infer("--token-file", "token").exit_code == 0
    (place.folder / "token").write_text("ses\x00ame")
    assert place.infer("--token-file", "token").exit_code == 4


def test_whole_process(place: Place) -> None:
    runtime = place.serve()
    result = run_process(
        "infer", "--target", runtime.target, "--insecure-accept-local", "--text", "hello", "--json", cwd=place.folder
    )
    assert (result.exit_code, result.json["verdict"]) == (0, "verified")


# -- exits 3, 4, 5, 6


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        *((fault, 3) for fault in F if fault.name.startswith(("EVIDENCE_", "RECEIPT_"))
          and fault is not F.EVIDENCE_CALLED_NITRO),
        (F.IDENTITY_PRODUCTION, 3),
        (F.BAD_CONFIRMATION, 3),
        (F.RECORD_FLIPPED, 3),
        (F.RECORD_DROPPED, 3),
        (F.BODY_EDITED, 3),
        (F.GARBAGE_FRAME, 4),
        (F.MESSAGE_MALFORMED, 4),
        (F.TRUNCATED, 5),
        (F.NO_END, 5),
        (F.CLOSED_MID_REPLY, 5),
        (F.ABORTED, 5),
        (F.FAILED_LATE, 5),
        (F.ALERT, 5),
        (F.HANGS_UP, 5),
    ],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_exit_codes_of_refusals(place: Place, fault: F, code: int) -> None:
    place.serve(fault)
    result = place.infer("--embed", "--receipt", "r.cbor")
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert "error: " in result.stderr
    assert place.files() == ["policy.json"]


def test_every_wrong_register_is_named(place: Place) -> None:
    runtime = place.serve()
    local = runtime.policy_document()["local"]
    entry = {"name": "other", "pcr0": "11" * 48, "pcr1": "22" * 48, "pcr2": local["allow"][0]["pcr2"]}
    (place.folder / "policy.json").write_text(json.dumps(runtime.policy_document(local={**local, "allow": [entry]})))
    result = place.infer()
    assert result.exit_code == 3
    assert result.stderr.count("NITRO_MEASUREMENT_MISMATCH") == 2


def test_model_that_is_not_served_or_not_allowed(place: Place) -> None:
    runtime = place.serve()
    result = place.infer("--model", "gpt-9")
    assert result.exit_code == 3
    assert "error: the runtime does not serve model 'gpt-9'" in result.stderr
    assert "hint: it serves: minilm@1.0.0" in result.stderr
    (place.folder / "policy.json").write_text(
        json.dumps(runtime.policy_document(models={"allow": [{"model_id": "minilm", "min_version": "2.0.0"}]}))
    )
    assert place.infer().exit_code == 3
    assert runtime.prompts == []


def test_model_whose_publisher_cannot_be_checked_is_incomplete(place: Place) -> None:
    runtime = place.serve(F.MANIFEST_MISSING, policy={"models": {"publisher_keys": [str(PUBLISHER.public)]}})
    assert place.infer().exit_code == 6
    assert runtime.prompts == []


def test_no_answer_in_time(place: Place) -> None:
    place.serve(F.NEVER_ANSWERS)
    result = place.infer("--timeout", 0.2)
    assert result.exit_code == 5
    assert "error: no complete reply" in result.stderr


def test_interrupted_it_cancels_what_it_asked(place: Place) -> None:
    runtime = place.serve(F.NEVER_ANSWERS)
    process = subprocess.Popen(
        [sys.executable, "-m", "ephemeralml", "infer", "--target", runtime.target, "--insecure-accept-local",
         "--text", "hello", "--receipt", "r.cbor"],
        cwd=place.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    settled(lambda: bool(runtime.prompts), seconds=30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert err.endswith(b"interrupted\n")
    assert runtime.cancelled.wait(5)
    assert place.files() == ["policy.json"]


def test_timeout_bounds_the_handshake_too(place: Place) -> None:
    place.serve()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        target = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        result = run("infer", "--target", target, "--insecure-accept-local", "--text", "a", "--timeout", 0.3)
    assert result.exit_code == 5
    assert "no session within 0.3 s" in result.stderr
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def test_something_else_that_listens_there_is_called_so(place: Place, greeting: bytes) -> None:
    place.serve()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(greeting)
                while peer.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        target = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        result = run("infer", "--target", target, "--insecure-accept-local", "--text", "a")
        thread.join()
    assert result.exit_code == 4
    assert "hint: something else than a runtime or relay listens there" in result.stderr


@pytest.mark.parametrize("read", [0, 1 << 20])
def test_whoever_hangs_up_at_once_may_be_a_relay_without_its_runtime(place: Place, read: int) -> None:
    place.serve()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(read)

        thread = threading.Thread(target=hang_up)
        thread.start()
        target = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        result = run("infer", "--target", target, "--insecure-accept-local", "--text", "a")
        thread.join()
    assert result.exit_code == 5
    assert "hint: is the runtime behind a relay up" in result.stderr


def test_runtime_without_the_policy_s_kind_of_evidence(place: Place) -> None:
    runtime = place.serve()
    allow = runtime.policy_document()["local"]["allow"]
    policy = runtime.policy_document(
        formats=["nitro"], nitro={"roots": ["aws"], "allow": allow}, min_assurance="tee", security_modes=["production"]
    )
    del policy["local"], policy["allow_local"]
    (place.folder / "policy.json").write_text(json.dumps(policy))
    result = place.infer()
    assert result.exit_code == 5
    assert (
        "it has no evidence of a kind that the policy accepts, which is: nitro; unauthenticated alert 4"
        in result.stderr
    )
    assert "hint: the policy's formats and the runtime's evidence differ" in result.stderr


def test_runtime_that_has_gone(place: Place) -> None:
    runtime = place.serve()
    runtime.close()
    result = place.infer()
    assert result.exit_code == 5
    assert "hint: is it running, and is the address right?" in result.stderr


def test_runtime_that_closes_between_the_requests_of_a_load_test(place: Place) -> None:
    runtime = place.serve(F.CLOSED_MID_REPLY)
    assert place.infer("--count", 3, "--concurrency", 2).exit_code == 5
    runtime.close_sessions(CloseReason.DRAINING)


def test_load_test_with_a_refused_receipt_prints_no_figures(place: Place) -> None:
    place.serve(F.RECEIPT_WRONG_SEQUENCE)
    result = place.infer("--count", 3)
    assert (result.exit_code, result.stdout) == (3, "")


def test_error_reply_of_the_runtime_is_told_with_its_receipt_kept(place: Place) -> None:
    place.serve(manifests=TALKER)
    result = place.infer("--embed", "--json")
    assert result.exit_code == 2
    assert result.json["schema"] == "ephemeralml.error/1"


def test_json_of_an_error_is_one_document(place: Place) -> None:
    place.serve(F.RECEIPT_OTHER_RESPONSE)
    result = place.infer("--json")
    assert result.exit_code == 3
    assert result.json["code"] == "RESPONSE_HASH_MISMATCH"


# -- exit 2


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--chat",), "model 'minilm' is for embedding, --chat asks for generation"),
        (("--stream",), "--stream and --max-tokens go with --chat"),
    ],
)
def test_task_that_the_model_is_not_for_gets_no_prompt(place: Place, args: tuple[str, ...], words: str) -> None:
    runtime = place.serve()
    result = place.infer(*args)
    assert result.exit_code == 2
    assert words in result.stderr
    assert runtime.prompts == []


def test_several_models_have_to_be_chosen_from(place: Place) -> None:
    place.serve(manifests=(*MINILM, *TALKER))
    result = place.infer()
    assert result.exit_code == 2
    assert "hint: choose with --model: minilm, talker" in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--text", "a"), "give the policy"),
        (("--text", "a", "--policy", "p", "--insecure-accept-local"), "exclude each other"),
        (("--text", "a", "--insecure-accept-local", "--policy-key", "k"), "--policy-key is given without --policy"),
        (("--text", "a", "--policy", "nothing.json"), "cannot read policy"),
        (("--insecure-accept-local",), "give the prompt one way"),
        (("--insecure-accept-local", "--text", "a", "--file", "b"), "give the prompt one way"),
        (("--insecure-accept-local", "--text", "a", "-"), "give the prompt one way"),
        (("--insecure-accept-local", "hello"), "'hello' is no option"),
        (("--insecure-accept-local", "--file", "nothing.txt"), "cannot read prompt"),
        (("--insecure-accept-local", "--text", "a", "--chat", "--embed"), "--chat and --embed exclude each other"),
        (("--insecure-accept-local", "--text", "a", "--embed", "--stream"), "go with --chat"),
        (("--insecure-accept-local", "--text", "a", "--nonce", "00"), "--nonce is not 8 to 64 bytes"),
        (("--insecure-accept-local", "--text", "a", "--nonce", "zz" * 8), "--nonce is not 8 to 64 bytes"),
        (("--insecure-accept-local", "--text", "a", "--nonce", "00 " * 8), "--nonce is not 8 to 64 bytes"),
        (("--insecure-accept-local", "--text", "a", "--concurrency", "2"), "--concurrency is given without --count"),
        (("--insecure-accept-local", "--text", "a", "--count", "2", "--receipt", "r"), "--receipt goes with one"),
        (("--insecure-accept-local", "--text", "a", "--count", "2", "--nonce", "00" * 8), "--nonce goes with one"),
        (("--insecure-accept-local", "--text", "a", "--count", "0"), "--count"),
        (("--insecure-accept-local", "--text", "a", "--receipt", "no/r.cbor"), "does not exist"),
        (("--insecure-accept-local", "--text", "a", "--token-file", "nothing"), "cannot read token"),
        (("--insecure-accept-local", "--text", "a", "--save-bodies"), "--save-bodies keeps them beside a receipt"),
        (("--insecure-accept-local", "--text", "a", "--evidence-dir", "policy.json"), "'policy.json' is no folder"),
        (("--insecure-accept-local", "--text", ""), "the prompt is empty"),
        (("--insecure-accept-local", "--text", "-"), "hint: for stdin write - alone"),
        (("--insecure-accept-local", "--file", "-"), "hint: for stdin write - alone"),
        (("--insecure-accept-local", "--text", "a", "--target", "foo"), "--target: "),
    ],
    ids=range(26),
)
def test_options_that_cannot_be_meant(place: Place, args: tuple[str, ...], words: str) -> None:
    runtime = place.serve()
    result = run("infer", "--target", runtime.target, *args, cwd=place.folder)
    assert result.exit_code == 2, result.stderr
    assert words in result.stderr
    assert runtime.connections == 0
    assert place.files() == ["policy.json"]


@pytest.mark.parametrize("name", ["r.cbor", "r.cbor.att", "r.cbor.json", "r.cbor.manifest.json", "r.cbor.request"])
def test_nothing_is_overwritten_without_force(place: Place, name: str) -> None:
    runtime = place.serve()
    (place.folder / name).write_text("mine")
    result = place.infer("--receipt", "r.cbor")
    assert result.exit_code == 2
    assert runtime.connections == 0
    assert (place.folder / name).read_text() == "mine"
    assert place.infer("--receipt", "r.cbor", "--force").exit_code == 0
    assert not (place.folder / name).exists() or (place.folder / name).read_bytes() != b"mine"


@pytest.mark.parametrize(
    "options", [("--receipt", "/proc/r.cbor"), ("--receipt", "r" * 240 + ".cbor"), ("--evidence-dir", "/proc")]
)
def test_what_cannot_be_written_is_found_before_anything_is_asked(place: Place, options: tuple[str, str]) -> None:
    runtime = place.serve()
    result = place.infer(*options)
    assert (result.exit_code in {2, 5}, result.stdout) == (True, ""), result.stderr
    assert runtime.connections == 0


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_an_answer_is_not_lost_with_its_receipt(
    place: Place, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    place.serve()

    def full(*_: object, **__: object) -> None:
        raise UnavailableError("cannot write 'r.cbor': no space left on device")

    monkeypatch.setattr("ephemeralml.client.archive.ReceiptFiles.write", full)
    result = place.infer("--receipt", "r.cbor", *more)
    assert result.exit_code == 5
    assert "error: the receipt is not kept: cannot write 'r.cbor'" in result.stderr
    assert result.json["files"] == [] if more else result.stdout.startswith("embedding of ")


def test_prompt_and_policy_that_do_not_parse(place: Place) -> None:
    place.serve()
    (place.folder / "prompt").write_bytes(b"\xff\xfe")
    assert place.infer("--file", "prompt", text=False).exit_code == 4
    (place.folder / "policy.json").write_text("{}")
    assert place.infer().exit_code == 4


# -- rendering


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    assert infer_text.tame("a\x1b[2Jb\x07\x9b\n\tc") == "a\\x1b[2Jb\\x07\\x9b\n\tc"


@pytest.mark.parametrize(
    ("line", "text"),
    [('data: {"choices":[{"delta":{"content":"a"}}]}', "a"), ("data: [DONE]", None), (": comment", None),
     ("data: {", None), ("data: []", None), ('data: {"choices":[{"delta":{"content":1}}]}', None),
     ('data: {"choices":[]}', None), ('data: {"choices":[{}]}', None)],
)  # fmt: skip
def test_text_of_an_event(line: str, text: str | None) -> None:
    assert infer_text.chat_delta(line) == text
