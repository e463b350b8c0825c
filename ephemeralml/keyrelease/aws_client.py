"""The boto3 side of the AWS client: one call, its errors in our terms.

Imported when a key is used, so that nothing else waits for the SDK.
"""

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from ephemeralml.errors import RejectedError, UnavailableError
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.retries import TransientError

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    ProfileNotFound,
    ConfigNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
_IN_THE_CLEAR = frozenset({"generate_data_key", "encrypt", "decrypt"})
# Operations that carry a key, one way or the other; Decrypt with a recipient does not.
_ERROR_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")


def connect(region: str, endpoint: str | None, asked: Asked, *, connect: int, read: int) -> "KMSClient":
    """Make a client that tries once: the retries are ours.

    Args:
        region: The key's.
        endpoint: The service's URL, or None for the SDK's.
        asked: For the error's words.
        connect: Seconds to connect in.
        read: Seconds to wait for an answer.

    Raises:
        UnavailableError: The SDK's configuration or credentials do not serve.
    """
    config = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=connect,
        read_timeout=read,
        parameter_validation=True,
    )
    with configuring(replace(asked, region=region)):
        return client_of(boto3.session.Session(), region, endpoint, config)


@contextmanager
def configuring(asked: Asked) -> Iterator[None]:
    """Say what is wrong with the SDK's configuration where the block stumbles over it.

    Raises:
        UnavailableError: It is; the message names the profile or the file.
    """
    try:
        yield
    except _NO_CREDENTIALS as error:
        raise _unusable(error, asked) from error
    except ConfigParseError as error:
        raise faults.KeyUnavailableError(
            f"the AWS configuration does not parse: {_detail(error, 'path')}",
            hint="AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE name other files",
        ) from error
    except (BotoCoreError, ValueError) as error:
        place = f" in {asked.region}" if asked.region else ""
        raise UnavailableError(
            f"no client for the key service{place}: {type(error).__name__}",
            hint="check AWS_PROFILE, AWS_ENDPOINT_URL_KMS and the SDK's configuration",
        ) from error


def _unusable(error: Exception, asked: Asked) -> UnavailableError:
    """Return the error for credentials that cannot even be sent, named as the SDK was told of them."""
    match error:
        case ProfileNotFound():
            return faults.KeyUnavailableError(
                f"the AWS configuration has no profile {_detail(error, 'profile')}",
                hint=f"AWS_PROFILE or an option names it; profiles stand in {_files()}",
            )
        case ConfigNotFound():
            return faults.KeyUnavailableError(
                f"there is no AWS configuration {_detail(error, 'path')}", hint="AWS_CONFIG_FILE names another file"
            )
        case PartialCredentialsError():
            return faults.KeyUnavailableError(
                f"the AWS credentials lack {_detail(error, 'cred_var')} ({_detail(error, 'provider')})",
                hint=f"complete them in the environment or in {_files()}",
            )
    return faults.credentials_missing(asked)


def _detail(error: Exception, name: str) -> str:
    return repr(str(getattr(error, "kwargs", {}).get(name, ""))[:300])


def _files() -> str:
    """Return where the SDK looks for profiles."""
    return " and ".join(
        os.environ.get(variable) or default
        for variable, default in (
            ("AWS_CONFIG_FILE", "~/.aws/config"),
            ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        )
    )


def client_of(session: boto3.session.Session, region: str, endpoint: str | None, config: Config) -> "KMSClient":
    """Return a client of *session*; one without TLS goes through no proxy."""
    client = session.client("kms", region_name=region, endpoint_url=endpoint, config=config)
    if urlsplit(client.meta.endpoint_url).scheme != "http":
        return client
    # Without TLS a proxy of the environment's would read what goes to a server on this machine.
    client.close()
    return session.client("kms", region_name=region, endpoint_url=endpoint, config=config.merge(Config(proxies={})))


def require_privacy(client: "KMSClient", operation: str, asked: Asked) -> None:
    """Refuse to let a key cross a network without TLS, whatever the endpoint's configuration says.

    Raises:
        RejectedError: It would (code KEY_ENDPOINT_OPEN).
    """
    url = urlsplit(client.meta.endpoint_url)
    if url.scheme == "https" or operation not in _IN_THE_CLEAR or asked.recipient or _loopback(url.hostname or ""):
        return
    raise RejectedError(
        f"{asked.action} at {url.hostname!a} would carry a data key over the network in the clear",
        code="KEY_ENDPOINT_OPEN",
        hint="give an https endpoint (kms serve --tls CERT KEY), or reach it through a port of this machine",
    )


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def call(client: "KMSClient", operation: str, asked: Asked, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Do one operation.

    Raises:
        TransientError: Another try may help.
        RejectedError: It would send a key in the clear (`require_privacy`).
        EphemeralError: Anything else: key-release.md section 1.
    """
    require_privacy(client, operation, asked)
    asked = sent_to(client, asked)
    try:
        answer: dict[str, Any] = getattr(client, operation)(**fields)
    except ClientError as error:
        _refused(error, asked)
    except _NO_CREDENTIALS as error:
        raise _unusable(error, asked) from error
    except SSLError as error:
        raise faults.not_answering(asked, "TLS fails, or its certificate does not verify") from error
    except (HTTPClientError, BotoConnectionError, ResponseParserError) as error:
        raise TransientError(faults.not_answering(asked, type(error).__name__)) from error
    except BotoCoreError as error:
        raise faults.not_answering(asked, type(error).__name__) from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        # What the SDK's parser raises over JSON of another shape than the service's model has.
        raise faults.response_invalid("it does not parse") from error
    return answer


def sent_to(client: "KMSClient", asked: Asked) -> Asked:
    """Return *asked* with the place that *client* asks at; a URL's user and path are nobody's business."""
    url = urlsplit(client.meta.endpoint_url)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    port = f":{url.port}" if url.port is not None else ""
    return replace(asked, endpoint=f"{url.scheme}://{host}{port}", region=str(client.meta.region_name))


def _refused(error: ClientError, asked: Asked) -> NoReturn:
    said = str(error.response.get("Error", {}).get("Code", ""))
    # The name goes into messages and logs; a service that puts something else there is not quoted.
    name = said if _ERROR_NAME.fullmatch(said) else "UnreadableError"
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if faults.is_transient(name, status):
        raise TransientError(faults.from_aws(name, asked)) from error
    raise faults.from_aws(name, asked) from error
