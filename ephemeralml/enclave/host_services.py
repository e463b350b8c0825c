"""The host's services as the runtime uses them (nitro-platform section 7).

Whatever comes from there is untrusted. This module keeps it in bounds of size
and time; that it is the right thing, the signed manifest decides elsewhere.
"""

import http.client
import json
from collections.abc import Mapping
from typing import Any

from ephemeralml.crypto import strict_json
from ephemeralml.enclave.config import ServiceRules
from ephemeralml.errors import EphemeralError, MalformedError, UnavailableError
from ephemeralml.storage.base import Storage
from ephemeralml.storage.http import HttpStorage
from ephemeralml.storage.http_pool import Pool
from ephemeralml.storage.retry import Deadline, Retries, RetryPolicy, TransientFault
from ephemeralml.transport import tcp, unix, vsock
from ephemeralml.transport.address import Address, Scheme

MAX_ANSWER_BYTES = 65_536
_HOST = "services"
"""What the Host field says; a socket's address has no name."""
_KMS_SECONDS = 75.0
"""The host may try a KMS for a minute before it answers (key-release.md section 1)."""
SERVICES_HINT = "see what `ephemeralml host run --services` says on the host"


class ServicesConnection(http.client.HTTPConnection):
    """An HTTP connection to the services, over vsock, a unix socket or TCP."""

    timeout: float
    """Seconds for the connection to stand; set by who keeps it."""

    def __init__(self, address: Address) -> None:
        super().__init__(_HOST, timeout=10.0)
        self._address = address

    def connect(self) -> None:
        """Connect; called by the first request.

        Raises:
            OSError: Nobody answers there; the services may still be starting, so that is tried again.
            UnavailableError: Nobody ever will.
        """
        dial = {Scheme.UNIX: unix.connect, Scheme.VSOCK: vsock.connect, Scheme.TCP: tcp.connect}[self._address.scheme]
        try:
            self.sock = dial(self._address, self.timeout)
        except UnavailableError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise


class _Package(HttpStorage):
    """A package behind the services, whose statuses mean what `host.services_connection` means by them."""

    def _refusal(
        self, action: str, key: str, response: http.client.HTTPResponse, end: int = 0
    ) -> EphemeralError | TransientFault:
        match response.status:
            case 404:
                return UnavailableError(f"the host has no {self._name}{key} (404)", hint=SERVICES_HINT)
            case 424:
                return UnavailableError(
                    f"the host's bucket or folder does not let it read {self._name}{key} (424)", hint=SERVICES_HINT
                )
            case 502:
                return TransientFault("the host does not reach the package's bucket or folder (502)")
        return super()._refusal(action, key, response, end)


class HostServices:
    """The services at the measured address. Close it.

    One deadline runs from here on for everything that is asked for.

    Args:
        rules: Address and bounds.
    """

    def __init__(self, rules: ServiceRules) -> None:
        self._address = Address.parse(rules.address)
        policy = RetryPolicy(stall=rules.stall_seconds, call_seconds=rules.total_seconds)
        self._retries = Retries(policy, Deadline(rules.total_seconds))
        self._pool = Pool(self._connection, max(rules.stall_seconds, _KMS_SECONDS))

    def package(self, name: str) -> Storage:
        """Return the package *name* as a store of its files; nothing is asked for yet."""
        path = f"/package/{name}" if name else "/package"
        return _Package(self._connection, path, name=f"{self._address}{path}", retries=self._retries)

    def post(self, path: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Ask the service at *path*, once, and return its JSON answer, whatever its status.

        Raises:
            UnavailableError: No answer, or not in time.
            MalformedError: What was answered is no JSON object.
        """
        what = f"ask {self._address}{path}"
        self._retries.deadline.check(what)
        fields, body = {"content-type": "application/json"}, json.dumps(document).encode()
        try:
            with self._pool.exchange("POST", path, fields, self._retries.deadline, body) as response:
                answer = response.read(MAX_ANSWER_BYTES + 1)
        except TransientFault as error:
            raise UnavailableError(f"cannot {what}: {error}", hint=SERVICES_HINT) from error
        try:
            return strict_json.parse_object(answer, max_bytes=MAX_ANSWER_BYTES)
        except MalformedError as error:
            raise MalformedError(f"{self._address}{path} answers with something else: {error.message}") from error

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()

    def _connection(self) -> ServicesConnection:
        return ServicesConnection(self._address)
