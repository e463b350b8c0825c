"""Every check of channel section 4 (and 7, Live receipts), broken one at a time.

For each: the error and its code, that no reply was returned, that no prompt was
sent where the handshake failed, and that the session takes no further request.
"""

from typing import Any

import pytest

from ephemeralml.attestation.policy import Policy
from ephemeralml.client.call import SessionEndedError, TimedOutError, TruncatedError
from ephemeralml.client.session import connect
from ephemeralml.errors import EphemeralError, IncompleteError, MalformedError, RejectedError, UnavailableError
from tests.client.conftest import Start
from tests.fakes.runtime import PUBLISHER, FakeRuntime, entry_of, envelope_of
from tests.fakes.runtime import RuntimeFault as F

ASKED = {"model": "minilm", "input": "the secret prompt"}

OFFERS = [
    (F.EVIDENCE_WRONG_NONCE, RejectedError, "NITRO_NONCE_MISMATCH"),
    (F.EVIDENCE_OTHER_SESSION, RejectedError, "NITRO_USERDATA_BINDING_MISMATCH"),
    (F.EVIDENCE_OTHER_KEY, RejectedError, "NITRO_PUBKEY_BINDING_MISMATCH"),
    (F.EVIDENCE_STALE, RejectedError, "NITRO_DOC_STALE"),
    (F.EVIDENCE_DEBUG, RejectedError, "NITRO_DEBUG_REJECTED"),
    (F.EVIDENCE_GARBAGE, RejectedError, "NITRO_DOC_PARSE_FAILED"),
    (F.IDENTITY_PRODUCTION, RejectedError, "SECURITY_MODE_MISMATCH"),
    (F.BAD_CONFIRMATION, RejectedError, "CHANNEL_CONFIRMATION"),
    (F.GARBAGE_FRAME, MalformedError, None),
    (F.ALERT, UnavailableError, None),
    (F.HANGS_UP, UnavailableError, None),
]

RECEIPTS = [
    (F.RECEIPT_OTHER_KEY, "SIG_FAILED"),
    (F.RECEIPT_OTHER_REQUEST, "REQUEST_HASH_MISMATCH"),
    (F.RECEIPT_OTHER_RESPONSE, "RESPONSE_HASH_MISMATCH"),
    (F.BODY_EDITED, "RESPONSE_HASH_MISMATCH"),
    (F.RECEIPT_OTHER_DOCUMENT, "ATTESTATION_DOC_HASH_MISMATCH"),
    (F.RECEIPT_OTHER_REGISTERS, "RECEIPT_MEASUREMENTS_MISMATCH:pcr2"),
    (F.RECEIPT_OTHER_MODE, "SECURITY_MODE_MISMATCH"),
    (F.RECEIPT_OTHER_MODEL, "MODEL_ID_MISMATCH"),
    (F.RECEIPT_OTHER_VERSION, "MODEL_VERSION_MISMATCH"),
    (F.RECEIPT_OTHER_HASH, "MODEL_HASH_MISMATCH"),
    (F.RECEIPT_OTHER_SCHEME, "MODEL_HASH_SCHEME_MISMATCH"),
    (F.RECEIPT_OTHER_NONCE, "NONCE_MISMATCH"),
    (F.RECEIPT_NO_NONCE, "NONCE_MISSING"),
    (F.RECEIPT_WRONG_SEQUENCE, "SEQUENCE_MISMATCH"),
    (F.RECEIPT_FUTURE, "TIMESTAMP_FUTURE"),
    (F.RECEIPT_GARBAGE, "COSE_DECODE_FAILED"),
    (F.RECEIPT_MISSING, "RECEIPT_MISSING"),
]

CUTS = [
    (F.RECORD_FLIPPED, RejectedError),
    (F.RECORD_DROPPED, RejectedError),
    (F.MESSAGE_MALFORMED, MalformedError),
    (F.TRUNCATED, TruncatedError),
    (F.NO_END, TruncatedError),
    (F.CLOSED_MID_REPLY, TruncatedError),
    (F.ABORTED, TruncatedError),
    (F.FAILED_LATE, TruncatedError),
]

