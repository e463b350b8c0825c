"""An ONNX graph written as protobuf by hand, weights left outside.

An engine needs a dozen messages of `onnx.proto` once per start, for a graph of
its own making; the `onnx` package (and protobuf below it) would be 20 MB in the
image for that. Field numbers are those of ONNX IR version 8. Every initialiser
is declared *external*: ONNX Runtime takes its values from memory by name
(`SessionOptions.add_external_initializers`), so no weight is ever copied into
the graph.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

IR_VERSION = 8
OPSET = 17
CONTRIB_DOMAIN = "com.microsoft"
CONTRIB_VERSION = 1

_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT = 1, 2
_EXTERNAL = 1


class ElementType(IntEnum):
    """`TensorProto.DataType`, as far as it is used."""

    FLOAT = 1
    INT32 = 6


Dimension = int | str
"""A size, or the name of one that is known only at run time."""


def varint(value: int) -> bytes:
    """Return *value* ≥ 0 in protobuf's base-128 encoding."""
    if value < 0:
        raise ValueError("a negative varint")
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _number(tag: int, value: int) -> bytes:
    return varint(tag << 3 | _VARINT) + varint(value)


def _bytes(tag: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return varint(tag << 3 | _BYTES) + varint(len(raw)) + raw


def _float(tag: int, value: float) -> bytes:
    return varint(tag << 3 | _FIXED32) + struct.pack("<f", value)


def _attribute(name: str, value: float) -> bytes:
    if isinstance(value, int):
        return _bytes(1, name) + _number(3, value) + _number(20, _ATTRIBUTE_INT)
    return _bytes(1, name) + _float(2, value) + _number(20, _ATTRIBUTE_FLOAT)


def _value_info(name: str, kind: ElementType, shape: Sequence[Dimension]) -> bytes:
    dimensions = b"".join(_bytes(1, _bytes(2, size) if isinstance(size, str) else _number(1, size)) for size in shape)
    tensor_type = _number(1, kind) + _bytes(2, dimensions)
    return _bytes(1, name) + _bytes(2, _bytes(1, tensor_type))


def _external_initializer(name: str, shape: Sequence[int]) -> bytes:
    # The location is never opened: the runtime replaces every initialiser before it would be.
    entries = {"location": "memory", "offset": "0", "length": str(4 * _product(shape))}
    external = b"".join(_bytes(13, _bytes(1, key) + _bytes(2, value)) for key, value in entries.items())
    dimensions = b"".join(_number(1, size) for size in shape)
    return dimensions + _number(2, ElementType.FLOAT) + _bytes(8, name) + external + _number(14, _EXTERNAL)


def _product(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


@dataclass(slots=True)
class Graph:
    """A graph under construction: nodes in order of execution, then `to_bytes`."""

    name: str
    _nodes: list[bytes] = field(default_factory=list)
    _inputs: list[bytes] = field(default_factory=list)
    _outputs: list[bytes] = field(default_factory=list)
    _initializers: dict[str, bytes] = field(default_factory=dict)

    def input(self, name: str, kind: ElementType, shape: Sequence[Dimension]) -> str:
        """Declare an input of the graph and return its name."""
        self._inputs.append(_value_info(name, kind, shape))
        return name

    def output(self, name: str, kind: ElementType, shape: Sequence[Dimension]) -> None:
        """Declare the value *name* as an output of the graph."""
        self._outputs.append(_value_info(name, kind, shape))

    def weight(self, name: str, shape: Sequence[int]) -> str:
        """Declare a float32 initialiser that the session is given by name; return its name."""
        self._initializers[name] = _external_initializer(name, shape)
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        *,
        attributes: Mapping[str, float] | None = None,
        outputs: int = 1,
        domain: str = CONTRIB_DOMAIN,
    ) -> str:
        """Append a node with *outputs* fresh values and return the first one's name."""
        names = [f"v{len(self._nodes)}_{index}" for index in range(outputs)]
        parts = [_bytes(1, name) for name in inputs] + [_bytes(2, name) for name in names]
        parts += [_bytes(3, f"n{len(self._nodes)}"), _bytes(4, operator)]
        parts += [_bytes(5, _attribute(name, value)) for name, value in (attributes or {}).items()]
        self._nodes.append(b"".join(parts) + _bytes(7, domain))
        return names[0]

    def to_bytes(self) -> bytes:
        """Return the `ModelProto`."""
        graph = b"".join(_bytes(1, node) for node in self._nodes) + _bytes(2, self.name)
        graph += b"".join(_bytes(5, tensor) for tensor in self._initializers.values())
        graph += b"".join(_bytes(11, value) for value in self._inputs)
        graph += b"".join(_bytes(12, value) for value in self._outputs)
        opsets = _bytes(8, _bytes(1, "") + _number(2, OPSET))
        opsets += _bytes(8, _bytes(1, CONTRIB_DOMAIN) + _number(2, CONTRIB_VERSION))
        return _number(1, IR_VERSION) + opsets + _bytes(7, graph)
