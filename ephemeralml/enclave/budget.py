"""Bounds that all connections share."""


class ByteBudget:
    """So many bytes for everybody together; loop thread only."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, count: int) -> bool:
        """Reserve *count* bytes; return False, with nothing reserved, where they do not fit."""
        if self.used + count > self.limit:
            return False
        self.used += count
        return True

    def overdraw(self, count: int) -> None:
        """Reserve *count* bytes that exist already, beyond the limit if need be."""
        self.used += count

    def give(self, count: int) -> None:
        """Return *count* reserved bytes."""
        self.used -= count
        if self.used < 0:
            raise RuntimeError("more bytes returned than reserved")
