"""Stock SDKs against the real runtime in a process of its own: replies, errors, restarts, load."""

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

import ephemeralml
from ephemeralml import clock
from ephemeralml.attestation.local.authority import Authority
from ephemeralml.attestation.policy import Policy
from ephemeralml.client.async_session import async_connect
from ephemeralml.client.call import SessionEndedError
from ephemeralml.client.reply import Receipted
from ephemeralml.client.session import connect
from ephemeralml.errors import EphemeralError, RejectedError
from tests.fakes.booted_runtime import config_source, write_files
from tests.fakes.packages import PUBLISHER, STRANGER
from tests.fakes.runtime_process import command, ready_document

BODY = {"model": "tiny-bert", "input": "the cat sat on the mat"}


class Place:
    """A runtime that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        source = (
            config_source(listen=f"unix://{folder}/runtime.sock")
            + b'\n[models.aliases]\n"text-embedding-3" = "tiny-bert"\n'
        )
        self.files = write_files(folder, source)
        self.authority = Authority.create(folder / "authority")
        self.target = f"unix://{folder}/runtime.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        log = self.folder / "stderr"
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                command(self.files, self.folder / "authority"), stdout=subprocess.PIPE, stderr=stderr
            )
        assert self.process.stdout is not None
        return ready_document(self.process.stdout, log)

    def end(self, *, kill: bool = False) -> None:
        assert self.process is not None
        self.process.kill() if kill else self.process.terminate()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def policy(self, **models: Any) -> Policy:
        document = {
            "schema": "ephemeralml.policy/1",
            "policy_id": "end-to-end",
            "version": 1,
            "created_at": clock.format_rfc3339(clock.now()),
            "expires_at": clock.format_rfc3339(clock.now() + timedelta(hours=1)),
            "formats": ["local"],
            "allow_local": True,
            "min_assurance": "document",
            "security_modes": ["evaluation"],
            "local": {"roots": [f"sha256:{self.authority.fingerprint.hex()}"], "allow": []},
            "models": models or {"publisher_keys": [str(PUBLISHER.public)], "allow": [{"model_id": "tiny-bert"}]},
        }
        return Policy.parse(json.dumps(document).encode(), now=clock.now())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("r"))
    made.start()
    yield made
    made.end()


@pytest.fixture
def seen() -> list[Receipted]:
    return []


@pytest.fixture
def sdk(place: Place, seen: list[Receipted]) -> Iterator[OpenAI]:
    client = ephemeralml.httpx_client(place.target, policy=place.policy(), on_receipt=seen.append)
    with OpenAI(api_key="unused", base_url="http://enclave/v1", http_client=client) as made:
        yield made


def test_sdk_embeds(sdk: OpenAI, seen: list[Receipted]) -> None:
    default = sdk.embeddings.create(**BODY)
    plain = sdk.embeddings.create(**BODY, encoding_format="float")
    assert default.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert default.usage.prompt_tokens > 0
    many = sdk.embeddings.create(model="tiny-bert", input=["a", "b", "c"])
    assert [item.index for item in many.data] == [0, 1, 2]
    assert [item.receipt.claims.sequence_number for item in seen] == [0, 1, 2]
    assert {item.attested.verified.assurance.label for item in seen} == {"document"}
    assert all(item.manifest is not None for item in seen)


def test_sdk_lists_models_and_names_them_in_any_way(sdk: OpenAI, seen: list[Receipted]) -> None:
    names = [model.id for model in sdk.models.list()]
    assert "tiny-bert" in names
    for name in (*names, "tiny-bert@1.0.0"):
        assert sdk.embeddings.create(model=name, input="a").data
    assert {item.receipt.claims.model_id for item in seen} == {"tiny-bert"}
    assert "text-embedding-3" in names


def test_sdk_sees_errors_as_its_own_and_their_receipts_are_verified(sdk: OpenAI, seen: list[Receipted]) -> None:
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        sdk.embeddings.create(**BODY, dimensions=3)
    assert len(seen) == 1
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(model="tiny-bert", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("nothing")
    # Releases 2.x of the SDK wrap whatever is raised.
    with pytest.raises((RejectedError, openai.APIConnectionError)):
        sdk.embeddings.create(model="nothing", input="a")


async def test_async_sdk(place: Place, seen: list[Receipted]) -> None:
    client = ephemeralml.async_httpx_client(place.target, policy=place.policy(), on_receipt=seen.append)
    async with AsyncOpenAI(api_key="unused", base_url="http://enclave/v1", http_client=client) as sdk:
        result = await sdk.embeddings.create(**BODY)
        assert result.data[0].embedding
    assert len(seen) == 1


async def test_async_session(place: Place) -> None:
    async with await async_connect(place.target, policy=place.policy()) as session:
        assert (await session.post("/v1/embeddings", json=BODY)).receipt is not None


def test_many_threads_over_one_session(place: Place, seen: list[Receipted]) -> None:
    with (
        connect(place.target, policy=place.policy(), on_receipt=seen.append) as session,
        ThreadPoolExecutor(48) as pool,
    ):
        replies = list(pool.map(lambda n: session.post("/v1/embeddings", json={**BODY, "input": str(n)}), range(300)))
    assert {reply.status for reply in replies} == {200}
    assert sorted(item.receipt.claims.sequence_number for item in seen) == list(range(300))


def test_model_of_another_publisher_gets_no_prompt(place: Place) -> None:
    policy = place.policy(publisher_keys=[str(STRANGER.public)])
    with connect(place.target, policy=policy) as session, pytest.raises(RejectedError) as caught:
        session.post("/v1/embeddings", json=BODY)
    assert caught.value.code == "MODEL_PUBLISHER_REJECTED"


@pytest.mark.parametrize(
    "kill",
    [
        # A session that nobody reads from answers the runtime's close only when it is used next.
        pytest.param(False, id="drained", marks=pytest.mark.slow),
        pytest.param(True, id="killed"),
    ],
)
def test_restarted_runtime_is_verified_anew(tmp_path: Path, seen: list[Receipted], kill: bool) -> None:
    place = Place(tmp_path)
    keys = [place.start()["receipt_public_key"]]
    client = ephemeralml.httpx_client(place.target, policy=place.policy(), on_receipt=seen.append)
    with client, connect(place.target, policy=place.policy()) as session:
        assert client.post("/v1/embeddings", json=BODY).is_success
        place.end(kill=kill)
        keys.append(place.start()["receipt_public_key"])
        with pytest.raises(SessionEndedError):
            session.post("/v1/embeddings", json=BODY)
        assert client.post("/v1/embeddings", json=BODY).is_success
    place.end()
    assert keys[0] != keys[1]
    assert [item.attested.receipt_key.hex() for item in seen] == keys


def test_runtime_of_another_authority_at_the_same_address_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.start()
    client = ephemeralml.httpx_client(place.target, policy=place.policy())
    with client:
        assert client.post("/v1/embeddings", json=BODY).is_success
        place.end(kill=True)
        (tmp_path / "authority").rename(tmp_path / "true authority")
        Authority.create(tmp_path / "authority")
        place.start()
        with pytest.raises(EphemeralError) as caught:
            client.post("/v1/embeddings", json=BODY)
    place.end()
    assert isinstance(caught.value, RejectedError)
    assert caught.value.code == "NITRO_CERT_CHAIN_INVALID"
