import json
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from ephemeralml.errors import MalformedError
from ephemeralml.model.formats import safetensors
from ephemeralml.model.formats.source import BufferSource
from tests.fakes import tiny_bert


def parse(data: bytes, **options: object) -> safetensors.SafetensorsHeader:
    return safetensors.parse(BufferSource(data), **options)


def raw(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def with_tensors(data: int = 8, **tensors: object) -> bytes:
    return raw(json.dumps(tensors), bytes(data))


def test_a_file_of_the_library_is_read() -> None:
    arrays = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.zeros((), np.float16),
        "c": np.zeros((0, 4), np.float32),
    }
    data = save(arrays, metadata={"format": "pt"})
    header = parse(data)
    assert header.metadata == {"format": "pt"}
    assert {tensor.name: tensor.shape for tensor in header.tensors} == {"a": (), "b": (2, 3), "c": (0, 4)}
    found = next(tensor for tensor in header.tensors if tensor.name == "b")
    assert data[found.start : found.end] == arrays["b"].tobytes()
    assert found.elements == 6


def test_our_own_writer_makes_what_the_library_reads() -> None:
    from safetensors.numpy import load

    tensors = tiny_bert.tensors()
    read = load(tiny_bert.safetensors(tensors))
    assert all(np.array_equal(read[name], array) for name, array in tensors.items())


def test_a_file_without_tensors_is_read() -> None:
    assert parse(raw("{}")).tensors == ()
    assert parse(raw('{"__metadata__": {}}   ')).tensors == ()


