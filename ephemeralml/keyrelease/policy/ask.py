"""Send one Decrypt to a real KMS and say how it ended, in the service's own word."""

import configparser
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.policy.probe import ALGORITHM, PLAINTEXT

if TYPE_CHECKING:
    import boto3.session

MAX_CREDENTIALS_BYTES = 65_536
_SECTION = "default"


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose credentials ask: a profile of the SDK's configuration, an access key, or with neither the present ones."""

    profile: str | None = None
    access_key: tuple[str, str, str | None] | None = field(default=None, repr=False)
    """Access key, secret and session token."""

    @classmethod
    def of_file(cls, data: bytes, section: str | None = None) -> "Whose":
        """Read a credentials file, as AWS's tools and `kms serve` write them.

        Raises:
            MalformedError: It is none, or has no such section.
        """
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(data.decode())
        except (configparser.Error, UnicodeDecodeError) as error:
            raise MalformedError("no file of AWS credentials") from error
        name = section or _SECTION
        if not parser.has_section(name):
            raise MalformedError(f"no section [{name[:64]}]", hint="--verify-profile names a section of this file")
        found = [
            parser.get(name, f"aws_{part}", fallback="")
            for part in ("access_key_id", "secret_access_key", "session_token")
        ]
        if not found[0] or not found[1]:
            raise MalformedError(f"[{name[:64]}] lacks aws_access_key_id or aws_secret_access_key")
        return cls(access_key=(found[0], found[1], found[2] or None))


def ask_decrypt(fields: Mapping[str, Any], *, endpoint: str | None, whose: Whose) -> str:
    """Return ``success``, ``plaintext`` (wiped here) or the error's name.

    Args:
        fields: Of Decrypt; `KeyId` is an ARN.
        endpoint: Where the service is; None for what the SDK is configured for.
        whose: Who asks.

    Raises:
        RejectedError: A wrong answer would carry the key over a network in the clear (KEY_ENDPOINT_OPEN).
        UnavailableError: No valid credentials, or no answer.
    """
    return _sent(fields, Asked("Decrypt", str(fields["KeyId"]), "Recipient" in fields), endpoint, whose)


def _sent(fields: Mapping[str, Any], asked: Asked, endpoint: str | None, whose: Whose) -> str:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    from ephemeralml.keyrelease import aws_client

    region = asked.key.split(":")[3]
    with aws_client.configuring(replace(asked, region=region)):
        config = Config(connect_timeout=3, read_timeout=10)
        client = aws_client.client_of(_session(whose, region), region, endpoint, config)
    try:
        aws_client.require_privacy(client, "decrypt", asked)
        asked = aws_client.sent_to(client, asked)
        answer = client.decrypt(**fields)
    except ClientError as error:
        return _name_of(error.response, asked)
    except BotoCoreError as error:
        raise _unavailable(error, asked, whose) from error
    finally:
        client.close()
    plaintext = answer.get("Plaintext")
    if plaintext:
        wipe_bytes(plaintext)
        return PLAINTEXT
    return "success" if answer.get("CiphertextForRecipient") else "nothing"


def require_credentials(key: str, *, endpoint: str | None, whose: Whose) -> None:
    """Find out whether *whose* credentials are there and the service takes them, before anything depends on it.

    The service is asked with a document of random bytes, which it refuses
    before it reads any policy: nothing can be released.

    Raises:
        RejectedError: It could not be asked without a document: as `ask_decrypt`.
        UnavailableError: They are not, it does not, or it does not answer.
    """
    random = {"KeyEncryptionAlgorithm": ALGORITHM, "AttestationDocument": secrets.token_bytes(1_024)}
    fields = {"KeyId": key, "CiphertextBlob": bytes(64), "Recipient": random}
    # As if there were no document: what comes later needs a way on which a key may be answered.
    _sent(fields, Asked("Decrypt", key), endpoint, whose)


def _session(whose: Whose, region: str) -> "boto3.session.Session":
    import boto3

    if whose.access_key is None:
        return boto3.session.Session(profile_name=whose.profile, region_name=region)
    access_key, secret, token = whose.access_key
    return boto3.session.Session(access_key, secret, token, region_name=region)


def _name_of(response: Mapping[str, Any], asked: Asked) -> str:
    """Return the error's name, if it says anything of the key."""
    name = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if faults.is_about_credentials(name) or faults.is_transient(name, status):
        raise faults.from_aws(name, asked)
    return name


def _unavailable(error: Exception, asked: Asked, whose: Whose) -> UnavailableError:
    name = type(error).__name__
    if "Credentials" in name:
        profile = f"profile {whose.profile}" if whose.profile is not None else "the present profile"
        return UnavailableError(
            f"no credentials to ask the key with: {profile}",
            hint="give --verify-credentials FILE or --verify-profile NAME",
        )
    return faults.not_answering(asked, name)
