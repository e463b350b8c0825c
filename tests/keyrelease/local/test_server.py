"""The HTTP side: what is served unsigned, bounds, targets, types."""

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any

import pytest

from ephemeralml import clock
from ephemeralml.keyrelease.local.shapes import MAX_BODY_BYTES
from ephemeralml.keyrelease.local.sigv4 import Credential, sign
from tests.fakes.kms_server import KmsServer


def ask(
    server: KmsServer,
    body: bytes,
    target: str = "TrentService.DescribeKey",
    *,
    signed: bool = True,
    kind: str = "application/x-amz-json-1.1",
    path: str = "/",
) -> tuple[int, Mapping[str, str], Any]:
    host = server.endpoint.removeprefix("http://")
    headers = {"Host": host, "Content-Type": kind, "X-Amz-Target": target}
    if signed:
        credential = Credential(*server.credentials())
        headers = sign("POST", headers, body, credential=credential, region=server.region, now=clock.now())
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), json.loads(response.read())
    finally:
        connection.close()


def test_health_needs_no_signature(kms: KmsServer) -> None:
    connection = http.client.HTTPConnection(kms.endpoint.removeprefix("http://"), timeout=10)
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b'{"status":"ok"}')
    connection.close()


def test_a_response_has_an_id_and_a_type(kms: KmsServer) -> None:
    status, headers, document = ask(kms, b"{}", "TrentService.ListKeys")
    assert status == 200
    assert "Keys" in document
    assert headers["content-type"] == "application/x-amz-json-1.1"
    assert len(headers["x-amzn-requestid"]) == 36
    assert "server" not in headers


def test_unsigned(kms: KmsServer) -> None:
    status, headers, document = ask(kms, b"{}", signed=False)
    assert (status, document["__type"]) == (400, "MissingAuthenticationTokenException")
    assert headers["x-amzn-requestid"]


@pytest.mark.parametrize("target", ["TrentService.Sign", "TrentService.", "Other.ListKeys", "ListKeys", ""])
def test_unknown_operations(kms: KmsServer, target: str) -> None:
    status, _, document = ask(kms, b"{}", target)
    assert (status, document["__type"]) == (400, "UnknownOperationException")


def test_another_content_type(kms: KmsServer) -> None:
    assert ask(kms, b"{}", "TrentService.ListKeys", kind="application/json")[2]["__type"] == "UnknownOperationException"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b"", "ValidationException"),
        (b"{}", "ValidationException"),
        (b'{"KeyId":null}', "ValidationException"),
        (b'{"KeyId":""}', "ValidationException"),
        (b'{"KeyId":1}', "SerializationException"),
        (b'{"KeyId":"a","KeyId":"b"}', "SerializationException"),
        (b"[]", "SerializationException"),
        (b"{", "SerializationException"),
        (b"\xff", "SerializationException"),
        (b"[" * 100_000, "SerializationException"),
        (b'{"KeyId":"a","Unknown":{"x":[1]}}', "NotFoundException"),
    ],
)
def test_bodies(kms: KmsServer, body: bytes, name: str) -> None:
    status, _, document = ask(kms, body)
    assert (status, document["__type"]) == (400, name)


def test_a_body_that_is_too_long(kms: KmsServer) -> None:
    status, _, document = ask(kms, b'{"KeyId":"' + b"a" * MAX_BODY_BYTES + b'"}')
    assert (status, document["__type"]) == (413, "RequestEntityTooLargeException")


def test_a_chunked_body_is_bounded_too(kms: KmsServer) -> None:
    host, _, port = kms.endpoint.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = b""
        try:
            for _ in range(MAX_BODY_BYTES // 65_536 + 2):
                sock.sendall(b"10000\r\n" + b"a" * 65_536 + b"\r\n")
            while part := sock.recv(4_096):
                answer += part
        except ConnectionError:
            pass
    assert answer.startswith(b"HTTP/1.1 413") or answer == b""


def test_the_log_holds_nothing_of_a_request(kms: KmsServer) -> None:
    ask(kms, b'{"KeyId":"alias/secret-name"}', "TrentService.DescribeKey")
    assert "secret-name" not in kms.log.read_text()
