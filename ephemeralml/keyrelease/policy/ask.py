"""Send one Decrypt to a real KMS and say how it ended, in the service's own word."""

from collections.abc import Mapping
from typing import Any

from ephemeralml.crypto.wiping import wipe_bytes
from ephemeralml.errors import UnavailableError
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.faults import Asked
from ephemeralml.keyrelease.policy.probe import PLAINTEXT


def ask_decrypt(fields: Mapping[str, Any], *, endpoint: str | None, profile: str | None) -> str:
    """Return ``success``, ``plaintext`` (wiped here) or the error's name.

    Args:
        fields: Of Decrypt; `KeyId` is an ARN.
        endpoint: Where the service is; None for what the SDK is configured for.
        profile: Whose credentials of the SDK's configuration are used.

    Raises:
        RejectedError: A wrong answer would carry the key over a network in the clear (KEY_ENDPOINT_OPEN).
        UnavailableError: No credentials, or no answer.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    from ephemeralml.keyrelease import aws_client

    asked = Asked("Decrypt", str(fields["KeyId"]), "Recipient" in fields)
    try:
        session = boto3.session.Session(profile_name=profile, region_name=str(fields["KeyId"]).split(":")[3])
        config = Config(connect_timeout=3, read_timeout=10)
        client = aws_client.client_of(session, session.region_name, endpoint, config)
        try:
            aws_client.require_privacy(client, "decrypt", asked)
            answer = client.decrypt(**fields)
        finally:
            client.close()
    except ClientError as error:
        return str(error.response.get("Error", {}).get("Code", ""))
    except BotoCoreError as error:
        raise _unavailable(error, asked, profile) from error
    plaintext = answer.get("Plaintext")
    if plaintext:
        wipe_bytes(plaintext)
        return PLAINTEXT
    return "success" if answer.get("CiphertextForRecipient") else "nothing"


def _unavailable(error: Exception, asked: Asked, profile: str | None) -> UnavailableError:
    name = type(error).__name__
    if "Credentials" in name or "Profile" in name:
        whose = f"profile {profile}" if profile is not None else "the present profile"
        return UnavailableError(f"no credentials to ask the key with: {whose}", hint="give --verify-profile")
    return faults.not_answering(asked, name)
