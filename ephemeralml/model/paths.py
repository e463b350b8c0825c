"""Which paths a manifest may name (model-package.md sections 1 and 6)."""

import unicodedata
from collections.abc import Iterable

from ephemeralml.errors import MalformedError

MAX_PATH_BYTES = 1_024


def check_path(path: str) -> None:
    """Refuse a path that is not relative, plain and normalised.

    Raises:
        MalformedError: It is empty or over 1,024 bytes of UTF-8, not NFC, has a
            backslash or a control character, or an empty, ``.`` or ``..`` segment.
    """
    try:
        length = len(path.encode())
    except UnicodeEncodeError as error:
        raise _refused(path, "is not valid Unicode") from error
    if not 0 < length <= MAX_PATH_BYTES:
        raise _refused(path, f"has {length} bytes, 1 to {MAX_PATH_BYTES} are allowed")
    if not unicodedata.is_normalized("NFC", path):
        raise _refused(path, "is not in Unicode normal form C")
    if "\\" in path or any(unicodedata.category(character) == "Cc" for character in path):
        raise _refused(path, "has a backslash or a control character")
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        raise _refused(path, "has an empty, '.' or '..' segment")


def check_distinct(paths: Iterable[str]) -> None:
    """Refuse paths that a case-insensitive or normalising file system would merge.

    Raises:
        MalformedError: Two paths are equal after full case folding and NFC.
    """
    seen: dict[str, str] = {}
    for path in paths:
        folded = unicodedata.normalize("NFC", path.casefold())
        if folded in seen:
            raise MalformedError(
                f"the paths {_shown(seen[folded])} and {_shown(path)} differ in case only, or not at all"
            )
        seen[folded] = path


def _refused(path: str, why: str) -> MalformedError:
    return MalformedError(f"path {_shown(path)} {why}", code="PATH_NOT_ALLOWED")


def _shown(path: str) -> str:
    return ascii(path[:64])
