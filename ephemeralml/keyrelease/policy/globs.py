"""How policies compare names: ``*`` and ``?``, whole or part by part of an ARN.

All places that a text may have reached in a pattern are the bits of one number,
and each character moves them together: no pattern makes a comparison slow.
"""

from functools import lru_cache


def has_wildcard(text: str) -> bool:
    """Return whether *text* matches more than itself."""
    return "*" in text or "?" in text


def matches(pattern: str, text: str) -> bool:
    """Return whether *text* is what *pattern* describes, letter case and all."""
    if not has_wildcard(pattern):
        return pattern == text
    steps, anything, stays, end = (_remembered if len(pattern) <= _SHORT else _compiled)(pattern)
    places = 1
    for letter in text:
        places = (places & stays) | (places & steps.get(letter, anything)) << 1
        if not places:
            return False
    return bool(places & end)


def _compiled(pattern: str) -> tuple[dict[str, int], int, int, int]:
    """Return for each letter the places it leads on from, those any letter does, those a ``*`` stays at, the end."""
    at: dict[str, list[int]] = {}
    stays, place = 0, 0
    for letter in pattern:
        if letter == "*":
            stays |= 1 << place
        else:
            at.setdefault(letter, []).append(place)
            place += 1
    anything = sum(1 << one for one in at.pop("?", ()))
    return (
        {letter: sum(1 << one for one in ones) | anything for letter, ones in at.items()},
        anything,
        stays,
        1 << place,
    )


_SHORT = 256
"""Letters of a pattern that is worth remembering: one as long as a policy takes megabytes."""
_remembered = lru_cache(maxsize=256)(_compiled)


def matches_name(pattern: str, text: str) -> bool:
    """Compare without letter case, as actions are."""
    return matches(pattern.lower(), text.lower())


def matches_arn(pattern: str, arn: str) -> bool:
    """Compare ARNs: a ``*`` stays within its part, save in the last one."""
    wanted, found = pattern.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(found) and all(map(matches, wanted, found))
