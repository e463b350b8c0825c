"""Which version of each policy was seen last, so that an older one is refused (attestation section 6, rule 6)."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ephemeralml.attestation.policy import Policy
from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError, RejectedError, UnavailableError

SCHEMA = "ephemeralml.policy-state/1"
MAX_STATE_BYTES = 1_048_576
ROLLBACK = "POLICY_ROLLBACK"
CONFLICT = "POLICY_CONFLICT"


@dataclass(frozen=True, slots=True)
class PolicyState:
    """The state file, mode 0600, locked while it is looked at."""

    path: Path

    def admit(self, policy: Policy) -> None:
        """Accept *policy* as the newest of its id, and remember it.

        Raises:
            RejectedError: A later version was seen (POLICY_ROLLBACK), or this
                one with other bytes (POLICY_CONFLICT).
            MalformedError: The state file is not one; it is left as it is.
            UnavailableError: It cannot be read or written.
        """
        try:
            with self._locked():
                seen = self._read()
                _compare(policy, seen.get(policy.policy_id))
                seen[policy.policy_id] = {"version": policy.version, "digest": policy.digest.hex()}
                self._write(seen)
        except OSError as error:
            raise UnavailableError(f"cannot keep policy state in {self.path}: {error.strerror}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock file; it is never removed, since another process may wait on it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                data = file.read(MAX_STATE_BYTES + 1)
        except FileNotFoundError:
            return {}
        document = strict_json.parse_object(data, max_bytes=MAX_STATE_BYTES)
        policies = document.get("policies")
        if document.keys() != {"schema", "policies"} or document["schema"] != SCHEMA or type(policies) is not dict:
            raise MalformedError(f"{self.path} is not a policy state file")
        for entry in policies.values():
            if (
                type(entry) is not dict
                or entry.keys() != {"version", "digest"}
                or type(entry["version"]) is not int
                or type(entry["digest"]) is not str
            ):
                raise MalformedError(f"{self.path} holds an entry that is no policy state")
        return policies

    def _write(self, policies: dict[str, Any]) -> None:
        temporary = Path(f"{self.path}.{os.getpid()}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps({"schema": SCHEMA, "policies": policies}, indent=1).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _compare(policy: Policy, seen: dict[str, Any] | None) -> None:
    if seen is None:
        return
    if policy.version < seen["version"]:
        raise RejectedError(
            f"policy {policy.policy_id!a} version {policy.version} is older than version {seen['version']}, which was "
            f"accepted before ({ROLLBACK})",
            code=ROLLBACK,
            expected=f"version >= {seen['version']}",
            actual=f"version {policy.version}",
            hint=f"give version {seen['version']} or a later one; to go back on purpose, publish the old rules under a "
            "higher version",
        )
    if policy.version == seen["version"] and policy.digest.hex() != seen["digest"]:
        raise RejectedError(
            f"policy {policy.policy_id!a} version {policy.version} was seen with other bytes ({CONFLICT})",
            code=CONFLICT,
            expected=seen["digest"],
            actual=policy.digest.hex(),
            hint="give the changed policy a higher version",
        )
