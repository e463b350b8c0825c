"""Key ids, ARNs and alias names of one account and region."""

import json
import re
import uuid
from dataclasses import dataclass
from functools import lru_cache

_KEY = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ALIAS = re.compile(r"alias/[a-zA-Z0-9/_-]+")
_ACCOUNT = re.compile(r"[0-9]{12}")
_REGION = re.compile(r"[a-z][a-z0-9-]{0,31}")
_NAME = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")
_ARN = re.compile(
    r"arn:aws:iam::[0-9]{12}:(root|(user|role)/[A-Za-z0-9+=,.@_/-]{1,128})|"
    r"arn:aws:sts::[0-9]{12}:assumed-role/[A-Za-z0-9+=,.@_-]{1,64}/[A-Za-z0-9+=,.@_-]{1,64}"
)


@dataclass(frozen=True, slots=True)
class KeyName:
    """What a request calls a key."""

    name: str
    """A key's id, or ``alias/…``."""
    alias: bool


@dataclass(frozen=True, slots=True)
class Names:
    """The account and region of every ARN here.

    Raises:
        ValueError: They are no such.
    """

    account: str
    region: str

    def __post_init__(self) -> None:
        if _ACCOUNT.fullmatch(self.account) is None:
            raise ValueError("an account is 12 digits")
        if _REGION.fullmatch(self.region) is None:
            raise ValueError("a region is lower-case letters, digits and hyphens")

    @property
    def prefix(self) -> str:
        """How each ARN begins."""
        return f"arn:aws:kms:{self.region}:{self.account}:"

    def arn(self, key_id: str) -> str:
        """Return a key's ARN."""
        return f"{self.prefix}key/{key_id}"

    def alias_arn(self, name: str) -> str:
        """Return an alias's ARN."""
        return self.prefix + name

    def read(self, text: str) -> KeyName | None:
        """Read a key's id or ARN, or an alias or its ARN; None for anything else."""
        if text.startswith("arn:"):
            if not text.startswith(self.prefix):
                return None
            text = text.removeprefix(self.prefix)
            if text.startswith("key/"):
                text = text.removeprefix("key/")
                return KeyName(text, alias=False) if _KEY.fullmatch(text) else None
            return KeyName(text, alias=True) if _ALIAS.fullmatch(text) else None
        if _ALIAS.fullmatch(text):
            return KeyName(text, alias=True)
        return KeyName(text, alias=False) if _KEY.fullmatch(text) else None

    def principal(self, name: str) -> tuple[str, str]:
        """Return the short name and the ARN of a principal: a role's name, ``root``, or an ARN.

        Raises:
            ValueError: It is neither.
        """
        if _ARN.fullmatch(name):
            return name.partition("::")[2].replace(":", "-").replace("/", "-"), name
        if name == "root":
            return name, f"arn:aws:iam::{self.account}:root"
        if _NAME.fullmatch(name) is None or name in (".", ".."):
            raise ValueError("a principal is a name of letters, digits and +=,.@_-, or the ARN of a user or role")
        return name, f"arn:aws:iam::{self.account}:role/{name}"


def new_key_id() -> str:
    """Return the id of a new key."""
    return str(uuid.uuid4())


@lru_cache(maxsize=8)
def default_policy(account: str) -> str:
    """Return the policy that AWS gives a key made without one: whatever the account's own policies allow."""
    return json.dumps(
        {
            "Version": "2012-10-17",
            "Id": "key-default-1",
            "Statement": [
                {
                    "Sid": "Enable IAM User Permissions",
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{account}:root"},
                    "Action": "kms:*",
                    "Resource": "*",
                }
            ],
        }
    )
