"""Keeps a session to one runtime: the next request after an end attests anew.

A request goes to another session only if nothing of it was sent; whatever was
handed over is answered, or fails, where it is (channel section 4).
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.client.async_session import AsyncSession, async_connect
from ephemeralml.client.call import SessionEndedError
from ephemeralml.client.manifests import ManifestStore
from ephemeralml.client.session import CONNECT_SECONDS, OnReceipt, Session, connect
from ephemeralml.errors import UnavailableError
from ephemeralml.transport.address import Address

_T = TypeVar("_T")
_ATTEMPTS = 2
"""Sessions that one request may try; a second only after the first was found ended."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to connect to, and what to accept there.

    Raises:
        MalformedError: *address* is none.
    """

    address: str
    policy: Policy
    roots: TrustRoots | None = None
    on_receipt: OnReceipt | None = None
    manifests: ManifestStore = field(init=False, repr=False)
    """Manifests outlive sessions: a model hash means the same bytes in every one."""

    def __post_init__(self) -> None:
        Address.parse(self.address)
        object.__setattr__(self, "manifests", ManifestStore(self.policy))


class ConnectError(UnavailableError):
    """There is no session, so nothing of the request was sent."""


class Link:
    """One current session for threads; see the module."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False

    def ask(self, use: Callable[[Session], _T], *, timeout: float = CONNECT_SECONDS) -> _T:
        """Return what *use* makes of a session; it is called again if the first had ended unnoticed.

        Raises:
            ConnectError: There is no connection, or no session within *timeout* seconds.
            EphemeralError: The runtime does not pass verification, or what *use* raises.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return use(self._current(timeout))
            except SessionEndedError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close the session; a later request is refused."""
        with self._lock:
            self._closed = True
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _current(self, timeout: float) -> Session:
        with self._lock:
            if self._closed:
                raise RuntimeError("the client has been closed")
            if self._session is not None:
                if self._session.usable():
                    return self._session
                ended, self._session = self._session, None
                ended.retire()
            target = self._target
            try:
                self._session = connect(
                    target.address,
                    policy=target.policy,
                    roots=target.roots,
                    timeout=timeout,
                    on_receipt=target.on_receipt,
                    manifests=target.manifests,
                )
            except UnavailableError as error:
                raise ConnectError(error.message, hint=error.hint) from error
            return self._session


class AsyncLink:
    """One current session for the tasks of an event loop; see the module."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = asyncio.Lock()
        self._session: AsyncSession | None = None
        self._closed = False

    async def ask(self, use: Callable[[AsyncSession], Awaitable[_T]], *, timeout: float = CONNECT_SECONDS) -> _T:  # noqa: ASYNC109 - as `Link.ask`
        """Return what *use* makes of a session; as `Link.ask`."""
        for attempt in range(_ATTEMPTS):
            try:
                return await use(await self._current(timeout))
            except SessionEndedError:
                if attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the session; a later request is refused."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _current(self, timeout: float) -> AsyncSession:  # noqa: ASYNC109 - as above
        if self._session is not None and self._session.usable():
            return self._session
        async with self._lock:
            if self._closed:
                raise RuntimeError("the client has been closed")
            if self._session is not None:
                if self._session.usable():
                    return self._session
                ended, self._session = self._session, None
                await ended.retire()
            target = self._target
            try:
                self._session = await async_connect(
                    target.address,
                    policy=target.policy,
                    roots=target.roots,
                    timeout=timeout,
                    on_receipt=target.on_receipt,
                    manifests=target.manifests,
                )
            except UnavailableError as error:
                raise ConnectError(error.message, hint=error.hint) from error
            return self._session
