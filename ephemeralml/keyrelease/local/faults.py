"""What the key server answers instead of a result: AWS's error names."""

from ephemeralml.errors import RejectedError


class ServiceFault(RejectedError):  # noqa: N818 - AWS's faults are named on the wire, this carries any of them
    """A request that is refused, by the name that AWS gives the reason.

    Args:
        name: AWS's name, which is also the error's code.
        message: What is wrong; goes to the client, so never a secret or a value of the request.
        status: The HTTP status; 400 but for transport and internal ones.
    """

    def __init__(self, name: str, message: str, *, status: int = 400) -> None:
        super().__init__(message, code=name)
        self.status = status
        """The HTTP status."""


def invalid(message: str) -> ServiceFault:
    """Return the fault for a value that breaks the API's constraints."""
    return ServiceFault("ValidationException", message)


def not_found(what: str) -> ServiceFault:
    """Return the fault for a key, alias or version that does not exist."""
    return ServiceFault("NotFoundException", f"{what} is not found")
