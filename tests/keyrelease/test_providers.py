"""From a URI to a service: key-release.md section 1."""

import pytest

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.gcp import GcpKms
from ephemeralml.keyrelease.providers import open_provider

ARN = "arn:aws:kms:local:000000000000:key/0f8fad5b-d9cb-469f-a165-70867728950e"
GCP = "gcp-kms:projects/acme-prod/locations/europe-west3/keyRings/models/cryptoKeys/minilm"


def test_each_provider_has_its_client() -> None:
    assert isinstance(open_provider(f"aws-kms:{ARN}", environment={}), AwsKms)
    assert isinstance(open_provider(f"local:{ARN}", endpoint="http://127.0.0.1:8480", environment={}), AwsKms)
    assert isinstance(open_provider(GCP, environment={}), GcpKms)
    assert open_provider(GCP).uri == GCP


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"])
def test_a_local_key_needs_an_endpoint(name: str) -> None:
    assert open_provider(f"local:{ARN}", environment={name: "http://127.0.0.1:8480"}).uri == f"local:{ARN}"
    with pytest.raises(UnavailableError, match="no endpoint for local:arn") as caught:
        open_provider(f"local:{ARN}", environment={})
    assert "AWS_ENDPOINT_URL_KMS" in str(caught.value.hint)


def test_google_has_one_endpoint() -> None:
    with pytest.raises(MalformedError, match="the endpoint of Cloud KMS is fixed"):
        open_provider(GCP, endpoint="https://evil.example")


def test_other_names() -> None:
    with pytest.raises(MalformedError, match="not a key's URI"):
        open_provider("vault:secret")


def test_the_clients_take_their_own_keys_only() -> None:
    from ephemeralml.keyrelease.uris import KeyUri

    with pytest.raises(MalformedError, match="no key of an AWS KMS"):
        AwsKms(KeyUri.parse(GCP))
    with pytest.raises(MalformedError, match="no key of Cloud KMS"):
        GcpKms.of_operator(KeyUri.parse(f"local:{ARN}"))
