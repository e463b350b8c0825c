"""The Google libraries' side of the Cloud KMS client: credentials, one call, its errors in our terms.

Imported when a key is used, so that nothing else waits for the SDK.
"""

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import google.auth
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth import credentials as google_credentials
from google.auth import identity_pool
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, OAuthError, RefreshError, TransportError
from google.auth.transport.requests import Request
from google.cloud.kms_v1 import KeyManagementServiceClient
from google.cloud.kms_v1.services.key_management_service.transports.rest import KeyManagementServiceRestTransport
from google.protobuf.json_format import ParseError

from ephemeralml.errors import EphemeralError, RejectedError
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.faults import Asked, Fault, KeyRejectedError, KeyUnavailableError
from ephemeralml.keyrelease.retries import TransientError

Answer = TypeVar("Answer")

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SUBJECT_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:jwt"  # noqa: S105 - the name of a type


@dataclass(frozen=True, slots=True)
class Services:
    """Where Google is. Tests put their own servers here; no configuration reaches it."""

    token_url: str = "https://sts.googleapis.com/v1/token"  # noqa: S105 - an address
    kms_host: str = "cloudkms.googleapis.com"
    kms_scheme: str = "https"


GOOGLE = Services()

_DETOURS = frozenset(
    {
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSLKEYLOGFILE",
        "NETRC",
        "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
        "GOOGLE_API_USE_MTLS_ENDPOINT",
        "GOOGLE_API_USE_CLIENT_CERTIFICATE",
    }
)
_ERROR_NAME = re.compile(r"[A-Za-z_]{1,64}")


class CredentialSource(Protocol):
    """Makes the token that the token service takes, and no other."""

    def key_release_token(self) -> str:
        """Return a fresh token."""


def refuse_detours(environment: Mapping[str, str]) -> None:
    """Refuse an environment that leads the key's TLS elsewhere than to Google's own certificates.

    Cloud KMS answers in the clear, so a proxy or a certificate authority of the
    operator's would read the model's key.

    Raises:
        RejectedError: A variable does (KEY_DETOUR).
    """
    found = sorted(name for name, value in environment.items() if value and name.upper() in _DETOURS)
    if found:
        raise RejectedError(
            f"{', '.join(found)} would lead the model key's connection elsewhere",
            code="KEY_DETOUR",
            hint="remove it from the workload's environment; allow no override of it in the image",
        )


class _Supplier(identity_pool.SubjectTokenSupplier):
    """Hands the launcher's token to the exchange: one request in flight, nothing kept."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._flight: Future[str] | None = None

    def get_subject_token(self, context: Any, request: Any) -> str:  # noqa: ARG002 - the library's signature
        with self._lock:
            flight = self._flight
            if flight is not None:
                waiting = flight
            else:
                waiting = self._flight = Future()
        if flight is None:
            try:
                waiting.set_result(self._source.key_release_token())
            except BaseException as error:
                waiting.set_exception(error)
                raise
            finally:
                with self._lock:
                    self._flight = None
        return waiting.result()


class WorkloadCredentials(google_credentials.Credentials):
    """Access tokens for this workload, exchanged at the token service and nowhere else.

    The library's own class sits inside: what it would do besides, such as
    asking other services about regions with the access token, is left out.
    """

    def __init__(self, source: CredentialSource, provider: str, services: Services = GOOGLE) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._exchange = identity_pool.Credentials(  # type: ignore[no-untyped-call]
            audience=provider,
            subject_token_type=SUBJECT_TOKEN_TYPE,
            token_url=services.token_url,
            subject_token_supplier=_Supplier(source),
            scopes=[SCOPE],
        )

    def refresh(self, request: Any) -> None:  # noqa: ARG002 - ours takes nothing from the environment
        """Exchange a fresh token."""
        try:
            with requests.Session() as session:
                session.trust_env = False
                self._exchange.refresh(Request(session))  # type: ignore[no-untyped-call]
        except (TypeError, ValueError, AttributeError) as error:
            # What the library raises over an answer without the fields it should have.
            raise RefreshError("the token service's answer does not parse") from error  # type: ignore[no-untyped-call]
        if not isinstance(self._exchange.token, str):
            raise RefreshError("the token service's answer holds no token")  # type: ignore[no-untyped-call]
        self.token, self.expiry = self._exchange.token, self._exchange.expiry


def operator_credentials(asked: Asked) -> Any:
    """Return the credentials of the person or machine that packages models.

    Raises:
        UnavailableError: There are none.
    """
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except DefaultCredentialsError as error:
        raise faults.credentials_missing(asked) from error
    return credentials


class _DirectTransport(KeyManagementServiceRestTransport):
    """Takes no proxy, certificate authority or password from the environment."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._session.trust_env = False