BROKEN = {
    "empty": (b"", "less than 8"),
    "header longer than the file": (raw("{}", length=3), "in a file of"),
    "header of 2^40": (raw("{}", length=1 << 40), "at most"),
    "header over 100 MB": (raw("{}", length=100_000_001), "at most"),
    "not JSON": (raw("{"), "not JSON"),
    "not UTF-8": (raw(b"\xff\xff"), "UTF-8"),
    "a list": (raw("[]"), "not an object"),
    "repeated name": (raw('{"a": {}, "a": {}}'), "repeats the name"),
    "repeated field": (raw('{"a": {"dtype": "F32", "dtype": "F32", "shape": [], "data_offsets": [0, 4]}}', bytes(4)), "repeats"),
    "data behind": (with_tensors(9, a=entry()), "behind the last"),
    "hole before": (with_tensors(12, a=entry(offsets=(4, 12))), "belong to no tensor"),
    "hole between": (with_tensors(20, a=entry(), b=entry(offsets=(12, 20))), "belong to no tensor"),
    "overlap": (with_tensors(12, a=entry(), b=entry(offsets=(4, 12))), "overlaps"),
    "twice the same bytes": (with_tensors(8, a=entry(), b=entry()), "overlaps"),
    "beyond the file": (with_tensors(7, a=entry()), "beyond the file"),
    "far beyond": (with_tensors(8, a=entry(offsets=(0, 1 << 62))), "beyond the file"),
    "backwards": (with_tensors(8, a=entry(offsets=(8, 0))), "beyond the file"),
    "negative offset": (with_tensors(8, a=entry(offsets=(-8, 0))), "data_offsets"),
    "one offset": (with_tensors(8, a=entry(offsets=(0,))), "data_offsets"),
    "offsets as floats": (with_tensors(8, a=entry(offsets=(0.0, 8.0))), "data_offsets"),
    "shape too small": (with_tensors(8, a=entry(shape=(1,))), "does not fit"),
    "shape too large": (with_tensors(8, a=entry(shape=(3,))), "does not fit"),
    "shape of 2^62 squared": (with_tensors(8, a=entry(shape=(1 << 62, 1 << 62))), "does not fit"),
    "shape wraps to 8": (with_tensors(8, a=entry(shape=(1 << 31, 1 << 31, 1 << 31))), "does not fit"),
    "negative shape": (with_tensors(8, a=entry(shape=(-2, -1))), "shape"),
    "boolean in shape": (with_tensors(8, a=entry(shape=(True, 2))), "shape"),
    "shape a number": (with_tensors(8, a=entry(shape=2)), "shape"),
    "17 dimensions": (with_tensors(8, a=entry(shape=(1,) * 16 + (2,))), "shape"),
    "empty but zero-sized by shape": (with_tensors(8, a=entry(shape=(0,))), "does not fit"),
    "unknown dtype": (with_tensors(8, a=entry(dtype="F31")), "unknown dtype"),
    "dtype no text": (with_tensors(8, a=entry(dtype=["F32"])), "unknown dtype"),
    "extra field": (with_tensors(8, a=entry(more=1)), "other fields"),
    "missing field": (with_tensors(8, a={"dtype": "F32", "shape": [2]}), "other fields"),
    "entry a list": (with_tensors(8, a=[]), "other fields"),
    "empty name": (with_tensors(8, **{"": entry()}), "tensor name"),
    "long name": (with_tensors(8, **{"x" * 1_025: entry()}), "tensor name"),
    "metadata no object": (raw('{"__metadata__": 5}'), "metadata"),
    "metadata with numbers": (raw('{"__metadata__": {"a": 5}}'), "metadata"),
    "integer beyond 64 bits": (with_tensors(8, a=entry(offsets=(0, 1 << 65))), "64 bits"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_refused(fault: str) -> None:
    data, says = BROKEN[fault]
    with pytest.raises(MalformedError, match=says):
        parse(data)


@pytest.mark.parametrize("dtype", sorted(set(safetensors.DTYPE_BITS) - safetensors.DEFAULT_DTYPES))
def test_other_dtypes_are_refused_unless_allowed(dtype: str) -> None:
    size = safetensors.DTYPE_BITS[dtype] // 8
    data = with_tensors(size, a=entry(dtype=dtype, shape=(1,), offsets=(0, size)))
    with pytest.raises(MalformedError, match=dtype) as caught:
        parse(data)
    assert caught.value.code == "DTYPE_NOT_ALLOWED"
    assert "--allow-dtype" in str(caught.value.hint)
    parse(data, dtypes=safetensors.DEFAULT_DTYPES | {dtype})


def test_too_many_tensors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors, "MAX_TENSORS", 1)
    with pytest.raises(MalformedError, match="2 tensors"):
        parse(with_tensors(16, a=entry(), b=entry(offsets=(8, 16))))


def test_a_header_of_brackets_takes_no_memory() -> None:
    data = raw(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}")
    tracemalloc.start()
    with pytest.raises(MalformedError, match="items"):
        parse(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(data)


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_only_our_errors_leave_random_bytes(data: bytes) -> None:
    for candidate in (data, raw(data), raw(b'{"a":' + data + b"}", bytes(8))):
        with suppress(MalformedError):
            parse(candidate)


_ODD = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.integers(), max_size=3)
)
_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64"]) | _ODD,
        "shape": st.lists(st.integers(0, 4), max_size=4) | _ODD,
        "data_offsets": st.lists(st.integers(0, 16), min_size=2, max_size=2) | _ODD,
    }
)


@pytest.mark.fuzz
@given(st.dictionaries(st.text(max_size=3), _ENTRY | _ODD, max_size=4), st.integers(0, 32))
def test_what_is_accepted_tiles_the_file(header: dict[str, object], size: int) -> None:
    data = raw(json.dumps(header), bytes(size))
    with suppress(MalformedError):
        position = len(data) - size
        for tensor in parse(data).tensors:
            assert tensor.start == position
            position = tensor.end
        assert position == len(data)


@pytest.mark.fuzz
@given(st.data())
def test_a_damaged_file_tiles_or_is_refused(data: st.DataObject) -> None:
    sound = tiny_bert.safetensors({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int64)}, metadata={"x": "y"})
    damaged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 2))):
        damaged[data.draw(st.integers(0, len(sound) - 57))] = data.draw(
            st.sampled_from(b'0123456789,:[]{}"FI64') | st.integers(0, 255)
        )
    with suppress(MalformedError):
        tensors = parse(bytes(damaged)).tensors
        assert sum(tensor.end - tensor.start for tensor in tensors) == len(damaged) - tensors[0].start
