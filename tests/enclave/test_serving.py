"""Requests served: boot, handshake, engine, receipt, all of it in this process (serving sections 1 and 3)."""

import base64
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ephemeralml.channel.messages import Outcome
from ephemeralml.channel.suites import Suite
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.enclave.server import Server
from ephemeralml.model.envelope import PAYLOAD_TYPE
from ephemeralml.model.verify import verify_manifest
from tests.fakes.booted_runtime import booted, config_source, serving, write_files
from tests.fakes.packages import PUBLISHER
from tests.fakes.raw_client import Answer, RawClient, connected

ALIASES = b"\n[models.aliases]\nshort = 'tiny-bert'\n"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    folder = tmp_path_factory.mktemp("runtime")
    with booted(
        write_files(folder, config_source(limits={"max_inputs": 50, "max_text_bytes": 4096}) + ALIASES)
    ) as made:
        yield made


@pytest.fixture
async def server(runtime: Runtime) -> AsyncIterator[Server]:
    async with serving(runtime) as made:
        yield made


@pytest.fixture
async def client(server: Server) -> AsyncIterator[RawClient]:
    async with connected(server.addresses[0]) as made:
        yield made


def vectors(answer: Answer) -> np.ndarray:
    assert answer.status == 200, bytes(answer.body)
    entries = answer.json()["data"]
    assert [entry["index"] for entry in entries] == list(range(len(entries)))
    return np.array([entry["embedding"] for entry in entries], dtype=np.float32)


def refused(answer: Answer, status: int, param: str | None = None) -> dict[str, Any]:
    assert answer.status == status, bytes(answer.body)
    assert answer.outcome is Outcome.ERROR
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    return error


async def test_an_embedding_with_its_receipt(client: RawClient) -> None:
    answer = await client.embed({"model": "tiny-bert", "input": "the cat sat on the mat"}, nonce=b"challenge!")
    assert answer.headers["content-type"] == "application/json"
    vector = vectors(answer)
    assert vector.shape == (1, 16)
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-5
    document = answer.json()
    assert document["object"] == "list"
    assert document["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    assert document["model"] == "tiny-bert"
    assert answer.outcome is Outcome.COMPLETE
    assert answer.end is not None
    assert answer.end.usage.prompt_tokens == 8
    assert answer.receipt is not None
    claims = answer.receipt.claims
    assert claims.eat_nonce == b"challenge!"
    assert claims.request_hash == hashlib.sha256(answer.body_sent).digest()
    assert claims.response_hash == hashlib.sha256(bytes(answer.body)).digest()
    assert claims.security_mode == "evaluation"
    assert claims.memory_peak_mb > 0
    assert (claims.iss, claims.policy_version) == ("ephemeralml", "local")


@pytest.mark.parametrize("suite", list(Suite))
async def test_every_suite(server: Server, suite: Suite) -> None:
    async with connected(server.addresses[0], suites=(suite,)) as client:
        assert (await client.embed({"model": "tiny-bert", "input": "hello"})).status == 200
        assert client.offer is not None
        assert client.offer.suite is suite


async def test_all_forms_of_input_agree(client: RawClient, runtime: Runtime) -> None:
    texts = ["hello world", "the cat sat on the mat in the rain", "a"]
    ids = runtime.registry.models[0].engine.tokenize(texts)
    alone = np.concatenate([vectors(await client.embed({"model": "tiny-bert", "input": text})) for text in texts])
    for given in (texts, ids):
        together = vectors(await client.embed({"model": "tiny-bert", "input": given}))
        assert np.abs(together - alone).max() < 1e-6
    single = vectors(await client.embed({"model": "tiny-bert", "input": ids[0]}))
    assert np.array_equal(single[0], alone[0])


async def test_base64_is_little_endian_float32(client: RawClient) -> None:
    as_floats = vectors(await client.embed({"model": "tiny-bert", "input": ["hello"], "encoding_format": "float"}))
    packed = await client.embed({"model": "tiny-bert", "input": ["hello"], "encoding_format": "base64"})
    raw = base64.b64decode(packed.json()["data"][0]["embedding"])
    assert np.array_equal(np.frombuffer(raw, "<f4"), as_floats[0])


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-bert@1.0.0", "short"])
async def test_names_of_a_model(client: RawClient, name: str) -> None:
    answer = await client.embed({"model": name, "input": "hello"})
    assert answer.status == 200
    assert answer.json()["model"] == "tiny-bert"
    assert answer.receipt is not None


async def test_long_texts_are_cut_as_the_model_says(client: RawClient) -> None:
    answer = await client.embed({"model": "tiny-bert", "input": "the cat " * 200})
    assert answer.json()["usage"]["prompt_tokens"] == 48


async def test_many_inputs_in_slices(client: RawClient) -> None:
    texts = [" ".join(["cat"] * (1 + index % 40)) for index in range(50)]
    answer = await client.embed({"model": "tiny-bert", "input": texts})
    assert vectors(answer).shape == (50, 16)
    assert answer.json()["usage"]["prompt_tokens"] == sum(2 + 1 + index % 40 for index in range(50))


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"user": "someone"}, "user"),
        ({"temperature": 0}, "temperature"),
        ({"dimensions": 8}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": "16"}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": 1}, "encoding_format"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": {}}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", 1]}, "input"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [[]]}, "input"),
        ({"input": [[1], "a"]}, "input"),
        ({"input": [[1.0]]}, "input"),
        ({"input": [True]}, "input"),
        ({"input": [[True]]}, "input"),
        ({"input": [-1]}, "input"),
        ({"input": [100_000]}, "input"),
        ({"input": [2] * 49}, "input"),
        ({"input": ["a"] * 51}, "input"),
        ({"input": "é" * 2049}, "input"),
    ],
)
async def test_a_bad_parameter_is_named_and_receipted(client: RawClient, change: dict[str, Any], param: str) -> None:
    answer = await client.embed({"model": "tiny-bert", "input": "hello", **change})
    refused(answer, 400, param)
    # A model had been selected, so the refusal has its receipt.
    assert answer.receipt is not None
    assert (await client.embed({"model": "tiny-bert", "input": "hello"})).status == 200


