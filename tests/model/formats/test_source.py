from pathlib import Path

import pytest

from ephemeralml.errors import MalformedError
from ephemeralml.model.formats.source import BufferSource, FileSource


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"0123456789")
    return tmp_path / "file"


def test_both_sources_read_the_same(path: Path) -> None:
    with path.open("rb") as file:
        for source in (FileSource(file.fileno()), BufferSource(path.read_bytes())):
            assert (source.size, source.read(3, 4), source.read(10, 0)) == (10, b"3456", b"")


@pytest.mark.parametrize(("start", "length"), [(0, 11), (10, 1), (-1, 2), (2, -1), (1 << 62, 1 << 62)])
def test_both_refuse_what_lies_outside(path: Path, start: int, length: int) -> None:
    with path.open("rb") as file:
        for source in (FileSource(file.fileno()), BufferSource(b"0123456789")):
            with pytest.raises(MalformedError, match="beyond the end"):
                source.read(start, length)


def test_a_file_that_became_shorter_is_malformed(path: Path) -> None:
    with path.open("r+b") as file:
        source = FileSource(file.fileno())
        file.truncate(5)
        with pytest.raises(MalformedError, match="became shorter"):
            source.read(3, 4)
