"""Parameters of `/v1/embeddings`, bodies with one reading, slices (serving section 3)."""

import contextlib
import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto import strict_json
from ephemeralml.enclave.api import embeddings
from ephemeralml.enclave.api.embedding_work import SLICE_SEQUENCES, SLICE_TOKENS, slices
from ephemeralml.enclave.api.embeddings import Encoding, embeddings_response, estimate_bytes, parse_body, parse_request
from ephemeralml.enclave.api.errors import ApiError, bad_parameter, method_not_allowed, overloaded
from ephemeralml.errors import MalformedError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.fuzz
@given(st.binary(max_size=120))
def test_only_api_errors_leave_the_body_parser(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        parse_body(body)


def verdict(parse: Any, body: bytes) -> Any:
    try:
        return parse(body)
    except (ApiError, MalformedError):
        return None


@pytest.mark.fuzz
@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.booleans(), st.data())
def test_it_takes_what_the_strict_reader_takes(document: dict[str, Any], ascii_only: bool, data: st.DataObject) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only).encode()
    cut = data.draw(st.integers(0, len(text)))
    for body in (text, text[:cut] + data.draw(st.binary(max_size=3)) + text[cut:], text[:-1] + b"," + text[1:]):
        strict = verdict(lambda raw: strict_json.parse_object(raw, max_bytes=1 << 16), body)
        assert repr(verdict(parse_body, body)) == repr(strict)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":"x:y","a":"z"}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":{"a":1},"a":2}',
        b'{"a":[{"b":1,"b":1}]}',
    ],
)
def test_repeated_names_are_refused_wherever_they_hide(body: bytes) -> None:
    with pytest.raises(ApiError, match="repeats the name"):
        parse_body(body)


def test_colons_and_quotes_within_texts_do_not_count() -> None:
    document = {'a:"b"\\': 'c:d,[{"', "e": ["\\", '"', ":"]}
    assert parse_body(json.dumps(document).encode()) == document
    nested = {"a": {"b": {"c": 1}}, "d": [{"e": 1}]}
    assert parse_body(json.dumps(nested).encode()) == nested


@pytest.mark.parametrize("unit", [b"[],", b"1,", b'"",', b"[", b'"', b'\\"', b"{", b":", b'"\\"'])
def test_bodies_of_nothing_but_structure_cost_little(unit: bytes) -> None:
    begun = time.monotonic()
    tracemalloc.start()
    with pytest.raises(ApiError):
        parse_body(b'{"input":[' + unit * (6_000_000 // len(unit)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 6_000_000  # most of it the parser's reserve, never touched
    assert time.monotonic() - begun < 5


@pytest.mark.fuzz
@given(st.dictionaries(st.sampled_from(["model", "input", "encoding_format", "dimensions", "user"]), json_values))
def test_only_api_errors_leave_the_parameter_check(document: dict[str, Any]) -> None:
    with contextlib.suppress(ApiError):
        embeddings.model_name(document)
    with contextlib.suppress(ApiError):
        request = parse_request(document, max_inputs=3, max_text_bytes=16)
        assert (request.texts is None) != (request.token_ids is None)


def test_an_honest_body_has_the_usual_reading() -> None:
    document = {"model": "m", "input": ["é", "b"], "dimensions": 3, "encoding_format": "base64"}
    assert parse_body(json.dumps(document).encode()) == document
    request = parse_request(document, max_inputs=2, max_text_bytes=2)
    assert (request.texts, request.token_ids) == (("é", "b"), None)
    assert (request.encoding, request.dimensions) == (Encoding.BASE64, 3)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=300))
def test_slices_hold_every_input_once_within_their_bounds(lengths: list[int]) -> None:
    groups = slices(lengths)
    assert sorted(position for group in groups for position in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[position] for position in group)
        assert len(group) == 1 or (len(group) <= SLICE_SEQUENCES and len(group) * longest <= SLICE_TOKENS)
    flat = [lengths[position] for group in groups for position in group]
    assert flat == sorted(lengths, reverse=True)


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("count", [1, 7, 300])
def test_the_estimate_is_never_too_small(encoding: Encoding, count: int) -> None:
    # The longest a float32 gets in JSON: nine digits, a sign, a point, an exponent.
    vectors = np.full((count, 384), -1.17549435e-38, dtype=np.float32)
    request = embeddings.EmbeddingsRequest(("x",) * count, None, encoding, None)
    response = embeddings_response(vectors, encoding, model="m" * 256, tokens=1 << 40)
    assert len(response.body) <= estimate_bytes(request, 384)


def test_floats_survive_the_response_exactly() -> None:
    vectors = np.random.default_rng(1).standard_normal((3, 50)).astype(np.float32)
    document = json.loads(embeddings_response(vectors, Encoding.FLOAT, model="m", tokens=3).body)
    read = np.array([entry["embedding"] for entry in document["data"]], dtype=np.float32)
    assert np.array_equal(read, vectors)


def test_errors_have_the_envelope_that_openais_clients_read() -> None:
    response = bad_parameter("input", "no").response()
    assert response.status == 400
    assert json.loads(response.body) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "input", "code": "invalid_value"}
    }
    assert method_not_allowed("PUT", "GET").response().headers["allow"] == "GET"
    assert overloaded(3).response().headers["retry-after"] == "3"


def test_a_parameter_from_the_caller_is_cut_and_escaped() -> None:
    error = ApiError(400, "x", param="a\x1b[31m" + "b" * 200)
    assert error.param is not None
    assert "\x1b" not in error.param
    assert len(error.param) < 100
