"""Merkle tree hash: RFC 6962, section 2.1, over SHA-256."""

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of one leaf, domain-separated by 0x00."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node, domain-separated by 0x01."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the tree hash of *leaves*, the leaves' data; of none it is SHA-256 of nothing."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    return root_of_hashes([leaf_hash(leaf) for leaf in leaves])


def root_of_hashes(hashes: Sequence[bytes]) -> bytes:
    """Return the tree hash of one or more leaf hashes.

    Raises:
        ValueError: There is none.

    Adjacent pairs are joined level by level and an odd last node moves up
    unchanged, which gives the split of RFC 6962 (largest power of two first).
    """
    if not hashes:
        raise ValueError("a tree of no leaf hashes")
    level = list(hashes)
    while len(level) > 1:
        joined = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = joined + level[len(level) & ~1 :]
    return level[0]


def inclusion_path(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """Return the audit path of leaf *index*, nearest sibling first (RFC 6962, section 2.1.1)."""
    if not 0 <= index < len(hashes):
        raise ValueError(f"leaf {index} of {len(hashes)}")
    path = []
    level = list(hashes)
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        joined = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = joined + level[len(level) & ~1 :]
        index >>= 1
    return path


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that *path* leads to from a leaf hash (RFC 9162, section 2.1.3.2).

    None where the path has the wrong length for leaf *index* of *size*, or
    anything in it is no hash: of two parts of other lengths joined, nobody can
    tell where one ends.
    """
    if not 0 <= index < size or any(len(part) != HASH_BYTES for part in (leaf, *path)):
        return None
    node, last = index, size - 1
    current = leaf
    for sibling in path:
        if last == 0:
            return None
        if node & 1 or node == last:
            current = node_hash(sibling, current)
            while node and not node & 1:
                node >>= 1
                last >>= 1
        else:
            current = node_hash(current, sibling)
        node >>= 1
        last >>= 1
    return current if last == 0 else None
