"""A Confidential Space launcher: real RS256 tokens over HTTP on a unix socket."""

import base64
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes import http_thread
from tests.fakes.http_thread import QuietHandler

ISSUER = "https://confidentialcomputing.googleapis.com"
PROVIDER = "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/models/providers/space"
DIGEST = "sha256:" + "ab" * 32
KID = "key-of-the-test"


@cache
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


def claims(**changes: Any) -> dict[str, Any]:
    """What a production workload's token says; a claim given as ``...`` is left out."""
    now = int(time.time())
    values = {
        "iss": ISSUER,
        "sub": "https://www.googleapis.com/compute/v1/projects/acme-prod/zones/europe-west3-a/instances/1",
        "iat": now,
        "nbf": now,
        "exp": now + 3_600,
        "swname": "CONFIDENTIAL_SPACE",
        "dbgstat": "disabled-since-boot",
        "hwmodel": "GCP_INTEL_TDX",
        "secboot": True,
        "google_service_accounts": ["runtime@acme-prod.iam.gserviceaccount.com"],
        "submods": {
            "confidential_space": {"support_attributes": ["LATEST", "STABLE", "USABLE"]},
            "container": {"image_digest": DIGEST},
            "gce": {"project_id": "acme-prod", "project_number": "123456"},
        },
        **changes,
    }
    return {name: value for name, value in values.items() if value is not ...}


@dataclass
class Launcher:
    """Hands out tokens; a test may change what they say, or how they are answered."""

    changes: dict[str, Any] = field(default_factory=dict)
    """Of the claims."""
    respond: Callable[[QuietHandler, bytes], None] | None = None
    """Instead of the answer with the token."""
    delay: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    def token(self, audience: str, token_type: str) -> str:
        headers = {"kid": KID} if token_type == "OIDC" else {"x5c": [base64.b64encode(b"leaf").decode()]}
        made = jwt.encode(claims(aud=audience) | self.changes, signing_key(), algorithm="RS256", headers=headers)
        self.tokens.append(made)
        return made


@contextlib.contextmanager
def running(path: Path) -> Iterator[Launcher]:
    launcher = Launcher()

    class Handler(QuietHandler):
        def post(self) -> None:
            request = json.loads(self.body())
            launcher.requests.append(request)
            time.sleep(launcher.delay)
            good = self.path == "/v1/token" and set(request) == {"audience", "token_type", "nonces"}
            if not good or request["token_type"] not in ("OIDC", "PKI") or len(request["nonces"]) > 6:
                self.answer(400, b"bad request", "text/plain")
                return
            token = launcher.token(request["audience"], request["token_type"]).encode()
            if launcher.respond is not None:
                launcher.respond(self, token)
            else:
                self.answer(200, token, "text/plain")

    with http_thread.serving(Handler, path):
        yield launcher
