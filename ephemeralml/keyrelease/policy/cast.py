"""The callers of a simulation: who stands in the policy, and who would like to get in (key-release.md section 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ephemeralml.keyrelease.policy.document import KeyPolicy, PolicyDocument, Statement
from ephemeralml.keyrelease.policy.evaluate import Grant
from ephemeralml.keyrelease.policy.principals import account_of, identity
from ephemeralml.keyrelease.policy.reach import DECRYPT, PUT_POLICY, reaching

_EVERYTHING = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "kms:*", "Resource": "*"}}'
_GRANTED = ("Decrypt", "ReEncryptFrom", "ReEncryptTo", "CreateGrant", "GenerateDataKey", "Encrypt", "DescribeKey")


@dataclass(frozen=True, slots=True)
class Cast:
    """ARNs by role."""

    parent: str
    publisher: str
    administrator: str
    account: str
    partition: str = "aws"

    ROLES: ClassVar = ("parent", "publisher", "administrator", "root", "iam-role", "other-account", "grantee")

    @classmethod
    def of(cls, policy: KeyPolicy, account: str) -> "Cast":
        """Take the working roles from the policy: the first that each action names."""
        partition = next(
            (who.partition for one in policy.statements for named in one.principals if (who := identity(named.value))),
            "aws",
        )
        made_up = f"arn:{partition}:iam::{account}:role/simulated-"

        def first(action: str, name: str) -> str:
            return next((arn for one in reaching(policy, action) for arn in _roles(one)), made_up + name)

        return cls(
            first(DECRYPT, "parent"),
            first("kms:GenerateDataKey", "publisher"),
            first(PUT_POLICY, "administrator"),
            account,
            partition,
        )

    def people(self) -> dict[str, str]:
        """Return every caller's ARN by its role in the matrix."""
        here = f"arn:{self.partition}:iam::{self.account}"
        other = "999999999999" if self.account != "999999999999" else "888888888888"
        arns = (
            self.parent,
            self.publisher,
            self.administrator,
            f"{here}:root",
            f"{here}:role/simulated-kms-everything",
            f"arn:{self.partition}:iam::{other}:role/simulated-stranger",
            f"{here}:role/simulated-grantee",
        )
        return dict(zip(self.ROLES, arns, strict=True))

    def into(
        self, identity_policies: Mapping[str, Sequence[PolicyDocument]], grants: Sequence[Grant]
    ) -> tuple[Mapping[str, Sequence[PolicyDocument]], tuple[Grant, ...]]:
        """Return identity policies and grants with those of the made-up callers."""
        people = self.people()
        everything = PolicyDocument.parse(_EVERYTHING)
        own = dict(identity_policies) | {people[who]: [everything] for who in ("root", "iam-role", "other-account")}
        return own, (*grants, Grant("simulated", people["grantee"], _GRANTED))


def _roles(statement: Statement) -> list[str]:
    return [
        one.value for one in statement.principals if one.kind == "AWS" and not account_of(one.value) and not one.anyone
    ]


def account_in(policy: KeyPolicy) -> str | None:
    """Return the account of the first principal that has one."""
    accounts = (
        account_of(named.value) or _account(named.value) for one in policy.statements for named in one.principals
    )
    return next((account for account in accounts if account is not None), None)


def _account(arn: str) -> str | None:
    who = identity(arn)
    return who.account if who is not None else None
