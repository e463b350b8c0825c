"""The key server of a local deployment: whose key, and for which image (deploy.md section 4).

The same three roles as in a cloud: the publisher wraps, the host asks for the
key to be released, the administrator decides for which image. Nobody of them
may decrypt; a test asks each.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ephemeralml import resources
from ephemeralml.errors import UnavailableError
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.local.database import FILE as DATABASE
from ephemeralml.keyrelease.policy.render import Roles, render
from ephemeralml.keyrelease.policy.tuples import ReleaseTuple
from ephemeralml.keyrelease.uris import KeyUri, Provider

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

    from ephemeralml.deploy.local import StateFolder
    from ephemeralml.keyrelease.policy.document import KeyPolicy

ADMINISTRATOR, PUBLISHER, PARENT = "administrator", "publisher", "parent"
ALIAS = "alias/deploy-local"
SDK_VARIABLES = ("AWS_", "BOTO_CONFIG")
"""What the AWS SDK reads of an environment, by its beginning."""
_ADDRESS_SPACE = "arn:aws:iam"
_FILES = ("config_file", "credentials_file")
_UNSET = (None, None, None, None)
_NOWHERE = (None, None, os.devnull, None)
# Where botocore's variables come from: a key of its configuration, a variable of the environment, a default.


@dataclass(frozen=True, slots=True)
class KeyServer:
    """A running `kms serve` and the folder of its state."""

    state: Path
    endpoint: str
    account: str
    region: str

    def credentials(self, principal: str) -> Path:
        """Return the file with a principal's credentials, in the AWS SDK's format."""
        return self.state / "credentials" / principal

    def environment(self, principal: str) -> dict[str, str]:
        """Return what a child needs to call the server as *principal*: names of files, no secret.

        It must inherit none of `SDK_VARIABLES`: a user's own credentials would win.
        """
        return {
            "AWS_SHARED_CREDENTIALS_FILE": str(self.credentials(principal)),
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, principal: str) -> "KMSClient":
        """Return a client that calls as *principal*, whatever the environment says.

        Raises:
            UnavailableError: Its credentials are missing.
        """
        import configparser

        import boto3
        import botocore.session
        from botocore.config import Config

        parser = configparser.RawConfigParser()
        try:
            with self.credentials(principal).open(encoding="ascii") as file:
                parser.read_file(file)
            section = parser["default"]
            key_id, secret = section["aws_access_key_id"], section["aws_secret_access_key"]
        except (OSError, KeyError, ValueError, configparser.Error) as error:
            raise UnavailableError(
                f"no credentials of {principal} for the local key server",
                hint=f"add it: ephemeralml kms serve --state {self.state} --add-principal {principal}",
            ) from error
        # Of the user's own profiles and files nothing is read: they may be broken, or meant for AWS.
        alone = botocore.session.Session(dict.fromkeys(("profile",), _UNSET) | dict.fromkeys(_FILES, _NOWHERE))
        session = boto3.session.Session(key_id, secret, region_name=self.region, botocore_session=alone)
        # Without TLS a proxy of the environment's would read the data keys.
        return session.client("kms", endpoint_url=self.endpoint, config=Config(proxies={}))

    def role(self, principal: str) -> str:
        """Return a principal's ARN."""
        return f"{_ADDRESS_SPACE}::{self.account}:role/{principal}"

    def roles(self) -> Roles:
        """Return who is who in the policies of this server's keys."""
        return Roles((self.role(ADMINISTRATOR),), (self.role(PUBLISHER),), (self.role(PARENT),))


def server_command(state: "StateFolder") -> tuple[str, ...]:
    """Return the arguments of the `ephemeralml` command that is the key server; the first time it makes its state."""
    first = () if (state.keys / DATABASE).exists() else ("--init", *_principals(PUBLISHER, PARENT))
    return (
        *("kms", "serve", "--state", str(state.keys), "--authority", str(state.authority)),
        *("--listen", "127.0.0.1:0", "--json", *first),
    )


def _principals(*names: str) -> tuple[str, ...]:
    return tuple(word for name in names for word in ("--add-principal", name))


def model_key(server: KeyServer, models: Sequence[str]) -> KeyUri:
    """Return the deployment's key; the first time it is made, released to nothing yet.

    Args:
        server: The running key server.
        models: Ids of the models whose packages it may wrap.

    Raises:
        UnavailableError: The server does not answer, or refuses.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from ephemeralml.keyrelease.new_key import create_key

    kms = server.client(ADMINISTRATOR)
    try:
        arn = kms.describe_key(KeyId=ALIAS)["KeyMetadata"]["Arn"]
    except kms.exceptions.NotFoundException:
        arn = create_key(kms, _policy(server, models, ()), description="deploy local", alias=ALIAS)
    except (ClientError, BotoCoreError) as error:
        raise _unanswered(error) from error
    finally:
        kms.close()
    return KeyUri.parse(f"{Provider.LOCAL}:{arn}")


def release_to(server: KeyServer, key: str, models: Sequence[str], registers: dict[str, str]) -> None:
    """Let the host have *key* released to the one image with *registers*, and to nothing else.

    Args:
        server: The running key server.
        key: URI of one of its keys.
        models: Ids of the models whose packages it may open.
        registers: ``pcr0`` to ``pcr2`` at least, in hex.

    Raises:
        UnavailableError: The server does not answer, or refuses.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    pinned = {int(name.removeprefix("pcr")): bytes.fromhex(value) for name, value in registers.items()}
    image = ReleaseTuple("deploy local", MappingProxyType({index: pinned[index] for index in (0, 1, 2)}))
    kms = server.client(ADMINISTRATOR)
    try:
        kms.put_key_policy(
            KeyId=KeyUri.parse(key).resource, PolicyName="default", Policy=_policy(server, models, (image,)).text
        )
    except (ClientError, BotoCoreError) as error:
        raise _unanswered(error) from error
    finally:
        kms.close()


def publisher_keys(server: KeyServer, key: KeyUri) -> AwsKms:
    """Return *key* as the publisher may use it: to make and wrap data keys."""
    return AwsKms(key, client=server.client(PUBLISHER))


def _policy(server: KeyServer, models: Sequence[str], tuples: Sequence[ReleaseTuple]) -> "KeyPolicy":
    template = resources.bundled("templates", "kms-policy.json.j2").read_text(encoding="utf-8")
    return render(server.roles(), models, tuples, template)


def _unanswered(error: Exception) -> UnavailableError:
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        reason = str(error.response.get("Error", {}).get("Code", "an error"))
    else:
        reason = type(error).__name__
    hint = "see kms.log in the state folder"
    if reason == "NotFoundException":
        hint = "it has no such key: name the server that has it with --kms-endpoint"
    return UnavailableError(f"the local key server answers {reason}", hint=hint)