def connect(credentials: Any, services: Services = GOOGLE) -> KeyManagementServiceClient:
    """Make a client of Cloud KMS over REST, for a publisher."""
    return _client(KeyManagementServiceRestTransport, credentials, services)


def connect_directly(credentials: Any, services: Services = GOOGLE) -> KeyManagementServiceClient:
    """Make a client for a workload, whose connection nothing around it leads elsewhere."""
    return _client(_DirectTransport, credentials, services)


def _client(
    transport: type[KeyManagementServiceRestTransport], credentials: Any, services: Services
) -> KeyManagementServiceClient:
    made = transport(host=services.kms_host, url_scheme=services.kms_scheme, credentials=credentials)
    return KeyManagementServiceClient(transport=made)


def call(operation: Callable[[], Answer], asked: Asked) -> Answer:
    """Do one operation.

    Raises:
        TransientError: Another try may help.
        EphemeralError: Anything else: key-release.md sections 1 and 7.
    """
    try:
        return operation()
    except EphemeralError:
        raise  # the launcher's, through the library
    except GoogleAPICallError as error:
        _refused(error, asked)
    except OAuthError as error:
        _not_exchanged(error, asked)
    except (TransportError, requests.RequestException) as error:
        raise TransientError(faults.not_answering(asked, type(error).__name__)) from error
    except (RefreshError, GoogleAuthError) as error:
        raise faults.credentials_missing(asked) from error
    except (ParseError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        # What the libraries raise over an answer of another shape than the service's.
        raise faults.response_invalid("it does not parse") from error


def _refused(error: GoogleAPICallError, asked: Asked) -> NoReturn:
    status = int(error.code or 0)
    name = _status_name(error)
    if status == 429 or status >= 500:
        raise TransientError(faults.not_answering(asked, f"HTTP {status}")) from error
    if status == 403:
        raise faults.from_aws("AccessDeniedException", asked) from error
    if status == 401:
        raise faults.credentials_missing(asked) from error
    if status == 404:
        raise faults.from_aws("NotFoundException", asked) from error
    if name == "FAILED_PRECONDITION":
        raise KeyUnavailableError(f"the key {asked.key} or its version is disabled or destroyed") from error
    if name == "INVALID_ARGUMENT" and asked.action == "Decrypt":
        raise faults.from_aws("InvalidCiphertextException", asked) from error
    raise faults.from_aws("ValidationException", Asked(asked.action, asked.key)) from error


def _status_name(error: GoogleAPICallError) -> str:
    try:
        name = error.response.json()["error"]["status"]
    except (AttributeError, ValueError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


def _not_exchanged(error: OAuthError, asked: Asked) -> NoReturn:
    """The token service judges the provider's audience and attribute condition; its words stay out of ours."""
    text = str(error.args[0]) if error.args else ""
    name = text.removeprefix("Error code ").split(":")[0].split(" ")[0]
    if not _ERROR_NAME.fullmatch(name) or name in {"internal_failure", "temporarily_unavailable", "server_error"}:
        raise TransientError(faults.not_answering(asked, "the token service failed")) from error
    raise KeyRejectedError(
        f"Google's token service does not accept this workload for {asked.key}: {name}",
        fault=Fault.DENIED,
        kms_error=name,
        hint="compare the provider's attribute condition with the workload: kms policy simulate --gcp",
    ) from error
