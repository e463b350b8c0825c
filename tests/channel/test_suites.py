import pytest

from ephemeralml.channel.suites import PREFERRED, PREFERRED_WITHOUT_AES, Suite, select
from ephemeralml.crypto.hpke import Aead, Kem


@pytest.mark.parametrize(
    ("suite", "kem", "aead", "key", "sealed"),
    [
        (Suite(1), Kem.X25519, Aead.CHACHA20_POLY1305, 32, 80),
        (Suite(2), Kem.X_WING, Aead.CHACHA20_POLY1305, 1216, 1168),
        (Suite(3), Kem.X_WING, Aead.AES_256_GCM, 1216, 1168),
    ],
)
def test_the_table(suite: Suite, kem: Kem, aead: Aead, key: int, sealed: int) -> None:
    assert suite.kem is kem
    assert suite.aead is aead
    assert suite.public_key_bytes == key
    assert suite.sealed_bytes == sealed


def test_there_are_three() -> None:
    assert sorted(Suite) == [1, 2, 3]
    assert sorted(PREFERRED) == sorted(PREFERRED_WITHOUT_AES) == [1, 2, 3]
    assert PREFERRED[0] == 3
    assert PREFERRED_WITHOUT_AES[0] == 2


@pytest.mark.parametrize(
    ("offered", "supported", "chosen"),
    [
        ((1, 2, 3), (3, 2, 1), 1), ((3, 2, 1), (1,), 1), ((9, 2, 2), (2,), 2), ((), (1, 2, 3), None), ((2, 3), (1,), None),
        ((0, 256, 1 << 40), (1, 2, 3), None), ((1,), (), None),
    ],
)  # fmt: skip
def test_the_clients_order_decides(offered: tuple[int, ...], supported: tuple[int, ...], chosen: int | None) -> None:
    assert select(offered, [Suite(n) for n in supported]) == chosen
