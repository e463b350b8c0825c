"""The credential of a Confidential Space workload, from the launcher beside it (key-release.md section 7).

A token made here is a bearer credential for about an hour: whoever holds it is
the workload. So there is one function for the one purpose, it has no audience
to choose, what it returns is kept nowhere, and no error quotes it. Tokens for
clients are another purpose and come from elsewhere.
"""

import base64
import binascii
import http.client
import json
import re
import socket
import time
from pathlib import Path
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError, RejectedError
from ephemeralml.keyrelease.faults import KeyUnavailableError

SOCKET = Path("/run/container_launcher/teeserver.sock")
ISSUER = "https://confidentialcomputing.googleapis.com"
MAX_TOKEN_BYTES = 65_536
DEADLINE_SECONDS = 10.0

TOKEN_REFUSED = "CSJWT_CREDENTIAL_REFUSED"  # noqa: S105 - a code, no password
"""Code of a token that is not the credential it should be."""

_SHORTEST_WAIT = 0.001
# A timeout of zero would mean not to wait at all, with another error.
_PROVIDER = re.compile(
    r"//iam\.googleapis\.com/projects/[0-9]{1,20}/locations/global/"
    r"workloadIdentityPools/[a-z0-9-]{4,32}/providers/[a-z0-9-]{4,32}"
)
_PART = re.compile(rb"[A-Za-z0-9_-]+")


def checked_provider(name: str) -> str:
    """Return *name* if it is a workload identity provider's, the only audience of a credential.

    Raises:
        MalformedError: It is not.
    """
    if _PROVIDER.fullmatch(name) is None:
        raise MalformedError(
            f"not a workload identity provider: {name[:200]!a}",
            hint="//iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER",
        )
    return name


class LauncherCredentials:
    """Asks the launcher for this workload's credential.

    Args:
        provider: The workload identity provider, from measured configuration.
        path: The launcher's socket.
        deadline: Seconds for one token.
    """

    def __init__(self, provider: str, *, path: Path = SOCKET, deadline: float = DEADLINE_SECONDS) -> None:
        self._provider = checked_provider(provider)
        self._path = path
        self._deadline = deadline

    def key_release_token(self) -> str:
        """Return a fresh token for the token service, and for nobody else.

        Whether its signature and claims hold is the token service's to judge.

        Raises:
            UnavailableError: The launcher does not answer in time, or refuses.
            MalformedError: What it answers is no token.
            RejectedError: It is one for another purpose (CSJWT_CREDENTIAL_REFUSED).
        """
        body = json.dumps({"audience": self._provider, "token_type": "OIDC", "nonces": []}).encode()
        token = _ask(self._path, body, self._deadline)
        _check(token, self._provider)
        return token.decode()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ask(path: Path, body: bytes, deadline: float) -> bytes:
    end = time.monotonic() + deadline
    connection = _UnixConnection(path, deadline)
    try:
        connection.request("POST", "/v1/token", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise KeyUnavailableError(f"the launcher refuses a token: HTTP {response.status}")
        data = b""
        while chunk := response.read1(MAX_TOKEN_BYTES + 1 - len(data)):
            data += chunk
            if len(data) > MAX_TOKEN_BYTES:
                raise MalformedError(f"the launcher's token has over {MAX_TOKEN_BYTES} bytes")
            if connection.sock is not None:
                connection.sock.settimeout(max(end - time.monotonic(), _SHORTEST_WAIT))
    except (OSError, http.client.HTTPException) as error:
        raise KeyUnavailableError(
            f"the launcher at {path} does not answer: {type(error).__name__}",
            hint="does this run as a Confidential Space workload?",
        ) from error
    finally:
        connection.close()
    return data.strip()


def _check(token: bytes, provider: str) -> None:
    """Refuse what was made for another purpose; its signature is not looked at (the token service does)."""
    parts = token.split(b".")
    if len(parts) != 3:
        raise MalformedError("the launcher's answer is no token")
    header, claims = _json(parts[0]), _json(parts[1])
    if header.get("alg") != "RS256" or "x5c" in header or not isinstance(header.get("kid"), str):
        raise RejectedError("the launcher's token is not of type OIDC", code=TOKEN_REFUSED)
    if claims.get("iss") != ISSUER or claims.get("aud") != provider:
        raise RejectedError("the launcher's token is for another audience or of another issuer", code=TOKEN_REFUSED)


def _json(part: bytes) -> dict[str, Any]:
    if _PART.fullmatch(part) is None:
        raise MalformedError("the launcher's token does not parse")
    try:
        data = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        return strict_json.parse_object(data, max_bytes=MAX_TOKEN_BYTES)
    except (binascii.Error, MalformedError) as error:
        raise MalformedError("the launcher's token does not parse") from error
