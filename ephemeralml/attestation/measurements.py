"""Which registers a policy accepts: tuples, never mixed (attestation section 6, rule 1).

A rule looks at plain values and reports what differs; nobody here knows where
the registers were read from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from ephemeralml.attestation.verdict import short_hex
from ephemeralml.clock import format_rfc3339
from ephemeralml.errors import MalformedError


@dataclass(frozen=True, slots=True)
class Difference:
    """One register that is not as a rule wants it."""

    entry: str
    """Name of the policy's entry."""
    register: str
    expected: str
    actual: str


class MeasurementRule(Protocol):
    """Says in what a set of registers differs from what is accepted; in nothing, if it is accepted."""

    def differences(self, registers: Mapping[str, bytes], at: datetime) -> tuple[Difference, ...]:
        """Return every difference at the instant *at*."""
        ...


@dataclass(frozen=True, slots=True)
class RegisterTuple:
    """Registers that must all be equal, until a date.

    Raises:
        MalformedError: It names no register.
    """

    name: str
    registers: Mapping[str, bytes]
    until: datetime | None = None

    def __post_init__(self) -> None:
        if not self.registers:
            raise MalformedError(f"entry {self.name!a} names no register", code="POLICY_EMPTY")

    def live(self, at: datetime) -> bool:
        """Return whether the entry has not ended at *at*."""
        return self.until is None or at < self.until

    def differences(self, registers: Mapping[str, bytes], at: datetime) -> tuple[Difference, ...]:
        """Return each named register that is missing or has another value, and the end of the entry."""
        found = [
            Difference(self.name, register, short_hex(wanted), short_hex(actual) if actual is not None else "absent")
            for register, wanted in self.registers.items()
            if (actual := registers.get(register)) != wanted
        ]
        if self.until is not None and not self.live(at):
            found.append(
                Difference(self.name, "until", f"before {format_rfc3339(self.until)}", f"at {format_rfc3339(at)}")
            )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Accepts what one of its rules accepts; else reports the nearest one's differences."""

    rules: tuple[MeasurementRule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise MalformedError("a choice among no rules", code="POLICY_EMPTY")

    def differences(self, registers: Mapping[str, bytes], at: datetime) -> tuple[Difference, ...]:
        """Return the differences of the rule that has the fewest."""
        return min((rule.differences(registers, at) for rule in self.rules), key=len)


@dataclass(frozen=True, slots=True)
class AllOf:
    """Accepts what all of its rules accept; reports the differences of each."""

    rules: tuple[MeasurementRule, ...]

    def __post_init__(self) -> None:
        if not self.rules:
            raise MalformedError("a conjunction of no rules", code="POLICY_EMPTY")

    def differences(self, registers: Mapping[str, bytes], at: datetime) -> tuple[Difference, ...]:
        """Return the differences of every rule, in order."""
        return tuple(difference for rule in self.rules for difference in rule.differences(registers, at))
