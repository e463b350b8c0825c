"""The kernel's half of ``/dev/nsm``: an ioctl that takes addresses and speaks the module's protocol."""

import ctypes
import struct
import threading
from collections.abc import Callable

RESPONSE_BUFFER = 12_288


class FakeNsmDriver:
    """Stands in for ``fcntl.ioctl``; *handle* answers a request as the module would.

    It checks what the driver checks and copies what the driver copies: the
    request from the caller's memory, the answer into it, cut to its length.
    """

    def __init__(self, handle: Callable[[bytes], bytes], *, interruptions: int = 0) -> None:
        self.handle = handle
        self.interruptions = interruptions
        self.requests: list[bytes] = []
        self.threads: set[int] = set()

    def __call__(self, descriptor: int, number: int, argument: bytearray) -> int:
        assert descriptor > 0
        assert number == 0xC0200A00
        assert len(argument) == 32
        self.threads.add(threading.get_ident())
        if self.interruptions:
            self.interruptions -= 1
            raise InterruptedError
        request_at, request_length, answer_at, answer_length = struct.unpack("@4Q", argument)
        if request_length > 4_096:
            raise OSError(90, "Message too long")
        assert answer_length == RESPONSE_BUFFER
        request = ctypes.string_at(request_at, request_length)
        self.requests.append(request)
        answer = self.handle(request)[:answer_length]
        ctypes.memmove(answer_at, answer, len(answer))
        struct.pack_into("@Q", argument, 24, len(answer))
        return 0
