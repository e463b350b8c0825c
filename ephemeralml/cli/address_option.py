"""Addresses as options give them."""

from ephemeralml.cli import console
from ephemeralml.errors import MalformedError
from ephemeralml.transport import Address


def parse_address(option: str, text: str) -> Address:
    """Read the address that *option* gives.

    Raises:
        UsageError: It is none.
    """
    try:
        return Address.parse(text)
    except MalformedError as error:
        raise console.usage(f"{option}: {error.message}", hint=error.hint) from error
