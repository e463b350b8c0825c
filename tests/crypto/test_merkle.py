"""Merkle trees: the reference leaves of the transparency logs, and RFC 9162's path algorithm."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import merkle

LEAVES = [
    bytes.fromhex(data)
    for data in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]

ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Of the first 0, 1 … 8 of `LEAVES`."""

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 31, 33, 64, 100]


def hashes(count: int) -> list[bytes]:
    return [merkle.leaf_hash(index.to_bytes(4, "big")) for index in range(count)]


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word: split at the largest power of two below n."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


def path_by_definition(leaves: list[bytes], index: int) -> list[bytes]:
    """RFC 6962, section 2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    split = 1 << (len(leaves) - 1).bit_length() - 1
    if index < split:
        return [*path_by_definition(leaves[:split], index), by_definition(leaves[split:])]
    return [*path_by_definition(leaves[split:], index - split), by_definition(leaves[:split])]


@pytest.mark.parametrize("count", range(9))
def test_reference_roots(count: int) -> None:
    assert merkle.root(LEAVES[:count]).hex() == ROOTS[count]


def test_reference_path() -> None:
    path = merkle.inclusion_path([merkle.leaf_hash(leaf) for leaf in LEAVES], 5)
    assert [part.hex() for part in path] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


@pytest.mark.parametrize("size", SIZES)
def test_root_and_paths_are_those_of_the_definition(size: int) -> None:
    leaves = hashes(size)
    root = by_definition(leaves)
    assert merkle.root_of_hashes(leaves) == root
    for index, leaf in enumerate(leaves):
        path = merkle.inclusion_path(leaves, index)
        assert path == path_by_definition(leaves, index)
        assert merkle.root_from_path(leaf, index, size, path) == root


@pytest.mark.parametrize("size", SIZES[1:])
def test_path_fits_no_other_place(size: int) -> None:
    leaves = hashes(size)
    root = merkle.root_of_hashes(leaves)
    for index, other in pairwise(range(size)):
        path = merkle.inclusion_path(leaves, index)
        assert merkle.root_from_path(leaves[index], other, size, path) != root
        assert merkle.root_from_path(leaves[other], index, size, path) != root


@pytest.mark.parametrize("size", SIZES)
def test_path_of_wrong_length_leads_nowhere(size: int) -> None:
    leaves = hashes(size)
    for index, leaf in enumerate(leaves):
        path = merkle.inclusion_path(leaves, index)
        assert merkle.root_from_path(leaf, index, size, [*path, bytes(32)]) is None
        if path:
            assert merkle.root_from_path(leaf, index, size, path[:-1]) is None


@pytest.mark.parametrize(("index", "size"), [(-1, 4), (4, 4), (0, 0), (5, 4)])
def test_leaf_outside_the_tree(index: int, size: int) -> None:
    assert merkle.root_from_path(bytes(32), index, size, [bytes(32)] * 2) is None
    with pytest.raises(ValueError, match=f"leaf {index} of"):
        merkle.inclusion_path(hashes(size), index)


@pytest.mark.parametrize("width", [0, 31, 33, 64])
def test_parts_that_are_no_hashes_lead_nowhere(width: int) -> None:
    """Moving the border between two siblings would give the same root otherwise."""
    assert merkle.root_from_path(bytes(width), 0, 2, [bytes(64 - width)]) is None
    assert merkle.root_from_path(bytes(32), 0, 2, [bytes(width)]) is None


def test_leaf_and_node_are_told_apart() -> None:
    left, right = hashes(2)
    assert merkle.root([left + right]) != merkle.root_of_hashes([left, right])


def test_no_hashes_have_no_root() -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.root_of_hashes([])


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=40), st.data())
def test_any_change_of_a_leaf_changes_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    changed = [*leaves[:index], leaves[index] + b"!", *leaves[index + 1 :]]
    assert merkle.root(changed) != merkle.root(leaves)
    assert merkle.root([*leaves, b""]) != merkle.root(leaves)


@pytest.mark.fuzz
@given(st.binary(max_size=40), st.integers(-3, 70), st.integers(-3, 70), st.lists(st.binary(max_size=40), max_size=9))
def test_nothing_escapes_from_a_hostile_path(leaf: bytes, index: int, size: int, path: list[bytes]) -> None:
    result = merkle.root_from_path(leaf, index, size, path)
    assert result is None or len(result) == merkle.HASH_BYTES
