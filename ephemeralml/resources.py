"""Files that ship with the package: `templates/` and `infra/`.

In a wheel they lie below ``ephemeralml/_data``; in a checkout they are the
folders of the same names beside the package. Nothing else reads either.
"""

from pathlib import Path
from typing import Literal

from ephemeralml.errors import UnavailableError

_PACKAGE = Path(__file__).resolve().parent


def bundled(area: Literal["templates", "infra"], *parts: str) -> Path:
    """Return the path of a bundled file or folder.

    Raises:
        UnavailableError: The installation lacks it.
    """
    for root in (_PACKAGE / "_data" / area, _PACKAGE.parent / area):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise UnavailableError(f"the installation lacks {area}/{'/'.join(parts)}", hint="reinstall ephemeralml")
