"""One request on its way through a session, from its first message to its end."""

from enum import Enum
from typing import TYPE_CHECKING

from ephemeralml.channel.messages import Outcome, Request
from ephemeralml.enclave.api.messages import ApiResponse

if TYPE_CHECKING:
    from ephemeralml.enclave.models import ServedModel
    from ephemeralml.enclave.worker import Job


class Phase(Enum):
    """Where an exchange stands."""

    RECEIVING = "receiving"
    WORKING = "working"
    ANSWERING = "answering"
    ENDED = "ended"


class Exchange:
    """What a session knows of one stream."""

    __slots__ = (
        "_offset",
        "begun",
        "execution_ms",
        "job",
        "model",
        "outcome",
        "phase",
        "request",
        "reserved",
        "response",
        "started",
    )

    def __init__(self, request: Request) -> None:
        self.request = request
        self.phase = Phase.RECEIVING
        self.begun = 0.0
        """When the whole request was here, by the session's clock."""
        self.execution_ms = 0
        self.model: ServedModel | None = None
        """The model selected; from then on the end carries a receipt."""
        self.job: Job | None = None
        self.response: ApiResponse | None = None
        self.outcome = Outcome.COMPLETE
        self.started = False
        """Whether the response message was sent."""
        self.reserved = 0
        """Bytes reserved for the answer."""
        self._offset = 0

    @property
    def stream(self) -> int:
        """The stream's id."""
        return self.request.stream

    def answer(self, response: ApiResponse) -> None:
        """Take the response that is to be sent."""
        self.response = response
        self.outcome = Outcome.COMPLETE if response.status < 400 else Outcome.ERROR
        self.phase = Phase.ANSWERING

    def next_piece(self, size: int) -> tuple[bytes | memoryview, bool] | None:
        """Return the body's next piece and whether it is the last, or None behind it."""
        assert self.response is not None
        body = self.response.body
        if self._offset >= len(body):
            return None
        begin, self._offset = self._offset, min(self._offset + size, len(body))
        whole = begin == 0 and self._offset == len(body)
        return (body if whole else memoryview(body)[begin : self._offset]), self._offset == len(body)

    @property
    def unsent(self) -> int:
        """Body bytes that were not handed to the channel yet."""
        return 0 if self.response is None else len(self.response.body) - self._offset
