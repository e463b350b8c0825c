"""What goes wrong between boto3 and a bucket, in our words."""

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from ephemeralml.errors import UnavailableError
from ephemeralml.storage.missing import no_bucket, no_object
from ephemeralml.storage.pins import Version, changed
from ephemeralml.storage.ranges import UNREADABLE, truncated, unreadable
from ephemeralml.storage.retry import CHECK_ENDPOINT, TransientFault

_DENIED = frozenset(
    {
        "403",
        "401",
        "AccessDenied",
        "AllAccessDisabled",
        "AccountProblem",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)
_MISSING = frozenset({"404", "NoSuchKey", "NoSuchBucket", "NotFound"})
_PASSING = frozenset(
    {
        "429",
        "BadDigest",
        "InternalError",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_PASSING_STATUS = frozenset({429, 500, 502, 503, 504})


@contextlib.contextmanager
def explained(action: str, bucket: str, key: str, *, end: int = 0, pinned: Version | None = None) -> Iterator[None]:
    """Run one request of boto3, its errors turned into ours.

    Args:
        action: What is done, such as ``read``.
        bucket: The bucket.
        key: The whole key in it.
        end: The end of the range that is read.
        pinned: The version that is wanted.

    Raises:
        RejectedError: The object is another one, or too short.
        TransientFault: It may go better the next time.
        UnavailableError: It will not.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,  # noqa: A004 - botocore's, no subclass of the built-in one
        HTTPClientError,
        NoCredentialsError,
        PartialCredentialsError,
        ProxyConnectionError,
        SSLError,
    )
    from botocore.parsers import ResponseParserError

    place = f"s3://{bucket}/{key}"
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        raise _meaning(code, status, action, place, end, pinned) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UnavailableError(
            f"cannot {action} {place}: no AWS credentials", hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret"
        ) from error
    except (SSLError, ProxyConnectionError) as error:
        raise UnavailableError(f"cannot {action} {place}: no trusted connection to {_endpoint(error)}") from error
    except (HTTPClientError, ConnectionError) as error:
        raise TransientFault(
            f"the connection to {_endpoint(error)} failed ({type(error).__name__})", hint=CHECK_ENDPOINT
        ) from error
    except BotoCoreError as error:
        raise UnavailableError(f"cannot {action} {place}: {type(error).__name__}") from error
    except ResponseParserError as error:
        raise TransientFault("the store's answer does not parse") from error
    except UNREADABLE as error:
        raise unreadable(action, place) from error


def _meaning(  # noqa: PLR0911 - one line for each thing that S3 says
    code: str, status: int, action: str, place: str, end: int, pinned: Version | None
) -> Exception:
    if code == "NoSuchBucket":
        return no_bucket(action, place)
    if code in _MISSING or status == 404:
        return no_object(place)
    if code in _PASSING or status in _PASSING_STATUS:
        return TransientFault(f"the store answers {code or status}")
    if code in _DENIED or status in (401, 403):
        return UnavailableError(
            f"not allowed to {action} {place}: {code}", hint="check the credentials' policy for this bucket and prefix"
        )
    if status == 412:
        return changed(place, pinned) if pinned else UnavailableError(f"cannot {action} {place}: it exists already")
    if code == "InvalidRange" or status == 416:
        return truncated(place, end)
    return UnavailableError(f"cannot {action} {place}: the store answers {code or status}")


def _endpoint(error: Exception) -> str:
    """Return which endpoint botocore's *error* speaks of, without what else its address says."""
    parts = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", "")))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else "the endpoint"
