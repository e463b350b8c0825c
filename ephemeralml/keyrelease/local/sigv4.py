"""AWS Signature Version 4 of a request's headers and body, made and verified.

Signer and verifier share every step but the comparison. Query-string
signatures, chunked bodies, unsigned payloads and session tokens are not
served: the body's hash is always computed here and never believed.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NoReturn
from urllib.parse import quote, unquote_to_bytes

from ephemeralml.keyrelease.local.faults import ServiceFault

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE = "kms"
TERMINATOR = "aws4_request"
MAX_SKEW = timedelta(minutes=5)
"""How far a request's date may be from ours."""
MAX_AUTHORIZATION_BYTES = 4_096
MAX_HEADERS = 64

_DATE = "%Y%m%dT%H%M%SZ"
_DATE_DIGITS = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})T([0-9]{2})([0-9]{2})([0-9]{2})Z")
_CREDENTIAL = re.compile(r"([A-Za-z0-9]{4,128})/([0-9]{8})/([a-z0-9-]{1,64})/([a-z0-9-]{1,64})/([a-z0-9_]{1,64})")
_SIGNED = re.compile(r"[a-z0-9-]+(?:;[a-z0-9-]+)*")
_SIGNATURE = re.compile(r"[0-9a-f]{64}")
_SPACES = re.compile(r" +")
_BLANKS = " \t"

