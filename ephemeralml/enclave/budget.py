"""Bounds that all connections share."""


class ByteBudget:
    """So many bytes for everybody together; loop thread only."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        return self.used >= self.limit

    def take(self, count: int) -> bool:
        """Reserve *count* bytes; return False, with nothing reserved, where they do not fit."""
        if self.used + count > self.limit:
            return False
        self.used += count
        return True

    def adjust(self, change: int) -> None:
        """Correct a reservation to bytes that exist already, beyond the limit if need be.

        Raises:
            RuntimeError: More is returned than was reserved.
        """
        self.used += change
        if self.used < 0:
            raise RuntimeError("more bytes returned than reserved")

    def give(self, count: int) -> None:
        """Return *count* reserved bytes; errors as `adjust`."""
        self.adjust(-count)
