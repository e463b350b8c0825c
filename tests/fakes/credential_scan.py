"""Finds tokens that a cloud would exchange for credentials, in anything that leaves a process."""

import base64
import binascii
import json
import re

_JWT = re.compile(rb"eyJ[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*")
_CREDENTIAL = re.compile(
    r"https://sts\.googleapis\.com|//iam\.googleapis\.com/|https://iam\.googleapis\.com/|sts.*amazonaws\.com"
)


def credential_tokens(data: bytes) -> list[str]:
    """The audiences of such tokens in *data*; none is what must be found."""
    found = []
    for match in _JWT.finditer(data):
        part = match[1]
        try:
            claims = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
        except (binascii.Error, ValueError):
            continue
        audience = claims.get("aud") if isinstance(claims, dict) else None
        for name in audience if isinstance(audience, list) else [audience]:
            if isinstance(name, str) and _CREDENTIAL.match(name):
                found.append(name)
    return found