Headers = Sequence[tuple[bytes, bytes]]
"""Lower-case names and values, in the order received."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """The parts of an HTTP request that a signature covers."""

    method: str
    path: bytes
    """As received, still encoded."""
    query: bytes
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Credential:
    """An access key."""

    access_key: str
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.access_key})"


@dataclass(frozen=True, slots=True)
class _Claim:
    access_key: str
    date: str
    region: str
    service: str
    terminator: str
    signed: tuple[str, ...]
    signature: str


def verify(request: SignedRequest, *, region: str, now: datetime, secret_of: Callable[[str], str | None]) -> str:
    """Verify a request's signature and return its access key's id.

    1. There is an Authorization header.          MissingAuthenticationTokenException
    2. It, the date and the signed headers are complete: host, date, content
       type and every x-amz- header are signed, and none comes twice.
                                                  IncompleteSignatureException
    3. The access key is known, no session token is used.
                                                  UnrecognizedClientException
    4. The scope is this region and service, the date is within five minutes,
       and the signature over headers and body is the one that the secret makes.
                                                  InvalidSignatureException

    Args:
        request: What was received.
        region: The server's.
        now: The time.
        secret_of: Gives an access key's secret, or None.

    Raises:
        ServiceFault: With one of the names above.
    """
    headers = _headers(request.headers)
    claim = _claim(headers)
    date = headers.get("x-amz-date", "")
    _complete(claim, headers)
    instant = _parse_date(date)
    secret = secret_of(claim.access_key)
    if secret is None or "x-amz-security-token" in headers:
        raise ServiceFault("UnrecognizedClientException", "the security token included in the request is invalid")
    if (claim.region, claim.service, claim.terminator) != (region, SERVICE, TERMINATOR):
        _refuse(f"the credential's scope is not {region}/{SERVICE}/{TERMINATOR}")
    if not date.startswith(claim.date):
        _refuse("the credential's date is not that of the request")
    if abs(now - instant) > MAX_SKEW:
        _refuse(f"the signature's time is more than {MAX_SKEW.seconds // 60} minutes from the server's")
    expected = _signature(Credential(claim.access_key, secret), request, headers, claim.signed, date, region)
    if not hmac.compare_digest(expected, claim.signature):
        _refuse("the signature does not match the one that this server calculates")
    return claim.access_key


def sign(
    method: str, headers: Mapping[str, str], body: bytes, *, credential: Credential, region: str, now: datetime
) -> dict[str, str]:
    """Return *headers* with the date and the signature of a request to ``/``; they must name the host."""
    date = now.astimezone(UTC).strftime(_DATE)
    signed = {name.lower(): value for name, value in headers.items()} | {"x-amz-date": date}
    names = tuple(sorted(signed))
    signature = _signature(credential, SignedRequest(method, b"/", b"", (), body), signed, names, date, region)
    scope = f"{credential.access_key}/{date[:8]}/{region}/{SERVICE}/{TERMINATOR}"
    authorization = f"{ALGORITHM} Credential={scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return {**signed, "authorization": authorization}


def _headers(received: Headers) -> dict[str, str]:
    if len(received) > MAX_HEADERS:
        _incomplete(f"more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    twice: set[str] = set()
    for raw_name, raw_value in received:
        name = raw_name.decode("latin-1").lower()
        (twice.add(name) if name in headers else None)
        headers[name] = raw_value.decode("latin-1")
    if any(name in twice for name in ("authorization", "host", "content-type")) or any(
        name.startswith("x-amz-") for name in twice
    ):
        _incomplete("a header that is signed comes twice")
    return headers


def _claim(headers: Mapping[str, str]) -> _Claim:
    authorization = headers.get("authorization")
    if authorization is None:
        raise ServiceFault("MissingAuthenticationTokenException", "the request has no Authorization header")
    algorithm, _, rest = authorization.partition(" ")
    if algorithm != ALGORITHM or len(authorization) > MAX_AUTHORIZATION_BYTES:
        _incomplete(f"Authorization does not begin with {ALGORITHM}")
    parts: dict[str, str] = {}
    for part in rest.split(","):
        name, separator, value = part.strip().partition("=")
        if not separator or name in parts:
            _incomplete("Authorization is not a list of Name=value")
        parts[name] = value
    if parts.keys() != {"Credential", "SignedHeaders", "Signature"}:
        _incomplete("Authorization needs Credential, SignedHeaders and Signature, each once")
    credential = _CREDENTIAL.fullmatch(parts["Credential"])
    if credential is None:
        _incomplete("Credential is not KEY/DATE/REGION/SERVICE/aws4_request")
    if _SIGNED.fullmatch(parts["SignedHeaders"]) is None or _SIGNATURE.fullmatch(parts["Signature"]) is None:
        _incomplete("SignedHeaders or Signature is not well formed")
    access_key, date, region, service, terminator = credential.groups()
    signed = tuple(parts["SignedHeaders"].split(";"))
    return _Claim(access_key, date, region, service, terminator, signed, parts["Signature"])


def _complete(claim: _Claim, headers: Mapping[str, str]) -> None:
    if list(claim.signed) != sorted(set(claim.signed)):
        _incomplete("SignedHeaders is not sorted, or names a header twice")
    if any(name not in headers for name in claim.signed):
        _incomplete("a header that SignedHeaders names is missing")
    needed = {"host", "x-amz-date"} | {name for name in headers if name.startswith("x-amz-")}
    needed |= {"content-type"} & headers.keys()
    if not needed <= set(claim.signed):
        _incomplete("host, content-type, x-amz-date and every other x-amz- header must be signed")


def _parse_date(date: str) -> datetime:
    found = _DATE_DIGITS.fullmatch(date)
    if found is None:
        _incomplete("X-Amz-Date is not a date of the form YYYYMMDDTHHMMSSZ")
    year, month, day, hour, minute, second = map(int, found.groups())
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        _incomplete("X-Amz-Date is no date")


def _signature(
    credential: Credential,
    request: SignedRequest,
    headers: Mapping[str, str],
    signed: Iterable[str],
    date: str,
    region: str,
) -> str:
    names = tuple(signed)
    canonical = "\n".join(
        (
            request.method,
            _canonical_path(request.path),
            _canonical_query(request.query),
            *(f"{name}:{_SPACES.sub(' ', headers[name].strip(_BLANKS))}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{date[:8]}/{region}/{SERVICE}/{TERMINATOR}"
    # Headers come as latin-1, so that what was received is hashed byte for byte.
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    text = f"{ALGORITHM}\n{date}\n{scope}\n{digest}"
    key = _signing_key(credential.secret, date[:8], region)
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=256)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in (day, region, SERVICE, TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _canonical_path(path: bytes) -> str:
    # Encoded once more than received, as for every service but S3. Dot segments and double slashes are left as
    # they are: the only path that is served has none.
    return quote(path, safe="/-_.~") or "/"


def _canonical_query(query: bytes) -> str:
    if not query:
        return ""
    pairs = (part.partition(b"=")[::2] for part in query.split(b"&"))
    return "&".join("=".join(pair) for pair in sorted((_encoded(name), _encoded(value)) for name, value in pairs))


def _encoded(part: bytes) -> str:
    return quote(unquote_to_bytes(part), safe="-_.~")


def _incomplete(message: str) -> NoReturn:
    raise ServiceFault("IncompleteSignatureException", message)


def _refuse(message: str) -> NoReturn:
    raise ServiceFault("InvalidSignatureException", message)
