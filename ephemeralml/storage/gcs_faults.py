"""What goes wrong between us and a GCS bucket, in our words."""

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

from ephemeralml.errors import UnavailableError
from ephemeralml.storage.missing import no_bucket, no_object
from ephemeralml.storage.pins import Version, changed
from ephemeralml.storage.ranges import UNREADABLE, truncated, unreadable
from ephemeralml.storage.retry import CHECK_ENDPOINT, TransientFault

_PASSING = frozenset({408, 429, 500, 502, 503, 504})


@contextlib.contextmanager
def explained(action: str, place: str) -> Iterator[None]:
    """Run requests of google-cloud-storage or requests, their errors turned into ours.

    Raises:
        TransientFault: It may go better the next time.
        UnavailableError: It will not.
    """
    import google.api_core.exceptions as api
    import google.auth.exceptions as auth
    import requests

    try:
        yield
    except api.GoogleAPICallError as error:
        raise meaning(int(error.code or 0), action, place) from error
    except (auth.DefaultCredentialsError, auth.RefreshError) as error:
        raise UnavailableError(
            f"cannot {action} {place}: no Google credentials",
            hint="run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS",
        ) from error
    except requests.exceptions.SSLError as error:
        raise UnavailableError(f"cannot {action} {place}: the server's certificate is not trusted") from error
    except (requests.exceptions.RequestException, auth.TransportError) as error:
        raise TransientFault(
            f"the connection to {_endpoint(error)} failed ({type(error).__name__})", hint=CHECK_ENDPOINT
        ) from error
    except auth.GoogleAuthError as error:
        raise UnavailableError(f"cannot {action} {place}: {type(error).__name__}") from error
    except UNREADABLE as error:
        raise unreadable(action, place) from error


def meaning(  # noqa: PLR0911 - one line for each answer
    status: int, action: str, place: str, *, end: int = 0, pinned: Version | None = None, asked: str | None = None
) -> Exception:
    """Return what an answer with *status* means.

    Args:
        status: The answer's status.
        action: What was done, such as ``read``.
        place: The object.
        end: The end of the range that was read.
        pinned: The version that was wanted.
        asked: The answer's `Retry-After`.
    """
    match status:
        case 412 | 404 if pinned:  # a generation that is gone answers like an object that never was
            return changed(place, pinned)
        case 404 if action != "read":  # an object is only missed where one is read
            return no_bucket(action, place)
        case 404 | 410:
            return no_object(place)
        case 401 | 403:
            return UnavailableError(
                f"not allowed to {action} {place}: the store answers {status}",
                hint="check the account's roles for this bucket",
            )
        case 412:
            return UnavailableError(f"cannot {action} {place}: it exists already")
        case 416:
            return truncated(place, end)
        case _ if status in _PASSING:
            wait = float(asked) if asked and asked.isascii() and asked.isdigit() and len(asked) <= 4 else None
            return TransientFault(f"the store answers {status}", retry_after=wait)
        case _:
            return UnavailableError(f"cannot {action} {place}: the store answers {status}")


def _endpoint(error: Exception) -> str:
    """Return which host the request of *error* went to."""
    parts = urlsplit(str(getattr(getattr(error, "request", None), "url", None) or ""))
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}" if host else "the endpoint"
