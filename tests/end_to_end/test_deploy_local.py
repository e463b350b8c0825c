"""The main job over three processes: attest through the relay, infer, verify offline; and how it ends."""

import asyncio
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ephemeralml.attestation.policy import Policy
from ephemeralml.client.session import connect
from ephemeralml.errors import EphemeralError, RejectedError
from ephemeralml.model.demo import demo_model_folder
from tests.cli.runner import run
from tests.fakes.local_deployment import Deployment, NotDeployedError, deployed, gone
from tests.fakes.packages import STRANGER, signed_package

PROMPT = "the secret cat sat on the mat in the rain"
BODY = {"model": "tiny-bert", "input": PROMPT}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return signed_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def deployment(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment that listens in every way a relay can."""
    folder = tmp_path_factory.mktemp("d")
    addresses = ("tcp://127.0.0.1:0", f"unix://{folder}/front.sock", "ws://127.0.0.1:0/v1/channel")
    listen = [part for address in addresses for part in ("--listen", address)]
    with deployed(*listen, package=package) as running:
        yield running


def test_the_document_is_what_scripts_rely_on(deployment: Deployment) -> None:
    document = deployment.document
    assert document["endpoint"].startswith("tcp://127.0.0.1:")
    assert document["models"] == ["tiny-bert"]
    assert set(document["pids"]) == {"runtime", "relay", "supervisor"}
    assert document["pids"]["supervisor"] == deployment.process.pid
    assert len(bytes.fromhex(document["receipt_public_key"])) == 32
    assert Path(document["policy"]).is_file()


@pytest.mark.parametrize("way", [0, 1, 2], ids=["tcp", "unix", "ws"])
def test_infer_and_verify_offline(deployment: Deployment, tmp_path: Path, way: int) -> None:
    receipt = tmp_path / "r.cbor"
    target = deployment.document["endpoints"][way]
    asked = run(
        *("infer", "--target", target, "--policy", deployment.policy, "--embed", "--text", PROMPT),
        *("--receipt", receipt, "--json"),
    )
    assert asked.exit_code == 0, asked.stderr
    assert PROMPT not in asked.stderr
    verified = run("verify", receipt, "--policy", deployment.policy, "--json")
    assert verified.exit_code == 0, verified.stdout
    assert verified.json["verdict"] == "verified"
    assert verified.json["assurance"] == "document"
    assert verified.json["receipt"]["model_id"] == "tiny-bert"


def test_hashes_are_those_of_the_exact_bytes(deployment: Deployment) -> None:
    content = json.dumps(BODY, separators=(", ", " : ")).encode()  # spelled as nobody else would
    with connect(deployment.endpoint, policy=Policy.load(deployment.policy)) as session:
        reply = session.post("/v1/embeddings", content=content)
    assert reply.status == 200
    assert reply.receipt is not None
    claims = reply.receipt.claims
    assert claims.request_hash == hashlib.sha256(content).digest()
    assert claims.response_hash == hashlib.sha256(reply.body).digest()


def test_a_policy_for_another_build_is_refused(deployment: Deployment, tmp_path: Path) -> None:
    document = json.loads(deployment.policy.read_bytes())
    document["local"]["allow"][0]["pcr0"] = "ab" * 48
    other = tmp_path / "policy.json"
    other.write_text(json.dumps(document))
    with pytest.raises(RejectedError) as caught:
        connect(deployment.endpoint, policy=Policy.load(other))
    assert caught.value.code == "NITRO_MEASUREMENT_MISMATCH"


def test_a_policy_for_another_model_sends_nothing(deployment: Deployment, tmp_path: Path) -> None:
    document = json.loads(deployment.policy.read_bytes())
    document["models"]["allow"][0]["model_hash"] = "ab" * 32
    other = tmp_path / "policy.json"
    other.write_text(json.dumps(document))
    with pytest.raises(RejectedError), connect(deployment.endpoint, policy=Policy.load(other)) as session:
        session.post("/v1/embeddings", json=BODY)


@asynccontextmanager
async def _tapped(endpoint: str, tamper: Callable[[bytes, int], bytes] = lambda data, _: data):
    """Stand between client and relay: keep every byte, change what *tamper* changes of the answers."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    seen = bytearray()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        count = 0
        while data := await reader.read(1 << 16):
            seen.extend(data)
            writer.write(tamper(data, count) if down else data)
            count += len(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(host, int(port))
        ways = (copy(reader, back_writer, down=False), copy(back_reader, writer, down=True))
        await asyncio.gather(*ways, return_exceptions=True)
        for end in (writer, back_writer):
            end.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        await asyncio.sleep(0.05)


def _ask(target: str, policy: Policy) -> bytes:
    with connect(target, policy=policy) as session:
        return session.post("/v1/embeddings", json=BODY).body


async def test_the_relay_sees_neither_prompt_nor_answer_nor_weights(deployment: Deployment, package: Path) -> None:
    async with _tapped(deployment.endpoint) as (target, seen):
        body = await asyncio.to_thread(_ask, target, Policy.load(deployment.policy))
    assert len(seen) > len(body)
    assert PROMPT.encode() not in seen
    assert body[20:60] not in seen
    for blob in (package / "blobs").iterdir():
        data = blob.read_bytes()
        middle = data[len(data) // 2 :][:32]
        if len(set(middle)) > 8:
            assert middle not in seen


@pytest.mark.parametrize("at", [9, 60, 700, 3_000])
async def test_a_relay_that_flips_a_byte_is_caught(deployment: Deployment, at: int) -> None:
    def flip(data: bytes, before: int) -> bytes:
        where = at - before
        return data if not 0 <= where < len(data) else data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]

    async with _tapped(deployment.endpoint, flip) as (target, _):
        with pytest.raises(EphemeralError):
            await asyncio.to_thread(_ask, target, Policy.load(deployment.policy))
    assert _ask(deployment.endpoint, Policy.load(deployment.policy))


def test_a_clean_stop_with_a_session_open(package: Path) -> None:
    with deployed(package=package) as running:
        pids = running.document["pids"]
        state = Path(running.document["state"])
        with connect(running.endpoint, policy=Policy.load(running.policy)) as session:
            assert session.post("/v1/embeddings", json=BODY).status == 200
            began = time.monotonic()
            code, err = running.stop(signal.SIGINT)
            assert time.monotonic() - began < 10
        assert code == 0, err
        assert "software TEE" in err
        assert all(gone(pid) for pid in pids.values())
        assert not state.exists()


def test_it_ends_by_itself(package: Path) -> None:
    with deployed("--for", "0.5", package=package) as running:
        _, err = running.process.communicate(timeout=20)
        assert running.process.returncode == 0, err
        assert all(gone(pid) for pid in running.document["pids"].values())


@pytest.mark.parametrize("victim", ["runtime", "relay"])
def test_a_child_that_dies_ends_it_all(package: Path, victim: str) -> None:
    with deployed(package=package) as running:
        os.kill(running.document["pids"][victim], signal.SIGKILL)
        out, err = running.process.communicate(timeout=20)
        assert running.process.returncode == 5
        assert f"error: the {victim} was killed by signal 9" in err
        assert all(gone(pid) for pid in running.document["pids"].values())
        assert json.loads(out)["exit_code"] == 5  # the first document was read when it started


def test_children_do_not_outlive_a_supervisor_that_is_killed(package: Path, tmp_path: Path) -> None:
    with deployed("--state", tmp_path / "state", package=package) as running:
        os.kill(running.process.pid, signal.SIGKILL)
        assert gone(running.document["pids"]["runtime"])
        assert gone(running.document["pids"]["relay"])
    with deployed("--state", tmp_path / "state", package=package) as again:  # what it left behind is in nobody's way
        assert _ask(again.endpoint, Policy.load(again.policy))


def test_a_state_is_used_again_but_not_twice_at_once(package: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with deployed("--state", state, package=package) as first:
        pins = json.loads(first.policy.read_bytes())["local"]
        with (
            pytest.raises(NotDeployedError, match="another deployment runs from"),
            deployed("--state", state, package=package),
        ):
            pass
        assert first.stop()[0] == 0
    assert {path.name for path in state.iterdir()} >= {"authority", "enclave.toml", "policy.json", "runtime.log"}
    with deployed("--state", state, package=package) as second:
        assert json.loads(second.policy.read_bytes())["local"] == pins
        assert _ask(second.endpoint, Policy.load(second.policy))


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [("signer", 3, "signed by"), ("blob", 3, "the runtime ended with exit code 3"), ("manifest", 4, "JSON")],
)
def test_what_is_refused_has_its_exit_code_and_leaves_nothing(
    fault: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = signed_package(tmp_path, **({"key": STRANGER} if fault == "signer" else {}))
    if fault == "blob":
        blob = max((package / "blobs").iterdir(), key=lambda path: path.stat().st_size)
        data = bytearray(blob.read_bytes())
        data[-1] ^= 1
        blob.write_bytes(data)
    if fault == "manifest":
        (package / "manifest.json").write_text("{")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    with pytest.raises(NotDeployedError) as caught, deployed(package=package):
        pass
    assert caught.value.code == code, caught.value.stderr
    assert "error: " in caught.value.stderr
    assert said in caught.value.stderr
    assert "Traceback" not in caught.value.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_demo_model_through_the_whole_path(tmp_path: Path) -> None:
    try:
        demo_model_folder()
    except EphemeralError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    with deployed("--state", tmp_path / "state") as running:
        assert running.document["models"] == ["minilm-l6-v2"]
        with connect(running.endpoint, policy=Policy.load(running.policy)) as session:
            asked = {"model": "minilm-l6-v2", "input": ["a cat sat", "a kitten sat", "tax law"]}
            reply = session.post("/v1/embeddings", json=asked)
        assert reply.receipt is not None
        first, second, third = (item["embedding"] for item in reply.json()["data"])
        assert len(first) == 384
        near = sum(x * y for x, y in zip(first, second, strict=True))
        far = sum(x * y for x, y in zip(first, third, strict=True))
        assert near > 0.5 > far
