"""A session for threads: attest once, then ask as often as you like."""

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from ephemeralml.attestation.policy import Policy
from ephemeralml.attestation.roots import TrustRoots
from ephemeralml.client.attested import Attested
from ephemeralml.client.call import REPLY_SECONDS, Ask, Call, Pieces, TimedOutError, encode_body
from ephemeralml.client.exchange import Exchange
from ephemeralml.client.manifests import ManifestStore, manifest_body, manifest_path
from ephemeralml.client.reply import Receipted, Reply
from ephemeralml.client.selection import INFO_PATH, Selection, UnknownModelError, aliases_named, find
from ephemeralml.client.wire import Wire
from ephemeralml.transport.address import Address
from ephemeralml.transport.dial import connect as dial

CONNECT_SECONDS = 15.0
"""For the connection, and again for the runtime's hello (channel section 7, Timing)."""

OnReceipt = Callable[[Receipted], None]


def connect(
    target: str,
    *,
    policy: Policy,
    roots: TrustRoots | None = None,
    nonce: bytes | None = None,
    timeout: float = CONNECT_SECONDS,
    on_receipt: OnReceipt | None = None,
    manifests: ManifestStore | None = None,
) -> "Session":
    """Connect to a runtime and verify it; returns only if it passed.

    Args:
        target: ``tcp://host:port``, ``unix:///path``, ``vsock://cid:port`` or ``ws(s)://host/v1/channel``.
        policy: What is accepted, `Policy.load` for instance.
        roots: Trust roots instead of the policy's own.
        nonce: The session's 32-byte nonce; drawn at random if None.
        timeout: Seconds for the connection, and again, 15 at most, for the handshake.
        on_receipt: Called with every verified receipt, before its reply is returned.
        manifests: Verified manifests to share with other sessions under the same policy.

    Raises:
        RejectedError: The runtime's evidence must not be trusted.
        MalformedError: It, or a frame, does not parse; or *target* is no address.
        IncompleteError: Something that the policy requires could not be checked.
        UnavailableError: Nobody answers, or not in time.
    """
    exchange = Exchange(policy=policy, roots=roots, nonce=nonce, manifests=manifests)
    wire = Wire(dial(Address.parse(target), timeout=timeout), exchange)
    try:
        wire.handshake(min(timeout, CONNECT_SECONDS))
    except BaseException:
        wire.abort()
        raise
    return Session(wire, on_receipt=on_receipt)


