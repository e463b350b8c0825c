"""How policies compare names: ``*`` and ``?``, whole or part by part of an ARN.

Both walk the text once for each ``*``; no regular expression, so that a policy
cannot make a comparison slow.
"""


def has_wildcard(text: str) -> bool:
    """Return whether *text* matches more than itself."""
    return "*" in text or "?" in text


def matches(pattern: str, text: str) -> bool:
    """Return whether *text* is what *pattern* describes, letter case and all."""
    at, mark, star, resume = 0, 0, -1, 0
    while at < len(text):
        if mark < len(pattern) and pattern[mark] == "*":
            star, resume, mark = mark, at, mark + 1
        elif mark < len(pattern) and pattern[mark] in ("?", text[at]):
            at, mark = at + 1, mark + 1
        elif star >= 0:
            resume += 1
            at, mark = resume, star + 1
        else:
            return False
    return set(pattern[mark:]) <= {"*"}


def matches_name(pattern: str, text: str) -> bool:
    """Compare without letter case, as actions are."""
    return matches(pattern.lower(), text.lower())


def matches_arn(pattern: str, arn: str) -> bool:
    """Compare ARNs: a ``*`` stays within its part, save in the last one."""
    wanted, found = pattern.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(found) and all(map(matches, wanted, found))
