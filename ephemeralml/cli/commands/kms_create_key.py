"""`ephemeralml kms create-key`: a key for models, gated from its first moment."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from ephemeralml.cli import console

if TYPE_CHECKING:
    from ephemeralml.keyrelease.faults import Asked

_VARIABLES = ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL")


def create_key(
    key_policy: Annotated[
        Path, typer.Option(metavar="FILE", help="Its key policy, as `ephemeralml kms policy render` writes it.")
    ],
    alias: Annotated[str | None, typer.Option(metavar="NAME", help="A name for it: alias/NAME.")] = None,
    description: Annotated[str, typer.Option(metavar="TEXT", help="Shown by the service; no secret.")] = "ephemeralml",
    kms_endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help="Where the key service is. Default: the SDK's")
    ] = None,
) -> None:
    """Make a symmetric, rotating key under a policy that lint finds no way around.

    Needs an administrator's credentials. Prints the key's URI, as `model encrypt
    --key` takes it.
    """
    from contextlib import closing

    from ephemeralml.cli.kms_policy_inputs import of_file
    from ephemeralml.keyrelease import aws_client, new_key
    from ephemeralml.keyrelease.faults import Asked
    from ephemeralml.keyrelease.policy.document import MAX_POLICY_BYTES
    from ephemeralml.keyrelease.policy.plan import parse_policy_file
    from ephemeralml.keyrelease.uris import Provider

    data = console.read_file(key_policy, max_bytes=8 * MAX_POLICY_BYTES, what="key policy")
    with of_file(key_policy):
        parsed = parse_policy_file(data)
    name = alias if alias is None or alias.startswith("alias/") else f"alias/{alias}"
    asked = Asked("CreateKey", "a new key")
    region = _region(asked)
    with closing(aws_client.connect(region, kms_endpoint, asked, connect=3, read=7)) as client:
        if name is not None and (taken := new_key.alias_target(client, name)) is not None:
            raise console.usage(
                f"{name} is the name of {taken} already; no key was made", hint="choose another --alias"
            )
        arn = new_key.create_key(client, parsed, description=description, alias=name)
    uri = f"{Provider.LOCAL if _is_local(kms_endpoint) else Provider.AWS_KMS}:{arn}"
    document = {"schema": "ephemeralml.kms-key/1", "key": uri, "arn": arn, "alias": name}
    console.current().result(document, lambda out: out.print(uri, markup=False, highlight=False, soft_wrap=True))


def _region(asked: "Asked") -> str:
    import boto3

    from ephemeralml.keyrelease import aws_client

    with aws_client.configuring(asked):
        region = os.environ.get("AWS_REGION") or boto3.session.Session().region_name
    if not region:
        raise console.usage("no region for the key", hint="set AWS_DEFAULT_REGION; `kms serve` calls its own local")
    return region


def _is_local(option: str | None) -> bool:
    """Return whether the service is one that packages find at an endpoint of their operator's, and not at AWS."""
    endpoint = option or next(filter(None, map(os.environ.get, _VARIABLES)), None)
    host = urlsplit(endpoint).hostname if endpoint else None
    return endpoint is not None and not (host or "").endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))
