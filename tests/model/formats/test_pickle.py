import io
import pickle as standard
import zipfile

import pytest

from ephemeralml.errors import MalformedError
from ephemeralml.model.formats import pickle
from ephemeralml.model.formats.source import BufferSource


def refuse(path: str, data: bytes, *, safetensors: bool = False) -> None:
    pickle.refuse(path, BufferSource(data), safetensors=safetensors)


def archive(*names: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, "x" * 1_000)
    return target.getvalue()


@pytest.mark.parametrize("protocol", range(1 + 1, standard.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "vocab.txt", "x"])
def test_a_pickle_is_known_by_its_bytes(protocol: int, name: str) -> None:
    with pytest.raises(MalformedError, match="is a pickle") as caught:
        refuse(name, standard.dumps({"weights": [1.0, 2.0]}, protocol))
    assert caught.value.code == "PICKLE"


def test_protocol_1_by_its_mark() -> None:
    with pytest.raises(MalformedError, match="is a pickle"):
        refuse("x.json", b"\x80\x01}.")


@pytest.mark.parametrize("name", ["model.bin", "tokenizer.json", "x"])
def test_an_archive_with_a_pickle_is_refused_under_any_name(name: str) -> None:
    for data in (archive("archive/data.pkl"), b"prefix" * 9 + archive("a", "b.PKL"), archive("x") + archive("c.pkl")):
        with pytest.raises(MalformedError, match="archive with a pickle") as caught:
            refuse(name, data)
        assert caught.value.code == "PICKLE"


def test_the_mark_is_found_across_blocks_of_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive("archive/data.pkl")
    for size in range(1, 40):
        monkeypatch.setattr(pickle, "_SCAN_BYTES", size)
        with pytest.raises(MalformedError):
            refuse("x", data)


def test_another_archive_is_none_of_our_business() -> None:
    refuse("notes.zip", archive("readme.txt"))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pkl", ".ckpt", ".BIN"])
def test_a_suspect_name_is_refused_whatever_the_bytes(suffix: str) -> None:
    with pytest.raises(MalformedError) as caught:
        refuse(f"a/model{suffix}", b"plain text")
    assert caught.value.code == "FORMAT_UNKNOWN"


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x00", b"\x80\x06", b"\x81\x02", b"{}", b"GGUF"])
def test_other_bytes_pass(data: bytes) -> None:
    refuse("vocab.txt", data)


def test_a_safetensors_header_of_640_bytes_is_no_pickle() -> None:
    head = (640).to_bytes(8, "little")
    assert head.startswith(b"\x80\x02")
    refuse("model.safetensors", head + b"{}", safetensors=True)
    with pytest.raises(MalformedError, match="is a pickle"):
        refuse("model.safetensors", head + b"{}", safetensors=False)


def test_a_header_length_that_begins_a_working_pickle_is_refused() -> None:
    # 0x80 0x02, then BINUNICODE whose four length bytes swallow the zeros: the JSON behind would be run as opcodes.
    head = b"\x80\x02X" + b"\x05\x00\x00\x00" + b"\x00"
    with pytest.raises(MalformedError, match="is a pickle"):
        refuse("model.safetensors", head + b"{}", safetensors=True)