async def test_a_text_that_the_tokenizer_refuses_is_a_400(tmp_path: Path) -> None:
    with booted(write_files(tmp_path)) as runtime:
        async with serving(runtime) as server, connected(server.addresses[0]) as client:
            answer = await client.embed({"model": "tiny-bert", "input": " " * 200_000 + "cat"})
            refused(answer, 400, "input")
            assert answer.receipt is not None
            assert (await client.embed({"model": "tiny-bert", "input": "cat"})).status == 200


async def test_nulls_and_the_models_own_dimensions_are_fine(client: RawClient) -> None:
    body = {"model": "tiny-bert", "input": "hello", "dimensions": None, "encoding_format": None}
    assert (await client.embed(body)).status == 200
    assert (await client.embed({"model": "tiny-bert", "input": "hello", "dimensions": 16})).status == 200


async def test_an_unknown_model_has_no_receipt(client: RawClient) -> None:
    answer = await client.embed({"model": "gpt-9", "input": "hello"})
    error = refused(answer, 404, "model")
    assert error["code"] == "model_not_found"
    assert answer.end is not None
    assert answer.end.receipt is None
    # Null receipts do not count: the next one is still the first.
    following = await client.embed({"model": "tiny-bert", "input": "hello"})
    assert following.receipt is not None
    assert following.receipt.claims.sequence_number == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b'{"model": NaN}', None),
        (b'{"model": "tiny-bert", "input": "a", "input": "b"}', None),
        (b'{"model": "tiny-bert", "input": "\\ud800"}', None),
        (b"[" * 100_000, None),
        (b"{}", "model"),
        (b'{"model": 1}', "model"),
        (b'{"model": ""}', "model"),
    ],
)
async def test_bodies_without_one_reading(client: RawClient, body: bytes, param: str | None) -> None:
    answer = await client.request("POST", "/v1/embeddings", body)
    refused(answer, 400, param)
    assert answer.end is not None
    assert answer.end.receipt is None
    assert (await client.embed({"model": "tiny-bert", "input": "hello"})).status == 200


async def test_a_large_body_goes_through_the_parsers_threads(client: RawClient) -> None:
    body = b" " * 3_000_000 + json.dumps({"model": "tiny-bert", "input": "hello"}).encode()
    answer = await client.request("POST", "/v1/embeddings", body)
    assert answer.status == 200
    assert answer.receipt is not None
    broken = await client.request("POST", "/v1/embeddings", b" " * 100_000)
    refused(broken, 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/v1/embeddings", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/models/tiny-bert", 405),
        ("POST", "/healthz", 405),
        ("GET", "/v1/models/gpt-9", 404),
        ("GET", "/v1/ephemeralml/manifests/" + "0" * 64, 404),
        ("GET", "/v1/ephemeralml/manifests/../../etc/passwd", 404),
        ("POST", "/v1/embeddings?beta=1", 400),
        ("GET", "/v1/models?limit=1", 400),
    ],
)
async def test_other_paths_and_methods(client: RawClient, method: str, path: str, status: int) -> None:
    body = b'{"model":"tiny-bert","input":"hello"}' if method == "POST" else b""
    answer = await client.request(method, path, body)
    assert answer.status == status
    assert answer.json()["error"]["message"]
    assert answer.end is not None
    assert answer.end.receipt is None
    if status == 405:
        assert answer.headers["allow"] in ("GET", "POST")
    assert (await client.request("GET", "/healthz")).status == 200


