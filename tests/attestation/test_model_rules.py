"""Which models and publishers a policy accepts (attestation section 6, rule 9)."""

from typing import Any

import pytest

from ephemeralml.attestation.model_rules import ANY_MODEL, ModelRules
from ephemeralml.attestation.policy_fields import Fields
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.errors import MalformedError

HASH = b"\x5a" * 32
KEY = PrivateKey.from_seed(b"\x01" * 32).public
OTHER = PrivateKey.from_seed(b"\x02" * 32).public
ENTRY = {"model_id": "minilm", "min_version": "1.2.0", "model_hash": HASH.hex(), "scheme": "sha256-manifest"}


def rules(*allow: dict[str, Any], **changes: Any) -> ModelRules:
    return ModelRules.parse(Fields({"allow": list(allow), **changes}, "models"))


def codes(found: tuple[Any, ...]) -> list[tuple[str, str]]:
    return [(item.id, item.code) for item in found]


def test_a_model_that_fits() -> None:
    accepted = rules(ENTRY)
    assert accepted.check("minilm", "1.2.0", HASH, "sha256-manifest") == ()
    assert accepted.check("minilm", "1.10.0+build", HASH, "sha256-manifest") == ()


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (("other", "1.2.0", HASH, "sha256-manifest"), ("MODEL", "MODEL_ID_MISMATCH")),
        (("minilm", "1.2.0", b"\x01" * 32, "sha256-manifest"), ("MHASH", "MODEL_HASH_MISMATCH")),
        (("minilm", "1.2.0", HASH, "sha256-single"), ("MHASH", "MODEL_HASH_MISMATCH")),
        (("minilm", "1.2.0", HASH, None), ("MHASH", "MODEL_HASH_MISMATCH")),
        (("minilm", "1.2.0-rc.1", HASH, "sha256-manifest"), ("MODEL_VERSION", "MODEL_VERSION_REJECTED")),
        (("minilm", "1.1.9", HASH, "sha256-manifest"), ("MODEL_VERSION", "MODEL_VERSION_REJECTED")),
        (("minilm", "latest", HASH, "sha256-manifest"), ("MODEL_VERSION", "MODEL_VERSION_REJECTED")),
    ],
)
def test_one_value_that_does_not(model: tuple[Any, ...], expected: tuple[str, str]) -> None:
    assert codes(rules(ENTRY).check(*model)) == [expected]


def test_every_mismatch_of_the_nearest_entry() -> None:
    accepted = rules(ENTRY | {"model_id": "other"}, ENTRY)
    found = accepted.check("minilm", "0.1.0", bytes(32), "sha256-single")
    assert [item.code for item in found] == [
        "MODEL_HASH_MISMATCH",
        "MODEL_HASH_MISMATCH",
        "MODEL_VERSION_REJECTED",
    ]


def test_values_of_two_entries_never_mix() -> None:
    accepted = rules(ENTRY, ENTRY | {"model_id": "big", "model_hash": "6b" * 32})
    assert accepted.check("big", "1.2.0", b"\x6b" * 32, "sha256-manifest") == ()
    assert codes(accepted.check("big", "1.2.0", HASH, "sha256-manifest")) == [("MHASH", "MODEL_HASH_MISMATCH")]


def test_publishers() -> None:
    accepted = rules(ENTRY, publisher_keys=[str(KEY)])
    assert accepted.check_publisher(KEY) == ()
    assert codes(accepted.check_publisher(OTHER)) == [("MODEL_PUBLISHER", "MODEL_PUBLISHER_REJECTED")]
    assert rules(ENTRY).check_publisher(OTHER) == ()


def test_publishers_alone_leave_the_models_open() -> None:
    accepted = rules(publisher_keys=[str(KEY)])
    assert accepted.check("anything", "x", bytes(32), None) == ()
    assert accepted.check_publisher(OTHER) != ()


def test_any_model_exists_in_code_alone() -> None:
    assert ANY_MODEL.check("anything", "x", bytes(32), None) == ()
    with pytest.raises(MalformedError) as caught:
        ModelRules((), ())
    assert caught.value.code == "POLICY_EMPTY"
    with pytest.raises(MalformedError):
        rules(scope="any")


@pytest.mark.parametrize(
    "changes",
    [
        {"model_id": ""},
        {"model_id": None},
        {"min_version": "1.2"},
        {"min_version": 1},
        {"model_hash": HASH.hex().upper()},
        {"model_hash": "00" * 32},
        {"model_hash": "5a" * 31},
        {"scheme": "md5"},
        {"extra": 1},
    ],
)
def test_an_entry_is_not_as_it_must_be(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        rules(ENTRY | changes)


@pytest.mark.parametrize(
    "keys", ["ed25519:00", [""], ["ed25519:" + "0g" * 32], ["ed25519:" + "00" * 32], [str(KEY), str(KEY)], [5]]
)
def test_keys_that_are_none(keys: Any) -> None:
    with pytest.raises(MalformedError):
        rules(ENTRY, publisher_keys=keys)
