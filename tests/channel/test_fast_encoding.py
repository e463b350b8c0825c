"""Messages that are written out by hand have the bytes of the general encoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.channel.messages import End, Outcome, Response, Usage, encode
from ephemeralml.crypto import cbor

uints = st.integers(0, (1 << 64) - 1) | st.sampled_from([23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32])
figures = st.none() | uints


@given(uints, st.sampled_from(Outcome), st.none() | st.binary(max_size=700), figures, figures, figures)
def test_end(
    stream: int, outcome: Outcome, receipt: bytes | None, first: int | None, second: int | None, third: int | None
) -> None:
    usage = (first, second, third)
    numbers = {number: figure for number, figure in enumerate(usage, 1) if figure is not None}
    assert encode(End(stream, outcome, receipt, Usage(*usage))) == cbor.encode(
        [3, stream, int(outcome), receipt, numbers]
    )


@given(uints, st.integers(0, 599), st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=6))
def test_response(stream: int, status: int, headers: dict[str, str]) -> None:
    assert encode(Response(stream, status, headers)) == cbor.encode([2, stream, status, headers])


@pytest.mark.parametrize("message", [Response(1 << 64, 200), End(1 << 64, Outcome.COMPLETE), Response(1, 1 << 64)])
def test_numbers_beyond_64_bits(message: Response | End) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        encode(message)
