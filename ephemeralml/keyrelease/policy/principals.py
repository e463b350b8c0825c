"""Who asks, and whom a policy names (key-release.md section 5, evaluation)."""

import re
from dataclasses import dataclass
from functools import lru_cache

_ARN = re.compile(r"arn:(aws[a-z-]*):(iam|sts)::(\d{12}):(root|(user|role|assumed-role|federated-user)/(.+))", re.ASCII)
_ACCOUNT = re.compile(r"\d{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, role, session or account root, read from its ARN."""

    arn: str
    partition: str
    account: str
    kind: str
    """``root``, ``user``, ``role``, ``federated-user``; a role's session is of the role's kind."""
    name: str
    """With its path; without one for a session, whose ARN has none."""
    session: str | None = None

    @property
    def role_arn(self) -> str:
        """What `aws:PrincipalArn` says: for a session the role's ARN."""
        return f"arn:{self.partition}:iam::{self.account}:role/{self.name}" if self.session else self.arn

    @property
    def last(self) -> str:
        """The name without its path: unique among an account's roles."""
        return self.name.rpartition("/")[2]


@lru_cache(maxsize=4_096)
def identity(arn: str) -> Identity | None:
    """Read an ARN of someone who can ask; None for what is no such ARN."""
    found = _ARN.fullmatch(arn)
    if found is None:
        return None
    partition, service, account, whole, kind, name = found.groups()
    if whole == "root":
        return Identity(arn, partition, account, "root", "") if service == "iam" else None
    if (service == "iam") is not (kind in ("user", "role")):
        return None
    if kind == "assumed-role":
        role, slash, session = name.rpartition("/")
        return Identity(arn, partition, account, "role", role, session) if slash and role and session else None
    return Identity(arn, partition, account, kind, name)


def account_of(text: str) -> str | None:
    """Return the account that an account principal names (its number or its root's ARN), else None."""
    if _ACCOUNT.fullmatch(text):
        return text
    who = identity(text)
    return who.account if who is not None and who.kind == "root" else None


def last_name(arn: str) -> str:
    """Return what every text that is `same` as *arn* holds: a role's name without its path, else all of it."""
    who = identity(arn)
    return who.last if who is not None and who.kind == "role" else arn


def same(named: str, asking: str) -> bool:
    """Return whether *named* is *asking*, or the role whose session *asking* is."""
    if named == asking:
        return True
    one, other = identity(named), identity(asking)
    if one is None or other is None or one.session is not None or other.session is None:
        return False
    # A session's ARN leaves the role's path out; within an account the last part names one role.
    return (one.kind, one.partition, one.account, one.last) == ("role", other.partition, other.account, other.last)
