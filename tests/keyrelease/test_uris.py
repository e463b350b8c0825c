"""Key URIs: key-release.md section 1."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.uris import KeyUri, Provider

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
ARN = f"arn:aws:kms:eu-central-1:111122223333:key/{ID}"
GCP = "projects/acme-prod/locations/europe-west3/keyRings/models/cryptoKeys/minilm"

GOOD = [
    (f"aws-kms:{ARN}", Provider.AWS_KMS, "eu-central-1", "111122223333"),
    (f"aws-kms:arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/{ID}", Provider.AWS_KMS, "us-gov-west-1", None),
    (f"aws-kms:arn:aws:kms:eu-west-1:111122223333:key/mrk-{'0' * 32}", Provider.AWS_KMS, "eu-west-1", None),
    (f"local:arn:aws:kms:local:000000000000:key/{ID}", Provider.LOCAL, "local", "000000000000"),
    (f"gcp-kms:{GCP}", Provider.GCP_KMS, "europe-west3", "acme-prod"),
    (f"gcp-kms:{GCP.replace('acme-prod', 'example.com:acme')}", Provider.GCP_KMS, "europe-west3", "example.com:acme"),
]
BAD = [
    "",
    "aws-kms:",
    ARN,
    "https://kms.eu-central-1.amazonaws.com",
    f"azure:{ARN}",
    f"AWS-KMS:{ARN}",
    f"aws-kms: {ARN}",
    f"aws-kms:{ARN} ",
    f"aws-kms:{ARN}\n",
    f"aws-kms:{ARN.upper()}",
    f"aws-kms:{ARN}/x",
    f"aws-kms:{ARN[:-1]}",
    f"aws-kms:{ARN.replace('kms', 's3')}",
    f"aws-kms:{ARN.replace('1111', '111')}",
    f"aws-kms:{ARN.replace('eu-central-1', '')}",
    f"aws-kms:{ARN.replace('arn:aws:', 'arn:evil:')}",
    f"aws-kms:{ARN}#https://evil.example",
    f"aws-kms:{ID}",
    f"aws-kms:{GCP}",
    f"gcp-kms:{ARN}",
    f"gcp-kms:{GCP}/cryptoKeyVersions/1",
    f"gcp-kms:/{GCP}",
    f"gcp-kms:{GCP}/..",
    f"gcp-kms:{GCP}?x=y",
    f"gcp-kms:{GCP}".replace("minilm", "mini/lm"),
    f"gcp-kms:{GCP}".replace("minilm", "a" * 64),
    "aws-kms:" + "a" * 10_000,
    "local:unix:/run/kms.sock",
]


@pytest.mark.parametrize(("text", "provider", "region", "account"), GOOD)
def test_names_of_keys(text: str, provider: Provider, region: str, account: str | None) -> None:
    uri = KeyUri.parse(text)
    assert (uri.provider, uri.region, uri.alias, str(uri)) == (provider, region, False, text)
    assert account is None or uri.account == account
    assert uri == KeyUri.parse_operator(text)


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_no_key(text: str) -> None:
    for parse in (KeyUri.parse, KeyUri.parse_operator):
        with pytest.raises(MalformedError, match=r"^not a key's URI: '.{0,90}'$") as caught:
            parse(text)
        assert "aws-kms:arn:aws:kms:REGION" in str(caught.value.hint)


def test_an_alias_is_the_operators_alone() -> None:
    text = "aws-kms:arn:aws:kms:eu-central-1:111122223333:alias/models/minilm"
    assert KeyUri.parse_operator(text).alias
    with pytest.raises(MalformedError, match="names an alias, not a key"):
        KeyUri.parse(text)


@pytest.mark.fuzz
@given(st.text(max_size=600) | st.builds(str.__add__, st.sampled_from(["aws-kms:", "gcp-kms:", "local:"]), st.text()))
def test_noise_gives_only_our_error(text: str) -> None:
    with pytest.raises(MalformedError):
        KeyUri.parse(text)
