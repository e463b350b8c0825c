"""Signature Version 4: botocore's signer agrees, and each step refuses what breaks only it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.keyrelease.local.faults import ServiceFault
from ephemeralml.keyrelease.local.sigv4 import Credential, SignedRequest, sign, verify

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
CREDENTIAL = Credential("EMLKABCDEFGHIJKLMNOP", "secret/key+of+forty+letters")
BODY = b'{"KeyId":"alias/x"}'
HEADERS = {
    "Host": "127.0.0.1:8480",
    "Content-Type": "application/x-amz-json-1.1",
    "X-Amz-Target": "TrentService.DescribeKey",
}


def signed(body: bytes = BODY, at: datetime = NOW, region: str = "local", **more: str) -> dict[str, str]:
    return sign("POST", {**HEADERS, **more}, body, credential=CREDENTIAL, region=region, now=at)


def request(headers: Mapping[str, str], body: bytes = BODY, **changed: Any) -> SignedRequest:
    pairs = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())
    fields: dict[str, Any] = {"method": "POST", "path": b"/", "query": b"", "headers": pairs, "body": body, **changed}
    return SignedRequest(**fields)


def check(subject: SignedRequest, *, now: datetime = NOW) -> str:
    secrets = {CREDENTIAL.access_key: CREDENTIAL.secret}
    return verify(subject, region="local", now=now, secret_of=secrets.get)


def refused(name: str, subject: SignedRequest, *, now: datetime = NOW) -> None:
    with pytest.raises(ServiceFault) as caught:
        check(subject, now=now)
    assert caught.value.code == name


@pytest.mark.parametrize("path", ["/", "/a%20b/c"])
@pytest.mark.parametrize("query", ["", "b=2&a=1&a=0", "x=%2F&y", "key=a%20b"])
def test_botocores_signatures_verify(path: str, query: str) -> None:
    url = f"http://127.0.0.1:8480{path}{'?' if query else ''}{query}"
    made = AWSRequest("POST", url, data=BODY, headers={**HEADERS, "X-Amz-Meta": "  two   spaces "})
    SigV4Auth(Credentials(CREDENTIAL.access_key, CREDENTIAL.secret), "kms", "local").add_auth(made)
    headers = {**dict(made.headers.items()), "Host": "127.0.0.1:8480"}
    now = datetime.strptime(headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert check(request(headers, path=path.encode(), query=query.encode()), now=now) == CREDENTIAL.access_key


def test_our_signatures_verify() -> None:
    assert check(request(signed())) == CREDENTIAL.access_key


def test_no_authorization() -> None:
    refused("MissingAuthenticationTokenException", request(HEADERS))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "AWS4-HMAC-SHA256",
        "Basic abc",
        "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host, Signature=" + "0" * 64,
        "AWS4-HMAC-SHA256 Credential=AKIA/20261120/local/kms/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=AKIA/20261120/local/kms/aws4_request, SignedHeaders=host, Signature=xyz",
        "AWS4-HMAC-SHA256 Credential=AKIA/20261120/local/kms/aws4_request, SignedHeaders=host, Signature=a, Signature=b",
        "x" * 5_000,
    ],
)
def test_incomplete_authorization(authorization: str) -> None:
    refused("IncompleteSignatureException", request({**signed(), "authorization": authorization}))


class TestIncomplete:
    @pytest.mark.parametrize("name", ["host", "x-amz-date", "x-amz-target", "content-type"])
    def test_a_header_that_must_be_signed(self, name: str) -> None:
        headers = signed()
        authorization = headers["authorization"]
        names = authorization.partition("SignedHeaders=")[2].partition(",")[0]
        fewer = ";".join(one for one in names.split(";") if one != name)
        refused(
            "IncompleteSignatureException", request({**headers, "authorization": authorization.replace(names, fewer)})
        )

    def test_an_amz_header_that_was_added(self) -> None:
        refused("IncompleteSignatureException", request({**signed(), "x-amz-extra": "1"}))

    def test_a_signed_header_that_is_missing(self) -> None:
        headers = signed()
        del headers["x-amz-target"]
        refused("IncompleteSignatureException", request(headers))

    @pytest.mark.parametrize("name", [b"x-amz-target", b"authorization", b"host", b"content-type"])
    def test_a_header_twice(self, name: bytes) -> None:
        made = request(signed())
        again = next(pair for pair in made.headers if pair[0] == name)
        refused("IncompleteSignatureException", replace(made, headers=(*made.headers, again)))

    @pytest.mark.parametrize("date", ["", "20261120 noon", "20261120T250000Z", "2026112T120000Z", "20261120T120000"])
    def test_no_date(self, date: str) -> None:
        headers = {**signed(), "x-amz-date": date}
        refused("IncompleteSignatureException", request(headers))

    def test_too_many_headers(self) -> None:
        refused("IncompleteSignatureException", request({**signed(), **{f"h{n}": "" for n in range(70)}}))


def test_unknown_access_key() -> None:
    headers = sign("POST", HEADERS, BODY, credential=Credential("EMLKNOBODY", "x"), region="local", now=NOW)
    refused("UnrecognizedClientException", request(headers))


def test_session_tokens_are_not_served() -> None:
    refused("UnrecognizedClientException", request(signed(**{"X-Amz-Security-Token": "token"})))


class TestInvalid:
    def test_another_secret(self) -> None:
        other = Credential(CREDENTIAL.access_key, "another")
        headers = sign("POST", HEADERS, BODY, credential=other, region="local", now=NOW)
        refused("InvalidSignatureException", request(headers))

    def test_another_region(self) -> None:
        refused("InvalidSignatureException", request(signed(region="us-east-1")))

    @pytest.mark.parametrize(
        ("old", "new"), [("/kms/", "/s3/"), ("aws4_request", "aws4"), ("/20261120/", "/20261119/")]
    )
    def test_another_scope(self, old: str, new: str) -> None:
        headers = signed()
        refused(
            "InvalidSignatureException",
            request({**headers, "authorization": headers["authorization"].replace(old, new)}),
        )

    @pytest.mark.parametrize("by", [timedelta(minutes=5, seconds=1), -timedelta(minutes=5, seconds=1)])
    def test_another_time(self, by: timedelta) -> None:
        refused("InvalidSignatureException", request(signed()), now=NOW + by)
        assert check(request(signed()), now=NOW + by * 0.99)

    @pytest.mark.parametrize(
        "changed",
        [{"body": BODY + b" "}, {"method": "PUT"}, {"path": b"/x"}, {"query": b"a=1"}],
        ids=["body", "method", "path", "query"],
    )
    def test_another_request(self, changed: Any) -> None:
        refused("InvalidSignatureException", request(signed(), **changed))

    @pytest.mark.parametrize("name", ["host", "content-type", "x-amz-target"])
    def test_another_header(self, name: str) -> None:
        refused("InvalidSignatureException", request({**signed(), name: "other"}))

    def test_an_unsigned_payload(self) -> None:
        headers = signed(**{"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"})
        assert check(request(headers))  # the header is signed, and what it says is not believed:
        refused("InvalidSignatureException", request(headers, body=b"{}"))

    def test_every_digit_counts(self) -> None:
        headers = signed()
        for place in range(1, 65):
            text = headers["authorization"]
            digit = "0" if text[-place] != "0" else "1"
            wrong = text[: len(text) - place] + digit + text[len(text) - place + 1 :]
            refused("InvalidSignatureException", request({**headers, "authorization": wrong}))


def test_a_secret_is_not_shown() -> None:
    assert CREDENTIAL.secret not in repr(CREDENTIAL)


@pytest.mark.fuzz
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"authorization", b"x-amz-date", b"host", b"content-type", b"x-amz-target"])
            | st.binary(max_size=20),
            st.binary(max_size=200) | st.text(max_size=60).map(lambda text: f"AWS4-HMAC-SHA256 {text}".encode()),
        ),
        max_size=12,
    ),
    st.binary(max_size=60),
    st.binary(max_size=60),
)
def test_nothing_but_faults_leaves(headers: list[tuple[bytes, bytes]], path: bytes, query: bytes) -> None:
    with pytest.raises(ServiceFault):
        check(SignedRequest("POST", path, query, tuple(headers), b""))