PUBLISHER_FAULTS = [
    (F.MANIFEST_MISSING, IncompleteError, "MANIFEST_MISSING"),
    (F.MANIFEST_UNSIGNED, RejectedError, "MODEL_PUBLISHER_REJECTED"),
    (F.MANIFEST_OTHER_PUBLISHER, RejectedError, "MODEL_PUBLISHER_REJECTED"),
    (F.MANIFEST_OTHER_MODEL, RejectedError, "MODEL_HASH_MISMATCH"),
    (F.MANIFEST_GARBAGE, MalformedError, None),
]


def publishers(*entries: dict[str, Any]) -> dict[str, Any]:
    """A models section that names our publisher."""
    return {"models": {"publisher_keys": [str(PUBLISHER.public)], "allow": list(entries) or [{"model_id": "minilm"}]}}


@pytest.mark.parametrize(("fault", "kind", "code"), OFFERS, ids=lambda value: getattr(value, "name", None))
def test_offer_is_refused_before_anything_is_sent(
    start: Start, fault: F, kind: type[EphemeralError], code: str | None
) -> None:
    runtime = start(fault)
    with pytest.raises(kind) as caught:
        connect(runtime.target, policy=runtime.policy(), timeout=5)
    assert type(caught.value) is not TimedOutError
    assert getattr(caught.value, "code", None) == code
    assert runtime.requests == []


def test_silent_runtime_is_not_waited_for_beyond_the_time_given(start: Start) -> None:
    runtime = start(F.SILENT)
    with pytest.raises(TimedOutError):
        connect(runtime.target, policy=runtime.policy(), timeout=0.2)


