"""The boto3 side of the AWS client: one call, its errors in our terms.

Imported when a key is used, so that nothing else waits for the SDK.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
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

from ephemeralml.errors import UnavailableError
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
    try:
        return boto3.session.Session().client("kms", region_name=region, endpoint_url=endpoint, config=config)
    except _NO_CREDENTIALS as error:
        raise faults.credentials_missing(asked) from error
    except (BotoCoreError, ValueError) as error:
        raise UnavailableError(
            f"no client for the key service in {region}: {type(error).__name__}",
            hint="check AWS_PROFILE, AWS_ENDPOINT_URL_KMS and the SDK's configuration",
        ) from error


def call(client: "KMSClient", operation: str, asked: Asked, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Do one operation.

    Raises:
        TransientError: Another try may help.
        EphemeralError: Anything else: key-release.md section 1.
    """
    try:
        answer: dict[str, Any] = getattr(client, operation)(**fields)
    except ClientError as error:
        _refused(error, asked)
    except _NO_CREDENTIALS as error:
        raise faults.credentials_missing(asked) from error
    except SSLError as error:
        raise faults.not_answering(asked, "TLS fails, or its certificate does not verify") from error
    except (HTTPClientError, BotoConnectionError, ResponseParserError) as error:
        raise TransientError(faults.not_answering(asked, type(error).__name__)) from error
    except BotoCoreError as error:
        raise faults.not_answering(asked, type(error).__name__) from error
    return answer


def _refused(error: ClientError, asked: Asked) -> NoReturn:
    name = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if faults.is_transient(name, status):
        raise TransientError(faults.from_aws(name, asked)) from error
    raise faults.from_aws(name, asked) from error