async def test_the_models(client: RawClient, runtime: Runtime) -> None:
    listing = (await client.request("GET", "/v1/models")).json()
    assert listing["object"] == "list"
    assert [entry["id"] for entry in listing["data"]] == ["tiny-bert", "short"]
    entry = (await client.request("GET", "/v1/models/tiny-bert@1.0.0")).json()
    assert entry["object"] == "model"
    assert entry["ephemeralml"]["model_hash"] == runtime.registry.models[0].model_hash.hex()
    assert entry["ephemeralml"]["model_hash_scheme"] == "sha256-manifest"
    assert entry["ephemeralml"]["publisher_key"] == str(PUBLISHER.public)


async def test_the_manifest_is_the_signed_envelope(client: RawClient, runtime: Runtime) -> None:
    digest = runtime.registry.models[0].model_hash.hex()
    answer = await client.request("GET", f"/v1/ephemeralml/manifests/{digest}")
    assert answer.status == 200
    verified = verify_manifest(bytes(answer.body), publisher_keys=(PUBLISHER.public,), allow_plaintext=True)
    assert verified.model_hash.hex() == digest
    assert answer.json()["payloadType"] == PAYLOAD_TYPE


async def test_the_sessions_own_evidence(client: RawClient) -> None:
    assert client.offer is not None
    document = (await client.request("GET", "/v1/attestation")).json()
    assert base64.b64decode(document["document"]) == client.offer.evidence.document
    assert document["document_sha256"] == client.offer.evidence.digest.hex()
    assert document["channel_binding"] == client.offer.binding.hex()
    assert document["nonce"] == client.channel.nonce.hex()
    assert document["receipt_public_key"] == client.offer.receipt_key.hex()
    assert document["format"] == "local"


async def test_health_and_info(client: RawClient, runtime: Runtime) -> None:
    assert (await client.request("GET", "/healthz")).json() == {"status": "ok"}
    info = (await client.request("GET", "/v1/ephemeralml/info")).json()
    assert info["config_sha256"] == runtime.config.digest.hex()
    assert info["models"][0]["model_id"] == "tiny-bert"
    assert info["aliases"] == {"short": "tiny-bert@1.0.0"}
    assert info["limits"]["max_inflight"] == 32
    refused(await client.request("GET", "/healthz", b"body"), 400)


async def test_the_identity_says_what_runs(client: RawClient, runtime: Runtime) -> None:
    assert client.offer is not None
    identity = client.offer.identity
    assert identity.config_digest == runtime.config.digest
    assert identity.security_mode == "evaluation"
    model = runtime.registry.models[0]
    assert [(entry.id, entry.version, entry.hash, entry.scheme) for entry in identity.models] == [
        ("tiny-bert", "1.0.0", model.model_hash, "sha256-manifest")
    ]


async def test_sequence_numbers_count_receipts_in_the_order_of_their_ends(client: RawClient) -> None:
    answers = [
        client.open("POST", "/v1/embeddings", json.dumps({"model": name, "input": "hello"}).encode())
        for name in ("tiny-bert", "nobody", "short", "tiny-bert")
    ]
    await client.finished(*answers)
    numbers = [answer.receipt.claims.sequence_number for answer in answers if answer.receipt is not None]
    assert sorted(numbers) == [0, 1, 2]


async def test_nothing_of_a_request_is_logged_or_seen_outside(
    server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "the secret key of the red cat"
    async with connected(server.addresses[0]) as client:
        answer = await client.embed({"model": "tiny-bert", "input": secret}, headers={"x-secret": secret})
        await client.embed({"model": secret, "input": secret})
        await client.embed({secret: secret, "model": "tiny-bert", "input": secret})
        await client.request("GET", "/" + secret.replace(" ", "-"))
        captured = bytes(client.captured)
    output = capfd.readouterr()
    seen = caplog.text + output.out + output.err
    assert "established" in seen
    vector = json.dumps(answer.json()["data"][0]["embedding"][0])
    for needle in (secret, secret.replace(" ", "-"), vector):
        assert needle not in seen
        assert needle.encode() not in captured
