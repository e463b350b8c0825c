"""What is not there: one object, or the whole bucket. Neither is asked for again."""

from ephemeralml.errors import UnavailableError


class NoObjectError(UnavailableError):
    """There is no such object."""


class NoBucketError(UnavailableError):
    """There is no such bucket."""


def no_object(place: str) -> NoObjectError:
    """Return the error for an object that is not at *place*."""
    return NoObjectError(
        f"there is no object {place}", hint="is the place named right, and was a whole package uploaded there?"
    )


def no_bucket(action: str, place: str) -> NoBucketError:
    """Return the error for the bucket of *place*, where something was to be done."""
    return NoBucketError(
        f"cannot {action} {place}: there is no such bucket", hint="check its name, and create it before an upload"
    )
