import struct
from contextlib import suppress
from pathlib import Path

import gguf as library
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.errors import MalformedError
from ephemeralml.model.formats import gguf
from ephemeralml.model.formats.gguf_types import BLOCKS, SCALAR_BYTES, ValueType
from ephemeralml.model.formats.source import BufferSource
from tests.fakes.tiny_gguf import ARCHITECTURE, ARRAY, STRING, U32, Info, array, pair, text
from tests.fakes.tiny_gguf import gguf as make


def parse(data: bytes) -> gguf.GgufHeader:
    return gguf.parse(BufferSource(data))


def test_a_file_of_the_library_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = library.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.rope.freq_base", 1.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "é" * 1000])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.5, 2.5])
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    writer.add_tensor("token_embd.weight", np.ones((3, 32), np.float32))
    writer.add_tensor("output.weight", np.ones((64, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = parse(path.read_bytes())
    assert header.metadata["llama.block_count"] == 2
    assert header.metadata["llama.rope.freq_base"] == 1.5
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["tokenizer.chat_template"] == "{{ messages }}"
    assert header.metadata["tokenizer.ggml.tokens"] is None
    read = library.GGUFReader(path)
    assert [(tensor.name, tensor.type, tensor.start, tensor.end - tensor.start) for tensor in header.tensors] == [
        (tensor.name, tensor.tensor_type.name, tensor.data_offset, tensor.n_bytes) for tensor in read.tensors
    ]
    del read


def test_block_layouts_are_those_of_the_library() -> None:
    for number, (name, elements, size) in BLOCKS.items():
        kind = library.GGMLQuantizationType(number)
        assert (kind.name, *library.GGML_QUANT_SIZES[kind]) == (name, elements, size)


def test_value_types_are_those_of_the_library() -> None:
    assert {kind.name: kind.value for kind in ValueType} == {kind.name: kind.value for kind in library.GGUFValueType}
    assert set(SCALAR_BYTES) == set(ValueType) - {ValueType.STRING, ValueType.ARRAY}
    assert all(struct.calcsize(layout) == size for layout, size in SCALAR_BYTES.values())


def nested(depth: int) -> bytes:
    inner = array(U32, 1, bytes(4))
    for _ in range(depth - 1):
        inner = array(ARRAY, 1, inner)
    return pair("x", ARRAY, inner)


GOOD = {
    "plain": make(),
    "version 2": make(version=2),
    "no tensors": make(infos=()),
    "a gap between tensors": make(infos=(Info("a"), Info("b", offset=160)), data=512),
    "four dimensions": make(infos=(Info("a", (2, 2, 2, 4)),)),
    "a quantised tensor": make(infos=(Info("a", (64, 2), type=8),), data=136),
    "alignment 8": make(pairs=(ARCHITECTURE, pair("general.alignment", U32, struct.pack("<I", 8))), alignment=8, infos=(Info("a"), Info("b", offset=136)), data=300),
    "arrays four deep": make(pairs=(nested(4),)),
    "an empty array": make(pairs=(pair("x", ARRAY, array(STRING, 0, b"")),)),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_sound_files_are_read(name: str) -> None:
    parse(GOOD[name])


BROKEN = {
    "empty": (b"", "begin with GGUF"),
    "too short": (b"GGUF", "begin with GGUF"),
    "magic": (make(magic=b"GGML"), "begin with GGUF"),
    "version 1": (make(version=1), "version 1"),
    "version 4": (make(version=4), "version 4"),
    "big-endian": (make(version=3 << 24), "version"),
    "tensor count": (make(tensor_count=(1 << 16) + 1), "at most"),
    "tensor count 2^40": (make(tensor_count=1 << 40), "at most"),
    "pair count": (make(pair_count=1 << 40), "at most"),
    "more pairs than there are": (make(pair_count=9), "GGUF"),
    "more tensors than there are": (make(tensor_count=3, data=0), "GGUF file"),
    "text longer than the file": (make(pairs=(struct.pack("<Q", 1 << 40) + b"key",)), "needs"),
    "text of 2^63": (make(pairs=(struct.pack("<Q", (1 << 64) - 1) + b"key",)), "needs"),
    "array longer than the file": (make(pairs=(pair("x", ARRAY, array(U32, 1 << 40, b"")),)), "longer than the file"),
    "array of texts longer than the file": (make(pairs=(pair("x", ARRAY, array(STRING, 1 << 20, b"")),)), "longer than"),
    "a text in an array": (make(pairs=(pair("x", ARRAY, array(STRING, 1, struct.pack("<Q", 1 << 40))),)), "needs"),
    "arrays five deep": (make(pairs=(nested(5),)), "nested deeper"),
    "unknown value type": (make(pairs=(pair("x", 13, b""),)), "value type 13"),
    "unknown array type": (make(pairs=(pair("x", ARRAY, array(99, 1, b"")),)), "value type 99"),
    "boolean 2": (make(pairs=(pair("x", 7, b"\x02"),)), "boolean"),
    "key not UTF-8": (make(pairs=(pair(b"\xff", U32, bytes(4)),)), "UTF-8"),
    "value not UTF-8": (make(pairs=(pair("x", STRING, text(b"\xff")),)), "UTF-8"),
    "empty key": (make(pairs=(pair("", U32, bytes(4)),)), "empty"),
    "long key": (make(pairs=(pair("x" * 65_536, U32, bytes(4)),)), "longer than 65535"),
    "repeated key": (make(pairs=(ARCHITECTURE, ARCHITECTURE)), "repeated"),
    "alignment 0": (make(pairs=(pair("general.alignment", U32, bytes(4)),)), "alignment"),
    "alignment 12": (make(pairs=(pair("general.alignment", U32, struct.pack("<I", 12)),)), "alignment"),
    "alignment 2^31": (make(pairs=(pair("general.alignment", U32, struct.pack("<I", 1 << 31)),)), "alignment"),
    "alignment a text": (make(pairs=(pair("general.alignment", STRING, text("32")),)), "alignment"),
    "no dimensions": (make(infos=(Info("a", ()),)), "dimensions"),
    "five dimensions": (make(infos=(Info("a", (1, 1, 1, 1, 1)),)), "dimensions"),
    "dimension 0": (make(infos=(Info("a", (0, 32)),)), "does not fit"),
    "dimension 2^62": (make(infos=(Info("a", (1 << 62, 1 << 62)),)), "does not fit"),
    "unknown tensor type": (make(infos=(Info("a", type=4),)), "unknown type 4"),
    "misaligned": (make(infos=(Info("a", offset=4),)), "not aligned"),
    "outside": (make(infos=(Info("a", offset=1 << 40),)), "beyond the file"),
    "partly outside": (make(infos=(Info("a", (33,)),), data=128), "beyond the file"),
    "overlapping": (make(infos=(Info("a"), Info("b", offset=96))), "overlaps"),
    "same place": (make(infos=(Info("a"), Info("b"))), "overlaps"),
    "same name": (make(infos=(Info("a"), Info("a", offset=128))), "same name"),
    "half a block": (make(infos=(Info("a", (33,), type=8),)), "whole blocks"),
    "no name": (make(infos=(Info(""),)), "empty"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_files_are_refused(fault: str) -> None:
    data, says = BROKEN[fault]
    with pytest.raises(MalformedError, match=says):
        parse(data)


def test_an_array_may_not_be_cut_short_by_the_header_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_HEADER_BYTES", 64)
    with pytest.raises(MalformedError, match="are left"):
        parse(make())


def test_the_steps_that_arrays_cost_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "MAX_ARRAY_PARTS", 5)
    three = array(STRING, 3, bytes(24))
    parse(make(pairs=(pair("x", ARRAY, three),)))
    with pytest.raises(MalformedError, match="more than 5"):
        parse(make(pairs=(pair("x", ARRAY, three), pair("y", ARRAY, three))))


@pytest.mark.fuzz
@given(st.binary(max_size=400))
def test_only_our_errors_leave_random_bytes(tail: bytes) -> None:
    for head in (b"", b"GGUF\x03\x00\x00\x00", make()[:40]):
        with suppress(MalformedError):
            parse(head + tail)


@pytest.mark.fuzz
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_a_damaged_file_is_read_within_its_bounds_or_refused(name: str, data: st.DataObject) -> None:
    damaged = bytearray(GOOD[name])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MalformedError):
        header = parse(bytes(damaged))
        assert all(0 <= tensor.start <= tensor.end <= len(damaged) for tensor in header.tensors)
