"""Request bodies, read as botocore's own description of the service says.

The description ships with the client library, so server and clients agree on
names, types and limits, and nothing about them is written down twice here.
What a type is wrong for is a SerializationException, what a limit is broken by
a ValidationException; fields that the description does not know are ignored.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from botocore.loaders import Loader
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StringShape, StructureShape

from ephemeralml.crypto import strict_json
from ephemeralml.errors import MalformedError
from ephemeralml.keyrelease.local.faults import ServiceFault, invalid

MAX_BODY_BYTES = 524_288
"""Most bytes of a request (key-release.md section 8)."""
MAX_ITEMS = 1_000
"""Most items of a list or pairs of a map, where the description gives no bound."""

Reader = Callable[[bytes], dict[str, Any]]
"""Turns a body into the fields of one operation, blobs as bytes."""
_Check = Callable[[Any, str], Any]


def readers(operations: Iterable[str]) -> Mapping[str, Reader]:
    """Return a reader for each of *operations*, from the description of ``kms``."""
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    service = ServiceModel(loader.load_service_model("kms", "service-2"), "kms")
    return {name: _reader(service.operation_model(name).input_shape) for name in operations}


def _reader(shape: Shape | None) -> Reader:
    check = _structure(shape) if isinstance(shape, StructureShape) else _nothing

    def read(body: bytes) -> dict[str, Any]:
        try:
            document = strict_json.parse_object(body or b"{}", max_bytes=MAX_BODY_BYTES)
        except MalformedError as error:
            raise _unreadable("the body is not a JSON object") from error
        fields: dict[str, Any] = check(document, "")
        return fields

    return read


def _nothing(_value: Any, _path: str) -> dict[str, Any]:
    return {}


def _unreadable(message: str) -> ServiceFault:
    return ServiceFault("SerializationException", message)


def _check(shape: Shape) -> _Check:
    if isinstance(shape, StructureShape):
        return _structure(shape)
    if isinstance(shape, ListShape):
        return _list(shape)
    if isinstance(shape, MapShape):
        return _map(shape)
    return _SCALARS[shape.type_name](shape)


def _structure(shape: StructureShape) -> _Check:
    members = {name: _check(member) for name, member in shape.members.items() if member.type_name != "timestamp"}
    required = tuple(shape.required_members)

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _unreadable(f"{path or 'the body'} is not an object")
        fields = {
            name: read(item, f"{path}.{name}" if path else name)
            for name, read in members.items()
            if (item := value.get(name)) is not None
        }
        for name in required:
            if name not in fields:
                raise invalid(f"{path + '.' if path else ''}{name} is missing")
        return fields

    return check


def _bounds(shape: Shape) -> Callable[[int, str, str], None]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")

    def check(size: int, path: str, what: str) -> None:
        if least is not None and size < least:
            raise invalid(f"{path} must have {what} of at least {least}")
        if most is not None and size > most:
            raise invalid(f"{path} must have {what} of at most {most}")

    return check


def _list(shape: ListShape) -> _Check:
    member, bounds = _check(shape.member), _bounds(shape)

    def check(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise _unreadable(f"{path} is not a list")
        bounds(len(value), path, "a length")
        if len(value) > MAX_ITEMS:
            raise invalid(f"{path} has more than {MAX_ITEMS} items")
        return [member(item, f"{path}[{index}]") for index, item in enumerate(value)]

    return check


def _map(shape: MapShape) -> _Check:
    key, member = _check(shape.key), _check(shape.value)

    def check(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _unreadable(f"{path} is not a map")
        if len(value) > MAX_ITEMS:
            raise invalid(f"{path} has more than {MAX_ITEMS} pairs")
        return {key(name, f"{path} key"): member(item, f"{path} value") for name, item in value.items()}

    return check


def _string(shape: Shape) -> _Check:
    bounds = _bounds(shape)
    choices = frozenset(shape.enum) if isinstance(shape, StringShape) else frozenset()
    pattern = re.compile(shape.metadata["pattern"]) if "pattern" in shape.metadata else None

    def check(value: Any, path: str) -> str:
        if type(value) is not str:
            raise _unreadable(f"{path} is not a string")
        bounds(len(value), path, "a length")
        if choices and value not in choices:
            raise invalid(f"{path} is none of the values that the API names")
        if pattern is not None and pattern.fullmatch(value) is None:
            raise invalid(f"{path} does not match the pattern that the API names")
        return value

    return check


def _blob(shape: Shape) -> _Check:
    bounds = _bounds(shape)

    def check(value: Any, path: str) -> bytes:
        if type(value) is not str:
            raise _unreadable(f"{path} is not a base64 string")
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _unreadable(f"{path} is not a base64 string") from error
        bounds(len(data), path, "a length")
        return data

    return check


def _integer(shape: Shape) -> _Check:
    bounds = _bounds(shape)

    def check(value: Any, path: str) -> int:
        if type(value) is not int:
            raise _unreadable(f"{path} is not an integer")
        bounds(value, path, "a value")
        return value

    return check


def _boolean(_shape: Shape) -> _Check:
    def check(value: Any, path: str) -> bool:
        if type(value) is not bool:
            raise _unreadable(f"{path} is not a boolean")
        return value

    return check


_SCALARS: Mapping[str, Callable[[Shape], _Check]] = MappingProxyType(
    {"string": _string, "blob": _blob, "integer": _integer, "boolean": _boolean}
)
