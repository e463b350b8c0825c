"""From a key's URI to what serves it, for the operator's commands (key-release.md section 1)."""

import os
from collections.abc import Mapping

from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease import faults
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.base import OperatorKeys
from ephemeralml.keyrelease.uris import KeyUri, Provider

_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL")


def open_provider(
    uri: str, *, endpoint: str | None = None, environment: Mapping[str, str] | None = None
) -> OperatorKeys:
    """Return the service of a key, or of an alias, with the credentials this machine has.

    Nothing is connected to yet.

    Args:
        uri: ``aws-kms:…``, ``gcp-kms:…`` or ``local:…``.
        endpoint: Where the service is; for a ``local:`` key this or
            AWS_ENDPOINT_URL_KMS is needed, for ``gcp-kms:`` there is none.
        environment: Where that variable is looked up; the process's by default.

    Raises:
        MalformedError: No such URI, or an endpoint for a fixed service.
        UnavailableError: A local key without endpoint.
    """
    key = KeyUri.parse_operator(uri)
    if key.provider is Provider.GCP_KMS:
        if endpoint is not None:
            raise MalformedError("the endpoint of Cloud KMS is fixed", hint="leave --kms-endpoint out")
        from ephemeralml.keyrelease.gcp import GcpKms

        return GcpKms.of_operator(key)
    variables = os.environ if environment is None else environment
    if key.provider is Provider.LOCAL:
        require_endpoint(str(key), endpoint, variables)
    return AwsKms(key, endpoint=endpoint)


def require_endpoint(key: str, endpoint: str | None, environment: Mapping[str, str] | None = None) -> None:
    """Refuse a key of a server of one's own where nothing says where that server is.

    Raises:
        UnavailableError: Neither *endpoint* nor the environment says it.
    """
    variables = os.environ if environment is None else environment
    if endpoint is None and not any(map(variables.get, _ENDPOINT_VARIABLES)):
        raise faults.no_endpoint(key)
