import os

from ephemeralml.crypto.wiping import wipe_bytes


def test_bytes_are_overwritten_where_they_lie() -> None:
    for size in (2, 31, 32, 33, 4_096):
        secret = os.urandom(size)
        wipe_bytes(secret)
        assert secret == bytes(size)


def test_neighbours_and_copies_stay() -> None:
    secrets = [os.urandom(32) for _ in range(100)]
    copies = [bytes(bytearray(secret)) for secret in secrets]
    for secret in secrets[::2]:
        wipe_bytes(secret)
    assert [secret == bytes(32) for secret in secrets] == [True, False] * 50
    assert secrets[1::2] == copies[1::2]
    assert bytes(32) not in copies


def test_shared_objects_stay() -> None:
    wipe_bytes(b"")
    for value in range(256):
        wipe_bytes(bytes([value]))
        assert bytes([value])[0] == value


def test_other_types_are_not_touched() -> None:
    class Named(bytes):
        pass

    for other in (Named(b"secret"), "secret", bytearray(b"secret"), ("secret",)):
        before = repr(other)
        wipe_bytes(other)  # type: ignore[arg-type]
        assert repr(other) == before