def test_no_runtime_is_waited_for_beyond_fifteen_seconds(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ephemeralml.client.session.CONNECT_SECONDS", 0.2)
    runtime = start(F.SILENT)
    with pytest.raises(TimedOutError, match=r"within 0\.2 s"):
        connect(runtime.target, policy=runtime.policy(), timeout=600)


def test_an_alert_is_shown_escaped_and_marked(start: Start) -> None:
    runtime = start(F.ALERT)
    with pytest.raises(UnavailableError, match=r'unauthenticated alert 5 \(busy\): "try\\x1b later"'):
        connect(runtime.target, policy=runtime.policy())


@pytest.mark.parametrize(("fault", "code"), RECEIPTS, ids=lambda value: getattr(value, "name", None))
def test_receipt_is_refused_and_the_session_ends(start: Start, fault: F, code: str) -> None:
    runtime, seen = start(fault), []
    with connect(runtime.target, policy=runtime.policy(), on_receipt=seen.append) as session:
        with pytest.raises(RejectedError) as caught:
            session.post("/v1/embeddings", json=ASKED)
        assert caught.value.code == code
        assert seen == []
        with pytest.raises(SessionEndedError):
            session.post("/v1/embeddings", json=ASKED)
        assert len(runtime.prompts) == 1


def test_receipt_for_a_request_that_named_no_model_is_refused(start: Start) -> None:
    runtime = start(F.RECEIPT_UNASKED)
    with connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(RejectedError) as caught:
            session.get("/v1/models")
        assert caught.value.code == "RECEIPT_UNEXPECTED"


@pytest.mark.parametrize(("fault", "kind"), CUTS, ids=lambda value: getattr(value, "name", None))
def test_incomplete_reply_is_no_reply(start: Start, fault: F, kind: type[EphemeralError]) -> None:
    runtime = start(fault, pieces=2)
    with (
        connect(runtime.target, policy=runtime.policy()) as session,
        pytest.raises(kind) as caught,
    ):
        session.post("/v1/embeddings", json=ASKED, timeout=5)
    assert type(caught.value) is kind


@pytest.mark.parametrize(("fault", "kind", "code"), PUBLISHER_FAULTS, ids=lambda value: getattr(value, "name", None))
def test_prompt_waits_for_the_publishers_signature(
    start: Start, fault: F, kind: type[EphemeralError], code: str | None
) -> None:
    runtime = start(fault)
    with connect(runtime.target, policy=runtime.policy(**publishers())) as session:
        with pytest.raises(kind) as caught:
            session.post("/v1/embeddings", json=ASKED)
        assert type(caught.value) is kind
        assert getattr(caught.value, "code", None) == code
        assert runtime.prompts == []


def test_publisher_is_checked_once_per_model(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy(**publishers())) as session:
        replies = [session.post("/v1/embeddings", json=ASKED) for _ in range(3)]
    fetched = [path for _, path, _ in runtime.requests if "/manifests/" in path]
    assert len(fetched) == 1
    assert replies[0].manifest == envelope_of("minilm", "1.0.0")


def test_publisher_cannot_be_checked_for_another_hash_scheme(start: Start) -> None:
    runtime = start(F.IDENTITY_OTHER_HASH)
    with connect(runtime.target, policy=runtime.policy(**publishers())) as session:
        with pytest.raises(IncompleteError):
            session.post("/v1/embeddings", json=ASKED)
        assert runtime.prompts == []


@pytest.mark.parametrize(
    ("allowed", "code"),
    [
        ({"model_id": "another"}, "MODEL_ID_MISMATCH"),
        ({"model_id": "minilm", "min_version": "1.0.1"}, "MODEL_VERSION_REJECTED"),
        ({"model_id": "minilm", "model_hash": "77" * 32}, "MODEL_HASH_MISMATCH"),
        ({"model_id": "minilm", "scheme": "sha256-single"}, "MODEL_HASH_MISMATCH"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_model_is_judged_before_the_prompt_is_sent(runtime: FakeRuntime, allowed: dict[str, Any], code: str) -> None:
    with connect(runtime.target, policy=runtime.policy(models={"allow": [allowed]})) as session:
        with pytest.raises(RejectedError) as caught:
            session.post("/v1/embeddings", json=ASKED)
        assert caught.value.code == code
        assert runtime.prompts == []


def test_model_that_the_identity_does_not_name_gets_no_prompt(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        with pytest.raises(RejectedError, match="does not serve model 'gpt-9'") as caught:
            session.post("/v1/embeddings", json={"model": "gpt-9", "input": "the secret prompt"})
        assert caught.value.code == "MODEL_ID_MISMATCH"
        assert runtime.prompts == []


def test_body_that_names_no_model_is_sent_only_where_every_model_is_allowed(runtime: FakeRuntime) -> None:
    with connect(runtime.target, policy=runtime.policy()) as session:
        assert session.post("/v1/embeddings", content=b"not json").status == 400
    one = runtime.policy(models={"allow": [{"model_id": "minilm"}]})
    with connect(runtime.target, policy=one) as session, pytest.raises(RejectedError):
        session.post("/v1/embeddings", content=b"not json")
    assert runtime.prompts == [b"not json"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"local": {"roots": ["sha256:" + "ab" * 32]}}, "NITRO_CERT_CHAIN_INVALID"),
        (
            {
                "local": {
                    "roots": None,
                    "allow": [{"name": "n", "pcr0": "11" * 48, "pcr1": "22" * 48, "pcr2": "33" * 48}],
                }
            },
            "NITRO_MEASUREMENT_MISMATCH",
        ),
        ({"security_modes": ["production"]}, "SECURITY_MODE_MISMATCH"),
    ],
    ids=["other-root", "other-registers", "no-evaluation"],
)
def test_policy_decides(runtime: FakeRuntime, changes: dict[str, Any], code: str) -> None:
    local = runtime.policy_document()["local"]
    if "local" in changes:
        changes = {"local": {**local, **{k: v for k, v in changes["local"].items() if v is not None}}}
    with pytest.raises(RejectedError) as caught:
        connect(runtime.target, policy=runtime.policy(**changes))
    assert caught.value.code == code
    assert runtime.requests == []


@pytest.mark.parametrize(
    ("faults", "kind", "words"),
    [
        ((), UnavailableError, "no common format"),
        ((F.EVIDENCE_CALLED_NITRO,), RejectedError, "NITRO_CERT_CHAIN_INVALID"),
    ],
    ids=["told", "disguised"],
)
def test_production_policy_refuses_a_software_tee(
    start: Start, faults: tuple[F, ...], kind: type[EphemeralError], words: str
) -> None:
    runtime = start(*faults)
    policy = runtime.policy(
        formats=["nitro"], allow_local=None, min_assurance="tee", security_modes=["production"], local=None,
        nitro={"roots": ["aws"], "allow": [{"name": "n", "pcr0": "11" * 48, "pcr1": "22" * 48, "pcr2": "33" * 48}]},
    )  # fmt: skip
    with pytest.raises(kind, match=words):
        connect(runtime.target, policy=policy)
    assert runtime.requests == []


def test_software_tee_is_never_production_whatever_the_policy_takes(start: Start) -> None:
    runtime = start(F.IDENTITY_PRODUCTION)
    with pytest.raises(RejectedError, match="a software TEE calls itself 'production'") as caught:
        connect(runtime.target, policy=runtime.policy(security_modes=["production", "evaluation"]))
    assert (caught.value.code, caught.value.expected) == ("SECURITY_MODE_MISMATCH", "evaluation")


def test_insecure_policy_accepts_a_software_tee_and_nothing_that_calls_itself_production(start: Start) -> None:
    with connect(start().target, policy=Policy.accept_local()) as session:
        assert session.attested.verified.software
        assert session.post("/v1/embeddings", json=ASKED).receipt is not None
    with pytest.raises(RejectedError):
        connect(start(F.IDENTITY_PRODUCTION).target, policy=Policy.accept_local())
    with pytest.raises(UnavailableError, match="no common format"):
        connect(start(F.EVIDENCE_CALLED_NITRO).target, policy=Policy.accept_local())


def test_error_with_a_receipt_is_a_reply_whose_receipt_was_verified(start: Start) -> None:
    runtime = start()
    with connect(runtime.target, policy=runtime.policy()) as session:
        reply = session.post("/v1/embeddings", json={**ASKED, "dimensions": 3})
        assert (reply.status, reply.ok) == (400, False)
        assert reply.receipt is not None
    runtime.faults = {F.RECEIPT_OTHER_RESPONSE}
    with connect(runtime.target, policy=runtime.policy()) as session, pytest.raises(RejectedError):
        session.post("/v1/embeddings", json={**ASKED, "dimensions": 3})


def test_receipt_states_the_entry_that_the_name_meant(start: Start) -> None:
    manifests = (envelope_of("minilm", "1.0.0"), envelope_of("minilm", "1.10.0"), envelope_of("minilm", "1.9.0"))
    runtime = start(manifests=manifests)
    policy = runtime.policy(models={"allow": [{"model_id": "minilm"}]})
    with connect(runtime.target, policy=policy) as session:
        bare = session.post("/v1/embeddings", json=ASKED)
        exact = session.post("/v1/embeddings", json={**ASKED, "model": "minilm@1.9.0"})
    assert bare.receipt is not None
    assert exact.receipt is not None
    assert bare.receipt.claims.model_version == "1.10.0"
    assert exact.receipt.claims.model_hash == entry_of(manifests[2]).hash


def test_alias_leads_to_an_entry_that_the_policy_judges(start: Start) -> None:
    runtime = start(aliases={"text-embedding": "minilm@1.0.0", "forbidden": "talker@2.0.0", "lost": "nothing@1.0.0"})
    with connect(runtime.target, policy=runtime.policy(models={"allow": [{"model_id": "minilm"}]})) as session:
        reply = session.post("/v1/embeddings", json={**ASKED, "model": "text-embedding"})
        assert reply.receipt is not None
        assert reply.receipt.claims.model_id == "minilm"
        for name in ("forbidden", "lost", "unheard-of"):
            with pytest.raises(RejectedError):
                session.post("/v1/embeddings", json={**ASKED, "model": name})
        assert len(runtime.prompts) == 1
        assert [path for _, path, _ in runtime.requests].count("/v1/ephemeralml/info") == 1
