"""Socket errors and what to do about them."""

import errno
import os
import socket

import pytest

from ephemeralml.transport.address import Address
from ephemeralml.transport.faults import unlistenable


@pytest.mark.parametrize(
    ("address", "number", "hint"),
    [
        ("tcp://192.0.2.1:7443", errno.EADDRNOTAVAIL, "0.0.0.0 for all"),
        ("vsock://7:5005", errno.EADDRNOTAVAIL, "vsock://any:5005"),
        ("tcp://127.0.0.1:7443", errno.EADDRINUSE, "another process listens there"),
        ("tcp://127.0.0.1:80", errno.EACCES, "this user may not listen there"),
        ("tcp://127.0.0.1:7443", errno.EMFILE, "is the address right"),
    ],
)
def test_a_listener_that_fails_says_why(address: str, number: int, hint: str) -> None:
    error = unlistenable(Address.parse(address), OSError(number, os.strerror(number)))
    assert error.message == f"cannot listen on {address}: {os.strerror(number)}"
    assert hint in (error.hint or "")


def test_a_name_that_does_not_resolve() -> None:
    error = unlistenable(Address.parse("tcp://nowhere.invalid:1"), socket.gaierror(-2, "Name or service not known"))
    assert error.hint == "check the host's name"