class Session:
    """One attested session; `connect` makes it. Safe to use from several threads.

    Args:
        wire: Its bytes, state and checks; the handshake is over.
        on_receipt: Called with every verified receipt.
    """

    def __init__(self, wire: Wire, *, on_receipt: OnReceipt | None = None) -> None:
        self._wire = wire
        self._exchange = wire.exchange
        self._on_receipt = on_receipt

    # -- asking

    def post(
        self,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        nonce: bytes | None = None,
        timeout: float = REPLY_SECONDS,
    ) -> Reply:
        """Send a body and return the complete reply, its receipt verified; see `request`."""
        body, headers = encode_body(json, content, headers)
        return self.request("POST", path, body, headers=headers, nonce=nonce, timeout=timeout)

    def get(self, path: str, *, headers: Mapping[str, str] | None = None, timeout: float = REPLY_SECONDS) -> Reply:
        """Read something that involves no model; see `request`."""
        return self.request("GET", path, headers=headers, timeout=timeout)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        nonce: bytes | None = None,
        timeout: float = REPLY_SECONDS,
    ) -> Reply:
        """Ask, wait, and return the complete reply, error statuses included.

        Args:
            method: HTTP's method.
            path: What is asked, from ``/``.
            body: The exact bytes that the receipt's request_hash covers.
            headers: Names in lower case.
            nonce: 8..64 bytes for the receipt; drawn at random if None and a receipt is due.
            timeout: Seconds until the whole reply is here.

        Raises:
            RejectedError: The policy refuses the model, and then nothing was
                sent; or the receipt is missing or wrong, and the session is over.
            MalformedError: The request breaks a rule, or the peer sent what does not parse.
            SessionEndedError: The session was over; nothing was sent.
            TruncatedError: The reply did not become complete.
            TimedOutError: Not in time; the request has been cancelled.
        """
        deadline = time.monotonic() + timeout
        ask = Ask(method, path, body, headers or {}, nonce)
        call = self._start(ask, deadline, live=False)
        self._wire.wait(call, lambda: call.done, deadline)
        reply = call.reply()
        self._deliver(reply.receipted)
        return reply

    def stream(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        nonce: bytes | None = None,
        timeout: float = REPLY_SECONDS,
    ) -> "StreamedReply":
        """Ask, and return as soon as the answer begins; read its body from the result.

        The receipt is checked at the body's end, so act on a piece before that
        only as on a draft. *timeout* holds for the start and between two pieces.

        Raises:
            EphemeralError: As `request`.
        """
        ask = Ask(method, path, body, headers or {}, nonce)
        call = self._start(ask, time.monotonic() + timeout, live=True)
        self._wire.wait(call, lambda: call.done or call.status is not None, time.monotonic() + timeout)
        call.require()
        return StreamedReply(self._wire, call, timeout, self._deliver)

    def manifest(self, model: str, *, timeout: float = REPLY_SECONDS) -> bytes:
        """Return the signed manifest of *model*, verified as far as the policy names publishers.

        Raises:
            RejectedError: No such model, or the manifest is not its own.
            IncompleteError: The runtime does not hand it out.
        """
        entry = find(model, self.attested.identity.models)
        store = self._exchange.manifests
        if store.get(entry) is None:
            store.add(entry, manifest_body(self.get(manifest_path(entry), timeout=timeout)))
        data = store.get(entry)
        assert data is not None
        return data

    # -- the session

    @property
    def attested(self) -> Attested:
        """What was verified about the runtime."""
        attested = self._exchange.attested
        assert attested is not None
        return attested

    @property
    def inflight(self) -> int:
        """Requests that wait for their end."""
        return self._exchange.inflight

    def usable(self) -> bool:
        """Return whether another request has the prospect of a reply; notices a peer that has closed."""
        self._wire.look()
        with self._wire.lock:
            return self._exchange.fresh()

    def close(self) -> None:
        """Tell the runtime, end calls in flight, and let the connection go."""
        self._wire.close()

    def retire(self) -> None:
        """Close as soon as no request waits for its end: now, or when the last one has it."""
        self._wire.retire()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, ask: Ask, deadline: float, *, live: bool) -> Call:
        """Send *ask*, once its model and, where the policy wants that, its publisher are accepted."""
        self._wire.look()
        selection = self._select(ask, deadline)
        store, entry = self._exchange.manifests, selection.entry
        if entry is not None and store.missing(entry):
            store.add(entry, manifest_body(self.get(manifest_path(entry), timeout=_left(deadline))))
        return self._wire.start(ask, selection, deadline, live=live)

    def _select(self, ask: Ask, deadline: float) -> Selection:
        with self._wire.lock:
            try:
                return self._exchange.select(ask)
            except UnknownModelError:
                if self._exchange.aliases is not None:
                    raise
        info = self.get(INFO_PATH, timeout=_left(deadline))
        with self._wire.lock:
            self._exchange.aliases = aliases_named(info.body)
            return self._exchange.select(ask)

    def _deliver(self, receipted: Receipted | None) -> None:
        if receipted is not None and self._on_receipt is not None:
            self._on_receipt(receipted)


class StreamedReply:
    """A reply whose body is read as it comes; its receipt is checked at the end.

    Leaving it before the end cancels the request.
    """

    def __init__(self, wire: Wire, call: Call, timeout: float, deliver: Callable[[Receipted | None], None]) -> None:
        assert call.status is not None
        self.status: int = call.status
        self.headers: Mapping[str, str] = call.headers
        self._call, self._timeout, self._complete = call, timeout, False
        self._wire, self._deliver = wire, deliver

    @property
    def receipted(self) -> Receipted | None:
        """The verified receipt, once the body has been read to its end."""
        return self._call.receipted if self._complete else None

    def __iter__(self) -> Iterator[bytes]:
        """Yield the body in pieces.

        Raises:
            EphemeralError: The stream was cut (`TruncatedError`), or its receipt
                is refused (`RejectedError`): what was read so far does not count.
        """
        wire, call = self._wire, self._call
        try:
            while True:
                wire.wait(call, lambda: call.done or bool(call.unread), time.monotonic() + self._timeout)
                with wire.lock:
                    over, data = call.done, call.take()
                call.require()
                if data:
                    yield data
                if over:
                    break
        finally:
            self.close()
        if not self._complete:
            self._complete = True
            self._deliver(call.receipted)

    def read(self) -> bytes:
        """Return the whole body, its receipt verified; errors as when iterating."""
        pieces = Pieces()
        for piece in self:
            pieces.add(piece)
        return pieces.join()

    def close(self) -> None:
        """Cancel the request if it has not ended."""
        if not self._call.done:
            self._wire.cancel(self._call, TimedOutError("the caller stopped reading"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
