"""The credential of a Confidential Space workload: key-release.md section 7."""

import base64
import inspect
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease import launcher as client
from ephemeralml.keyrelease.launcher import LauncherCredentials, checked_provider
from tests.fakes import launcher
from tests.fakes.credential_scan import credential_tokens
from tests.fakes.http_thread import QuietHandler
from tests.fakes.launcher import PROVIDER, Launcher


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "launcher.sock"


@pytest.fixture
def running(path: Path) -> Iterator[Launcher]:
    with launcher.running(path) as made:
        yield made


def test_a_fresh_token_each_time_for_the_one_audience(running: Launcher, path: Path) -> None:
    credentials = LauncherCredentials(PROVIDER, path=path)
    tokens = [credentials.key_release_token() for _ in range(2)]
    assert tokens == running.tokens
    assert running.requests == [{"audience": PROVIDER, "token_type": "OIDC", "nonces": []}] * 2
    assert credential_tokens(tokens[0].encode()) == [PROVIDER]
    assert list(inspect.signature(LauncherCredentials.key_release_token).parameters) == ["self"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "https://client.example/audience",
        "https://sts.googleapis.com",
        PROVIDER.replace("//iam", "https://iam"),
        PROVIDER.replace("global", "eu"),
        PROVIDER.replace("123456", "acme-prod"),
        PROVIDER + "/x",
        PROVIDER.replace("/providers/space", ""),
        PROVIDER + "\n",
    ],
)
def test_a_credential_has_no_other_audience(name: str) -> None:
    with pytest.raises(MalformedError, match="not a workload identity provider"):
        LauncherCredentials(name)
    assert checked_provider(PROVIDER) == PROVIDER


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://client.example/audience"},
        {"aud": [PROVIDER]},
        {"aud": PROVIDER.replace("space", "other")},
        {"iss": "https://accounts.google.com"},
    ],
)
def test_tokens_for_another_purpose_go_nowhere(running: Launcher, path: Path, changes: dict[str, object]) -> None:
    running.changes = changes
    with pytest.raises(RejectedError, match="another audience") as caught:
        LauncherCredentials(PROVIDER, path=path).key_release_token()
    assert caught.value.code == "CSJWT_CREDENTIAL_REFUSED"


def test_a_token_of_type_pki_goes_nowhere(running: Launcher, path: Path) -> None:
    pki = running.token(PROVIDER, "PKI").encode()
    running.respond = lambda handler, _: handler.answer(200, pki, "text/plain")
    with pytest.raises(RejectedError, match="not of type OIDC"):
        LauncherCredentials(PROVIDER, path=path).key_release_token()


def part(document: dict[str, object]) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")


@pytest.mark.parametrize(
    ("header", "good"),
    [
        ({"alg": "RS256", "kid": "k"}, True),
        ({"alg": "RS384", "kid": "k"}, False),
        ({"alg": "none", "kid": "k"}, False),
        ({"kid": "k"}, False),
        ({"alg": "RS256", "kid": "k", "x5c": ["MAA="]}, False),
        ({"alg": "RS256"}, False),
        ({"alg": "RS256", "kid": 7}, False),
    ],
)
def test_the_header_is_that_of_an_oidc_token(header: dict[str, object], good: bool) -> None:
    claims = {"iss": launcher.ISSUER, "aud": PROVIDER}
    token = b".".join((part(header), part(claims), b"c2ln"))
    if good:
        client._check(token, PROVIDER)
    else:
        with pytest.raises(RejectedError, match="not of type OIDC"):
            client._check(token, PROVIDER)


def reset(handler: QuietHandler, _: bytes) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def half(handler: QuietHandler, token: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(token)))
    handler.end_headers()
    handler.wfile.write(token[:20])
    handler.close_connection = True


def drip(handler: QuietHandler, token: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(token)))
    handler.end_headers()
    for octet in token:
        handler.wfile.write(bytes([octet]))
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("respond", "kind", "why"),
    [
        (lambda handler, _: handler.answer(500, b"no"), UnavailableError, "HTTP 500"),
        (lambda handler, _: handler.answer(400, b"no"), UnavailableError, "HTTP 400"),
        (reset, UnavailableError, "does not answer: "),
        (half, MalformedError, "is no token"),
        (drip, UnavailableError, "TimeoutError"),
        (lambda handler, _: handler.answer(200, b""), MalformedError, "is no token"),
        (lambda handler, _: handler.answer(200, b"a.b"), MalformedError, "is no token"),
        (lambda handler, _: handler.answer(200, b"a.b.c"), MalformedError, "does not parse"),
        (lambda handler, _: handler.answer(200, b"e30.e30\n.x"), MalformedError, "does not parse"),
        (lambda handler, _: handler.answer(200, b"e30.W10.x"), MalformedError, "does not parse"),
        (lambda handler, _: handler.answer(200, b"e30.e30.x"), RejectedError, "not of type OIDC"),
        (lambda handler, token: handler.answer(200, token.ljust(65_537, b"A")), MalformedError, "over 65536 bytes"),
    ],
)
def test_launchers_that_fail(
    running: Launcher,
    path: Path,
    respond: Callable[[QuietHandler, bytes], None],
    kind: type[EphemeralError],
    why: str,
) -> None:
    running.respond = respond
    with pytest.raises(kind, match=why) as caught:
        LauncherCredentials(PROVIDER, path=path, deadline=0.4).key_release_token()
    assert not credential_tokens(str(caught.value).encode())


def test_a_launcher_that_stalls_or_is_not_there(running: Launcher, path: Path) -> None:
    running.delay = 0.5
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match="does not answer: TimeoutError"):
        LauncherCredentials(PROVIDER, path=path, deadline=0.1).key_release_token()
    assert time.monotonic() - begun < 0.4
    with pytest.raises(UnavailableError, match="FileNotFoundError") as caught:
        LauncherCredentials(PROVIDER, path=path.with_name("none")).key_release_token()
    assert "Confidential Space" in str(caught.value.hint)


def test_the_deadline_is_for_all_of_it(running: Launcher, path: Path) -> None:
    def late(handler: QuietHandler, token: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(token)))
        handler.end_headers()
        time.sleep(0.8)
        handler.wfile.write(token[:20])
        handler.wfile.flush()
        time.sleep(2)

    running.respond = late
    begun = time.monotonic()
    with pytest.raises(UnavailableError, match="TimeoutError"):
        LauncherCredentials(PROVIDER, path=path, deadline=1.0).key_release_token()
    assert time.monotonic() - begun < 1.5


@pytest.mark.fuzz
@given(st.binary(max_size=200) | st.from_regex(rb"\A[A-Za-z0-9_-]{0,30}(\.[A-Za-z0-9_-]{0,30}){2}\Z"))
def test_noise_gives_only_our_errors(noise: bytes) -> None:
    with pytest.raises((MalformedError, RejectedError)):
        client._check(noise, PROVIDER)
