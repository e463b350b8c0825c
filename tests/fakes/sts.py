"""Google's token service: checks a workload's token as the provider's settings say, gives an access token."""

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import jwt

from tests.fakes import http_thread
from tests.fakes.http_thread import QuietHandler
from tests.fakes.launcher import DIGEST, ISSUER, PROVIDER, signing_key

SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def condition(token: dict[str, Any]) -> bool:
    """The attribute condition of key-release.md section 7."""
    submods = token["submods"]
    return (
        token.get("swname") == "CONFIDENTIAL_SPACE"
        and token.get("dbgstat") == "disabled-since-boot"
        and token.get("hwmodel") == "GCP_INTEL_TDX"
        and token.get("secboot") is True
        and "STABLE" in submods["confidential_space"].get("support_attributes", [])
        and submods["gce"]["project_id"] == "acme-prod"
        and "runtime@acme-prod.iam.gserviceaccount.com" in token["google_service_accounts"]
        and submods["container"]["image_digest"] == DIGEST
    )


@dataclass
class TokenService:
    """Exchanges tokens. `subjects` says whose an access token is: the image digest."""

    url: str = ""
    subjects: dict[str, str] = field(default_factory=dict)
    requests: list[dict[str, str]] = field(default_factory=list)
    respond: Callable[[QuietHandler], None] | None = None
    expires_in: int = 3_600

    def exchange(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        expected = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "audience": PROVIDER,
            "scope": SCOPE,
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        }
        if any(form.get(name) != value for name, value in expected.items()):
            return 400, {"error": "invalid_request", "error_description": "Invalid value for a field."}
        try:
            token = jwt.decode(
                form["subject_token"],
                signing_key().public_key(),
                algorithms=["RS256"],
                audience=PROVIDER,
                issuer=ISSUER,
            )
        except jwt.InvalidTokenError as error:
            return 400, {"error": "invalid_grant", "error_description": f"The token does not verify: {error}"}
        if not condition(token):
            return 400, {
                "error": "unauthorized_client",
                "error_description": "The given credential is rejected by the attribute condition.",
            }
        access = secrets.token_urlsafe(24)
        self.subjects[access] = token["submods"]["container"]["image_digest"]
        return 200, {
            "access_token": access,
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": self.expires_in,
        }


@contextlib.contextmanager
def running() -> Iterator[TokenService]:
    service = TokenService()

    class Handler(QuietHandler):
        def post(self) -> None:
            form = {name: values[0] for name, values in parse_qs(self.body().decode()).items()}
            service.requests.append(form)
            if service.respond is not None:
                service.respond(self)
                return
            status, document = service.exchange(form)
            self.answer(status, json.dumps(document).encode())

    with http_thread.serving(Handler) as place:
        service.url = f"http://{place}/v1/token"
        yield service
