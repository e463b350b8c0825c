import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.model_rules import ANY_MODEL
from ephemeralml.attestation.policy import Policy
from ephemeralml.channel.hello import ModelEntry
from ephemeralml.client.selection import (
    MAX_INFO_BYTES,
    UnknownModelError,
    aliases_named,
    find,
    model_named,
    select,
)

MODELS = tuple(
    ModelEntry(name, version, bytes([number]) * 32, "sha256-manifest")
    for number, (name, version) in enumerate(
        [("a", "1.9.0"), ("a", "1.10.0"), ("a", "2.0.0-rc.1"), ("b", "1.0.0"), ("b", "not semver"), ("c@1", "1.0.0")], 1
    )
)
POLICY = Policy.accept_local()


def test_policy_in_use_allows_any_model() -> None:
    assert POLICY.models is ANY_MODEL


@pytest.mark.parametrize(
    ("name", "version"),
    [("a", "2.0.0-rc.1"), ("a@1.9.0", "1.9.0"), ("a@1.10.0", "1.10.0"), ("b", "1.0.0"), ("b@not semver", "not semver"),
     ("c@1", "1.0.0"), ("c@1@1.0.0", "1.0.0")],
)  # fmt: skip
def test_names_mean_what_the_runtime_takes_them_for(name: str, version: str) -> None:
    assert find(name, MODELS).version == version


@pytest.mark.parametrize("name", ["", "A", "a@", "a@1.9", "a@1.9.0 ", "@1.9.0", "c"])
def test_other_names_mean_nothing(name: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        find(name, MODELS)
    assert caught.value.code == "MODEL_ID_MISMATCH"


def test_names_of_peers_and_callers_are_shown_escaped() -> None:
    with pytest.raises(UnknownModelError, match=r"'x\\x1b'.*") as caught:
        find("x\x1b", (ModelEntry("\x07", "1", bytes(32), "s"),))
    assert "\x07" not in str(caught.value.hint)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_reading_needs_no_receipt_unless_it_carries_a_body(method: str) -> None:
    assert not select(method, None, MODELS, POLICY).receipt_required
    assert not select(method, b"", MODELS, POLICY).receipt_required
    assert select(method, b"x", MODELS, POLICY).receipt_required


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_everything_else_owes_a_receipt(method: str) -> None:
    assert select(method, None, MODELS, POLICY).receipt_required
    selection = select(method, b'{"model": "a"}', MODELS, POLICY)
    assert selection.entry is MODELS[2]


def test_alias() -> None:
    assert select("POST", b'{"model": "alias"}', MODELS, POLICY, {"alias": "b"}).entry is MODELS[3]
    with pytest.raises(UnknownModelError):
        select("POST", b'{"model": "alias"}', MODELS, POLICY, {"alias": "nothing"})


@pytest.mark.parametrize(
    ("body", "name"),
    [(b'{"model":"a"}', "a"), (b'{"model":"a","model":"b"}', "b"), (b'{"model":1}', None), (b'["model"]', None),
     (b"", None), (b"\xff", None), (b"{", None), (b"[" * 100_000, None)],
    ids=range(8),
)  # fmt: skip
def test_model_named_in_a_body(body: bytes, name: str | None) -> None:
    assert model_named(body) == name


@pytest.mark.parametrize(
    ("info", "aliases"),
    [(b'{"aliases":{"x":"a"}}', {"x": "a"}), (b'{"aliases":{"x":1,"y":"b"}}', {"y": "b"}), (b'{"aliases":[]}', {}),
     (b"[]", {}), (b"{", {}), (b"[" * 100_000, {}), (b'{"aliases":{"x":"a"}}' + b" " * MAX_INFO_BYTES, {})],
    ids=range(7),
)  # fmt: skip
def test_aliases_in_the_runtimes_info(info: bytes, aliases: dict[str, str]) -> None:
    assert aliases_named(info) == aliases


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_what_is_no_json_names_nothing(data: bytes) -> None:
    assert model_named(data) is None or isinstance(model_named(data), str)
    assert isinstance(aliases_named(data), dict)


def test_a_name_that_was_allowed_leads_to_the_same_entry_again() -> None:
    allowed: dict[str, ModelEntry] = {}
    first = select("POST", b'{"model": "a"}', MODELS, POLICY, allowed=allowed)
    assert allowed == {"a": first.entry}
    assert select("POST", b'{"model": "a"}', MODELS, POLICY, allowed=allowed) == first


def test_a_name_that_was_refused_is_judged_and_refused_again() -> None:
    allowed: dict[str, ModelEntry] = {}
    for _ in range(2):
        with pytest.raises(UnknownModelError):
            select("POST", b'{"model": "absent"}', MODELS, POLICY, allowed=allowed)
    assert not allowed
