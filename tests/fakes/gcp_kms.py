"""Cloud KMS over REST: real AES-GCM, the context as additional data, CRC32C both ways, roles by access token."""

import base64
import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import google.auth.credentials
import google_crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.fakes import http_thread
from tests.fakes.http_thread import QuietHandler
from tests.fakes.launcher import DIGEST

KEY = "projects/acme-prod/locations/europe-west3/keyRings/models/cryptoKeys/minilm"
PUBLISHER_TOKEN = "token-of-the-publisher"

ENCRYPTER, DECRYPTER = "encrypter", "decrypter"


class RefusedError(Exception):
    def __init__(self, code: int, status: str) -> None:
        super().__init__(status)
        self.code, self.status = code, status


@dataclass
class CloudKms:
    """One key. `roles` says what an access token's owner may do."""

    subjects: dict[str, str]
    """Access token to owner, shared with the token service."""
    roles: dict[str, str] = field(default_factory=lambda: {DIGEST: DECRYPTER, "publisher": ENCRYPTER})
    host: str = ""
    secret: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    enabled: bool = True
    alter: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    """Changes to the next answers."""
    respond: list[Callable[[QuietHandler], None]] = field(default_factory=list)
    """Instead of the next answers."""
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.subjects[PUBLISHER_TOKEN] = "publisher"

    def handle(self, path: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
        name, _, operation = path.removeprefix("/v1/").partition(":")
        owner = self.subjects.get(token)
        if owner is None:
            raise RefusedError(401, "UNAUTHENTICATED")
        if self.roles.get(owner) != {"encrypt": ENCRYPTER, "decrypt": DECRYPTER}[operation]:
            raise RefusedError(403, "PERMISSION_DENIED")
        if name != KEY:
            raise RefusedError(404, "NOT_FOUND")
        if not self.enabled:
            raise RefusedError(400, "FAILED_PRECONDITION")
        data = {part: base64.b64decode(body[part]) for part in body if not part.endswith("Crc32c")}
        for part, value in data.items():
            if part != "name" and int(body[f"{part}Crc32c"]) != google_crc32c.value(value):
                raise RefusedError(400, "INVALID_ARGUMENT")
        return getattr(self, operation)(data)

    def encrypt(self, data: dict[str, bytes]) -> dict[str, Any]:
        nonce = os.urandom(12)
        ciphertext = nonce + AESGCM(self.secret).encrypt(
            nonce, data["plaintext"], data.get("additionalAuthenticatedData")
        )
        return {
            "name": f"{KEY}/cryptoKeyVersions/1",
            "ciphertext": base64.b64encode(ciphertext).decode(),
            "ciphertextCrc32c": str(google_crc32c.value(ciphertext)),
            "verifiedPlaintextCrc32c": True,
            "verifiedAdditionalAuthenticatedDataCrc32c": True,
            "protectionLevel": "HSM",
        }

    def decrypt(self, data: dict[str, bytes]) -> dict[str, Any]:
        sealed = data["ciphertext"]
        try:
            plaintext = AESGCM(self.secret).decrypt(sealed[:12], sealed[12:], data.get("additionalAuthenticatedData"))
        except (InvalidTag, ValueError) as error:
            raise RefusedError(400, "INVALID_ARGUMENT") from error
        return {
            "plaintext": base64.b64encode(plaintext).decode(),
            "plaintextCrc32c": str(google_crc32c.value(plaintext)),
            "usedPrimary": True,
            "protectionLevel": "HSM",
        }


def refuse(code: int, status: str) -> Callable[[QuietHandler], None]:
    """Fail as Google's services do."""
    body = json.dumps({"error": {"code": code, "message": "a message of the service's", "status": status}}).encode()
    return lambda handler: handler.answer(code, body)


class StaticToken(google.auth.credentials.Credentials):
    """Credentials that are one access token."""

    def __init__(self, token: str = PUBLISHER_TOKEN) -> None:
        super().__init__()
        self.token = token

    def refresh(self, request: object) -> None:
        raise AssertionError("asked to refresh")


@contextlib.contextmanager
def running(subjects: dict[str, str]) -> Iterator[CloudKms]:
    service = CloudKms(subjects)

    class Handler(QuietHandler):
        def post(self) -> None:
            body = json.loads(self.body())
            path = self.path.partition("?")[0]
            service.requests.append((path, body))
            if service.respond:
                service.respond.pop(0)(self)
                return
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            try:
                document = service.handle(path, token, body)
            except RefusedError as error:
                refuse(error.code, error.status)(self)
                return
            if service.alter:
                service.alter.pop(0)(document)
            self.answer(200, json.dumps(document).encode())

    with http_thread.serving(Handler) as place:
        service.host = place
        yield service
