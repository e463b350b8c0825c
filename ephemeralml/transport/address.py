"""Where a stream goes to or is listened for, as text.

``tcp://host:port``, ``unix:///path``, ``vsock://cid:port``,
``ws://host[:port]/v1/channel`` and ``wss://…``. One spelling each; what does
not fit is refused with the form that would.
"""

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import AddressValueError, IPv6Address
from typing import Self

from ephemeralml.errors import MalformedError

WEBSOCKET_PATH = "/v1/channel"
"""The only path that a relay serves (channel section 5)."""
CID_ANY = 0xFFFF_FFFF
"""A vsock listener's “whatever my CID is”, written ``any``."""
MAX_UNIX_PATH = 107
"""Most bytes of a unix socket's path on Linux."""
MAX_TEXT = 1_024

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.(?!-)[A-Za-z0-9_-]{1,63})*\.?")
_LOOPBACK_V4 = re.compile(r"127(?:\.[0-9]{1,3}){3}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_FORMS = "tcp://HOST:PORT, unix:///PATH, vsock://CID:PORT or wss://HOST/v1/channel"
_DEFAULT_PORTS = {"ws": 80, "wss": 443}


class Scheme(Enum):
    """Kinds of streams."""

    TCP = "tcp"
    UNIX = "unix"
    VSOCK = "vsock"
    WS = "ws"
    WSS = "wss"


@dataclass(frozen=True, slots=True)
class Address:
    """A stream's address, well-formed by construction through `parse`."""

    scheme: Scheme
    host: str = ""
    """tcp, ws, wss: a name, an IPv4 or an IPv6 address without brackets."""
    port: int = 0
    """All but unix; 0 lets a listener choose."""
    path: str = ""
    """unix: absolute."""
    cid: int = 0
    """vsock: the context id."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address.

        Raises:
            MalformedError: It has none of the forms; the hint gives the nearest.
        """
        if len(text) > MAX_TEXT or not text.isprintable():
            raise MalformedError("an address of unprintable characters or absurd length", hint=f"write {_FORMS}")
        name, separator, rest = text.partition("://")
        try:
            scheme = Scheme(name)
        except ValueError:
            scheme = None
        if not separator or scheme is None:
            raise MalformedError(f"not an address: {text[:80]!r}", hint=f"write {_FORMS}")
        if scheme is Scheme.UNIX:
            return cls(scheme, path=_unix_path(text, rest))
        if scheme is Scheme.VSOCK:
            cid, port = _vsock(text, rest)
            return cls(scheme, port=port, cid=cid)
        authority = rest
        if scheme in (Scheme.WS, Scheme.WSS):
            authority, slash, tail = rest.partition("/")
            if slash + tail != WEBSOCKET_PATH:
                raise MalformedError(
                    f"a websocket address whose path is not {WEBSOCKET_PATH}: {text[:80]!r}",
                    hint=f"write {name}://{authority[:60] or 'HOST'}{WEBSOCKET_PATH}",
                )
        host, port = _host_port(text, authority, _DEFAULT_PORTS.get(name))
        return cls(scheme, host, port)

    @property
    def authority(self) -> str:
        """``host:port`` as it stands in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach a listener here."""
        return (
            self.scheme is Scheme.UNIX or self.host in ("localhost", "::1") or bool(_LOOPBACK_V4.fullmatch(self.host))
        )

    def __str__(self) -> str:
        match self.scheme:
            case Scheme.UNIX:
                return f"unix://{self.path}"
            case Scheme.VSOCK:
                return f"vsock://{'any' if self.cid == CID_ANY else self.cid}:{self.port}"
            case Scheme.TCP:
                return f"tcp://{self.authority}"
            case _:
                return f"{self.scheme.value}://{self.authority}{WEBSOCKET_PATH}"


def _unix_path(text: str, path: str) -> str:
    if not path.startswith("/") or path.endswith("/"):
        raise MalformedError(f"not a unix socket's path: {text[:80]!r}", hint="write unix:///absolute/path")
    if len(path.encode()) > MAX_UNIX_PATH:
        raise MalformedError(
            f"a unix socket's path of {len(path.encode())} bytes, at most {MAX_UNIX_PATH} are allowed",
            hint="use a shorter folder, such as one below /tmp or /run",
        )
    return path


def _vsock(text: str, rest: str) -> tuple[int, int]:
    cid_text, separator, port_text = rest.partition(":")
    cid = CID_ANY if cid_text == "any" else _number(cid_text, CID_ANY - 1)
    port = _number(port_text, 0xFFFF_FFFE)
    if not separator or cid is None or port is None:
        raise MalformedError(f"not a vsock address: {text[:80]!r}", hint="write vsock://CID:PORT, or vsock://any:PORT")
    return cid, port


def _host_port(text: str, authority: str, default: int | None) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, tail = authority[1:].partition("]")
        good = bool(bracket) and _is_ipv6(host) and (not tail or tail.startswith(":"))
        port_text: str | None = tail[1:] if tail else None
    else:
        host, colon, tail = authority.partition(":")
        good = bool(_NAME.fullmatch(host)) and len(host) <= 253
        port_text = tail if colon else None
    port = default if port_text is None else _number(port_text, 0xFFFF)
    if not good or port is None:
        raise MalformedError(f"not HOST:PORT in {text[:80]!r}", hint="write for example tcp://127.0.0.1:7443")
    return host, port


def _is_ipv6(text: str) -> bool:
    if "%" in text:  # a zone means something on one machine only
        return False
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def _number(text: str, most: int) -> int | None:
    if not _NUMBER.fullmatch(text) or int(text) > most:
        return None
    return int(text)
