"""Several encrypted models in one runtime, routed by `model`, each with its own receipts (serving section 1)."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pytest

from ephemeralml.enclave.boot import boot
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.model.verify import verify_manifest
from tests.fakes.booted_runtime import Files, config_source, inputs, serving
from tests.fakes.host_services import SealingKms, folders, services
from tests.fakes.key_source import KEY_URI, OneKey
from tests.fakes.packages import PUBLISHER, encrypted_package
from tests.fakes.raw_client import Answer, RawClient, connected

TOKEN = "a client's token"
ALIASES = '\n[models.aliases]\nold = "tiny-bert@1.0.0"\nsmall = "tiny-other"\n'


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    folder = tmp_path_factory.mktemp("models")
    keys = OneKey()
    packages = {
        "first": encrypted_package(folder, keys=keys, version="1.0.0", seed=1),
        "second": encrypted_package(folder, keys=keys, version="1.10.0", seed=2),
        "third": encrypted_package(folder, keys=keys, version="1.9.0", seed=3),
        "other": encrypted_package(folder, keys=keys, model_id="tiny-other", seed=4, bind_manifest=True),
    }
    source = config_source(
        allow_plaintext=False, services=f"unix://{folder}/s", packages=tuple(packages), key_uris=(KEY_URI,)
    )
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    (folder / "enclave.toml").write_bytes(f'clients = ["{digest}"]\n'.encode() + source + ALIASES.encode())
    with services(folder / "s", folders(packages), {KEY_URI: SealingKms(keys)}):
        made = boot(inputs(Files(folder / "enclave.toml", ())))
    yield made
    made.close()


async def ask(client: RawClient, model: str, token: str = TOKEN) -> Answer:
    return await client.embed({"model": model, "input": "hello"}, headers={"authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    ("name", "model_id", "version"),
    [
        ("tiny-bert", "tiny-bert", "1.10.0"),
        ("tiny-bert@1.0.0", "tiny-bert", "1.0.0"),
        ("tiny-bert@1.9.0", "tiny-bert", "1.9.0"),
        ("old", "tiny-bert", "1.0.0"),
        ("tiny-other", "tiny-other", "1.0.0"),
        ("small", "tiny-other", "1.0.0"),
    ],
)
async def test_a_request_is_routed_by_its_model(runtime: Runtime, name: str, model_id: str, version: str) -> None:
    async with serving(runtime) as server, connected(server.addresses[0]) as client:
        client.expected_model = f"{model_id}@{version}"
        answer = await ask(client, name)
        assert answer.status == 200
        assert answer.receipt is not None
        claims = answer.receipt.claims
        assert (claims.model_id, claims.model_version) == (model_id, version)
        served = runtime.registry.resolve(name)
        assert served is not None
        assert claims.model_hash == served.model_hash
        manifest = await client.request(
            "GET",
            f"/v1/ephemeralml/manifests/{claims.model_hash.hex()}",
            headers={"authorization": f"Bearer {TOKEN}"},
        )
        verified = verify_manifest(bytes(manifest.body), publisher_keys=(PUBLISHER.public,))
        assert verified.model_hash == claims.model_hash
        assert (verified.manifest.model_id, str(verified.manifest.version)) == (model_id, version)


async def test_every_model_answers_with_its_own_weights(runtime: Runtime) -> None:
    async with serving(runtime) as server, connected(server.addresses[0]) as client:
        answers = []
        for name in ("tiny-bert", "tiny-bert@1.0.0", "tiny-bert@1.9.0", "tiny-other", "old"):
            served = runtime.registry.resolve(name)
            assert served is not None
            client.expected_model = served.full_name
            answers.append(np.array((await ask(client, name)).json()["data"][0]["embedding"]))
    for index, one in enumerate(answers[:4]):
        assert all(np.abs(one - other).max() > 1e-3 for other in answers[:index])
    assert np.array_equal(answers[1], answers[4])


async def test_an_unknown_model(runtime: Runtime) -> None:
    async with serving(runtime) as server, connected(server.addresses[0]) as client:
        for name in ("tiny-bert@1.2.0", "TINY-BERT", "tiny", ""):
            answer = await ask(client, name)
            assert answer.status == (404 if name else 400)
            assert answer.receipt is None


async def test_a_client_without_a_token_gets_nothing(runtime: Runtime) -> None:
    async with serving(runtime) as server, connected(server.addresses[0]) as client:
        for token in ("", "another", TOKEN + "x"):
            answer = await ask(client, "tiny-bert", token)
            assert (answer.status, answer.receipt) == (401, None)
        digest = runtime.registry.models[0].model_hash.hex()
        assert (await client.request("GET", f"/v1/ephemeralml/manifests/{digest}")).status == 401


def test_the_identity_names_every_model(runtime: Runtime) -> None:
    names = [f"{entry.id}@{entry.version}" for entry in runtime.identity.models]
    assert names == ["tiny-bert@1.0.0", "tiny-bert@1.10.0", "tiny-bert@1.9.0", "tiny-other@1.0.0"]
    assert len({entry.hash for entry in runtime.identity.models}) == 4


def test_each_package_has_a_release_of_its_own(runtime: Runtime) -> None:
    document = runtime.describe(("x",))
    assert len(document["key_releases"]) == 4
    assert {record["outcome"] for record in document["key_releases"]} == {"released"}
    assert len({record["document_sha256"] for record in document["key_releases"]}) == 4
