"""Versions as SemVer 2.0.0 writes and orders them.

Policies and manifests name a least version; both compare by section 11 of the
specification, build metadata ignored.
"""

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Self

MAX_CHARACTERS = 128

_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRE = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_GRAMMAR = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})(?:-({_PRE}(?:\.{_PRE})*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class SemVer:
    """One version; equal and ordered by precedence, so ``1.0.0+a`` equals ``1.0.0+b``."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a version (SemVer 2.0.0, section 2, 9 and 10).

        Raises:
            ValueError: *text* is no such version, or longer than 128 characters.
        """
        match = _GRAMMAR.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
        if match is None:
            raise ValueError(f"not a SemVer 2.0.0 version: {text[:64]!a}")
        major, minor, patch, prerelease, build = match.groups()
        return cls(int(major), int(minor), int(patch), tuple(prerelease.split(".")) if prerelease else (), build or "")

    @property
    def precedence(self) -> tuple[object, ...]:
        """A key that sorts versions (section 11): a release after its prereleases, numbers before texts."""
        identifiers = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in self.prerelease)
        return (self.major, self.minor, self.patch, not self.prerelease, identifiers)

    def __eq__(self, other: object) -> bool:
        return self.precedence == other.precedence if isinstance(other, SemVer) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self.precedence < other.precedence if isinstance(other, SemVer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.precedence)

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.prerelease:
            text += "-" + ".".join(self.prerelease)
        return f"{text}+{self.build}" if self.build else text
