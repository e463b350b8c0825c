"""The AWS client against the real `kms serve`: key-release.md sections 1 to 3."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from ephemeralml.attestation.local.documents import Fault
from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.aws import AwsKms
from ephemeralml.keyrelease.recipient import RecipientKey
from ephemeralml.keyrelease.retries import RetryRules
from ephemeralml.keyrelease.uris import KeyUri
from tests.fakes.kms_server import KmsServer
from tests.fakes.release import CONTEXT, IMAGE, Enclave, make_key, policy

ONCE = RetryRules(tries=1)


@dataclass
class Stage:
    """One key and whoever uses it."""

    server: KmsServer
    key: str
    clients: dict[str, Any]

    def as_role(self, name: str, **options: object) -> AwsKms:
        if name not in self.clients:
            self.clients[name] = self.server.client(name)
        return AwsKms(KeyUri.parse_operator(self.key), client=self.clients[name], retries=ONCE, **options)  # type: ignore[arg-type]

    @property
    def publisher(self) -> AwsKms:
        return self.as_role("publisher")

    @property
    def parent(self) -> AwsKms:
        return self.as_role("parent")

    @property
    def enclave(self) -> Enclave:
        return Enclave(self.server.authority)

    def wrapped(self) -> tuple[bytes, WrappedKey]:
        dek, wrapped = self.publisher.generate(CONTEXT)
        with dek:
            return bytes(dek.reveal()), wrapped


@pytest.fixture(scope="module")
def stage(server: KmsServer, key: str) -> Stage:
    return Stage(server, key, {})


@pytest.fixture
def own(server: KmsServer, stage: Stage) -> Stage:
    """A key that the test may spoil."""
    return Stage(server, f"local:{make_key(server)}", stage.clients)


def refused(call: Callable[[], object], code: str, kms_error: str | None = None) -> EphemeralError:
    with pytest.raises((RejectedError, UnavailableError)) as caught:
        call()
    assert caught.value.code == code
    if kms_error is not None:
        assert caught.value.kms_error == kms_error  # type: ignore[union-attr]
    return caught.value


def test_generate_and_release(stage: Stage) -> None:
    dek, wrapped = stage.wrapped()
    assert len(dek) == 32
    assert (wrapped.provider, wrapped.key, wrapped.context) == ("local", stage.key, CONTEXT)
    enclave = stage.enclave
    assert bytes(stage.parent.unwrap(wrapped, attester=enclave).reveal()) == dek
    assert stage.wrapped()[0] != dek


def test_the_recipient_is_dropped_whatever_comes_of_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    _, wrapped = stage.wrapped()
    for pcrs in (IMAGE, {**IMAGE, 0: b"\x01" * 48}):
        recipient = RecipientKey.generate()
        with monkeypatch.context() as patch, contextlib.suppress(RejectedError):
            patch.setattr(RecipientKey, "generate", lambda made=recipient: made)
            stage.parent.unwrap(wrapped, attester=replace(stage.enclave, pcrs=pcrs))
        with pytest.raises(RuntimeError, match="dropped"):
            recipient.open(b"")


def test_wrap_an_existing_key(stage: Stage) -> None:
    dek = SecretBytes(bytearray(b"\x07" * 32))
    wrapped = stage.publisher.wrap(dek, CONTEXT)
    assert bytes(dek.reveal()) == b"\x07" * 32
    assert bytes(stage.parent.unwrap(wrapped, attester=stage.enclave).reveal()) == b"\x07" * 32


def test_wrong_image_is_denied(stage: Stage) -> None:
    """A2."""
    _, wrapped = stage.wrapped()
    other = replace(stage.enclave, pcrs={**IMAGE, 0: b"\x01" * 48})
    error = refused(lambda: stage.parent.unwrap(wrapped, attester=other), "KEY_RELEASE_DENIED", "AccessDeniedException")
    assert "PCR0 " + "01" * 48 in error.message


def test_without_a_document_it_is_denied(stage: Stage) -> None:
    """A3."""
    _, wrapped = stage.wrapped()
    for role in ("parent", "publisher", "administrator"):
        error = refused(lambda r=role: stage.as_role(r).decrypt_plain(wrapped), "KEY_RELEASE_DENIED")
        assert "without an attestation document" in error.message


@pytest.mark.parametrize("document", [b"\x00" * 64, bytes(range(256)) * 20])
def test_a_document_of_noise_is_refused(stage: Stage, document: bytes) -> None:
    """A4."""
    _, wrapped = stage.wrapped()
    call = lambda: stage.parent.release(wrapped.ciphertext, CONTEXT, document)  # noqa: E731
    refused(call, "KEY_DOCUMENT_REFUSED", "ValidationException")


def test_a_document_with_one_bit_flipped_is_refused(stage: Stage) -> None:
    """A5."""
    _, wrapped = stage.wrapped()
    document = bytearray(stage.enclave.attest_release(RecipientKey.generate().spki))
    document[-1] ^= 1
    refused(
        lambda: stage.parent.release(wrapped.ciphertext, CONTEXT, bytes(document)),
        "KEY_DOCUMENT_REFUSED",
        "ValidationException",
    )


def test_a_replayed_document_yields_what_only_its_own_boot_opens(stage: Stage) -> None:
    """A6."""
    dek, wrapped = stage.wrapped()
    boot, enclave = RecipientKey.generate(), stage.enclave
    document = enclave.attest_release(boot.spki)
    first, again = (stage.parent.release(wrapped.ciphertext, CONTEXT, document) for _ in range(2))
    assert first.ciphertext_for_recipient != again.ciphertext_for_recipient
    assert bytes(boot.open(again.ciphertext_for_recipient).reveal()) == dek
    with pytest.raises(RejectedError, match="does not open"):
        RecipientKey.generate().open(again.ciphertext_for_recipient)


def test_a_debug_enclave_is_denied(stage: Stage) -> None:
    """A7."""
    _, wrapped = stage.wrapped()
    debug = replace(stage.enclave, faults=[Fault.ZERO_PCR])
    error = refused(lambda: stage.parent.unwrap(wrapped, attester=debug), "KEY_RELEASE_DENIED")
    assert "debug enclave" in error.message


def test_the_context_is_exact(stage: Stage) -> None:
    """A8: other versions do not decrypt, other models the policy denies."""
    _, wrapped = stage.wrapped()
    for context, code in (
        ({**CONTEXT, "version": "1.0.1"}, "KEY_CIPHERTEXT_INVALID"),
        ({**CONTEXT, "more": "x"}, "KEY_CIPHERTEXT_INVALID"),
        ({"model_id": "minilm"}, "KEY_CIPHERTEXT_INVALID"),
        ({**CONTEXT, "model_id": "MINILM"}, "KEY_RELEASE_DENIED"),
        ({"version": "1.0.0"}, "KEY_RELEASE_DENIED"),
    ):
        entry = replace(wrapped, context=context)
        refused(lambda e=entry: stage.parent.unwrap(e, attester=stage.enclave), code)


def test_a_ciphertext_of_another_key(stage: Stage, own: Stage) -> None:
    """A10."""
    _, wrapped = own.wrapped()
    entry = replace(wrapped, key=stage.key)
    refused(
        lambda: stage.parent.unwrap(entry, attester=stage.enclave), "KEY_CIPHERTEXT_INVALID", "IncorrectKeyException"
    )
    damaged = replace(stage.wrapped()[1], ciphertext=bytes(100))
    refused(lambda: stage.parent.unwrap(damaged, attester=stage.enclave), "KEY_CIPHERTEXT_INVALID")


def test_an_entry_of_another_key_is_not_even_sent(stage: Stage) -> None:
    _, wrapped = stage.wrapped()
    enclave = stage.enclave
    for entry, why in (
        (replace(wrapped, key=stage.key[:-1] + "0"), "not of local:"),
        (replace(wrapped, provider="aws-kms"), "not of local:"),
        (replace(wrapped, ciphertext=b""), "of 0 bytes"),
        (replace(wrapped, ciphertext=bytes(6_145)), "of 6145 bytes"),
    ):
        for call in (stage.parent.decrypt_plain, lambda e: stage.parent.unwrap(e, attester=enclave)):
            with pytest.raises(MalformedError, match=why):
                call(entry)
    assert enclave.documents == []


@pytest.mark.parametrize(
    ("context", "why"),
    [
        ({}, "of 0 pairs"),
        ({f"name{index}": "x" for index in range(9)}, "of 9 pairs"),
        ({"": "x"}, "empty name or value"),
        ({"model_id": ""}, "empty name or value"),
        ({"model_id": "x" * 8_190}, "of 8198 characters"),
    ],
)
def test_contexts_that_no_kms_takes(stage: Stage, context: dict[str, str], why: str) -> None:
    with pytest.raises(MalformedError, match=why):
        stage.publisher.generate(context)
    with pytest.raises(MalformedError, match=why):
        stage.publisher.wrap(SecretBytes(bytearray(32)), context)
    with pytest.raises(MalformedError, match=why):
        stage.parent.release(b"x", context, b"x")


def test_documents_that_no_kms_takes(stage: Stage) -> None:
    for document in (b"", bytes(262_145)):
        with pytest.raises(MalformedError, match="an attestation document of"):
            stage.parent.release(b"x", CONTEXT, document)


def test_an_operator_may_decrypt_where_the_policy_says_so(own: Stage) -> None:
    dek, wrapped = own.wrapped()
    text = policy(own.server).replace('"kms:Encrypt"', '"kms:Encrypt", "kms:Decrypt"')
    own.server.client().put_key_policy(KeyId=own.key.removeprefix("local:"), Policy=text)
    assert bytes(own.publisher.decrypt_plain(wrapped).reveal()) == dek


def test_the_roles_are_kept_apart(stage: Stage) -> None:
    for call in (
        lambda: stage.parent.generate(CONTEXT),
        lambda: stage.parent.wrap(SecretBytes(bytearray(32)), CONTEXT),
    ):
        error = refused(call, "KEY_RELEASE_DENIED", "AccessDeniedException")
        assert "these credentials may not do" in error.message


def test_an_alias_is_resolved_to_its_key(own: Stage) -> None:
    arn = own.key.removeprefix("local:")
    own.server.client().create_alias(AliasName="alias/minilm", TargetKeyId=arn)
    alias = replace(own, key=own.key.rsplit(":", 1)[0] + ":alias/minilm")
    kms = alias.publisher
    assert kms.uri == own.key
    _, wrapped = alias.publisher.generate(CONTEXT)
    assert wrapped.key == own.key
    missing = replace(own, key=own.key.rsplit(":", 1)[0] + ":alias/nothing")
    refused(lambda: missing.publisher.uri, "KEY_UNAVAILABLE", "NotFoundException")


def test_describe(stage: Stage) -> None:
    found = stage.publisher.describe()
    assert (found.arn, found.state, found.spec, found.usage) == (
        stage.key.removeprefix("local:"),
        "Enabled",
        "SYMMETRIC_DEFAULT",
        "ENCRYPT_DECRYPT",
    )
    assert (found.origin, found.multi_region) == ("AWS_KMS", False)


def test_the_keys_state_is_said(own: Stage) -> None:
    _, wrapped = own.wrapped()
    administrator, arn = own.server.client(), own.key.removeprefix("local:")
    administrator.disable_key(KeyId=arn)
    error = refused(lambda: own.parent.unwrap(wrapped, attester=own.enclave), "KEY_UNAVAILABLE", "DisabledException")
    assert "is disabled" in error.message
    administrator.schedule_key_deletion(KeyId=arn, PendingWindowInDays=7)
    error = refused(lambda: own.publisher.generate(CONTEXT), "KEY_UNAVAILABLE", "KMSInvalidStateException")
    assert error.message.endswith("(PendingDeletion)")
    # The parent may not describe the key: then without.
    error = refused(lambda: own.parent.unwrap(wrapped, attester=own.enclave), "KEY_UNAVAILABLE")
    assert error.message.endswith("forbids its use")


def test_every_release_leaves_a_record(stage: Stage) -> None:
    records: list[Any] = []
    dek, wrapped = stage.wrapped()
    enclave = stage.enclave
    parent = stage.as_role("parent", observer=records.append)
    parent.unwrap(wrapped, attester=enclave)
    with pytest.raises(RejectedError):
        parent.unwrap(replace(wrapped, context={**CONTEXT, "version": "2.0.0"}), attester=enclave)
    good, bad = (record.to_json() for record in records)
    assert (good["outcome"], bad["outcome"]) == ("released", "KEY_CIPHERTEXT_INVALID")
    assert good["pcr0"] == IMAGE[0].hex()
    assert good["request_id"] is not None
    assert bad["request_id"] is None
    assert dek.hex() not in str(records)


def test_a_data_key_is_moved_between_keys_with_both_named(server: KmsServer, stage: Stage) -> None:
    text = policy(server).replace('"kms:Encrypt"', '"kms:Encrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"')
    old, new = (Stage(server, f"local:{make_key(server, text)}", stage.clients) for _ in range(2))
    dek, wrapped = old.wrapped()
    moved = new.publisher.re_encrypt(wrapped, CONTEXT)
    assert (moved.key, moved.context) == (new.key, CONTEXT)
    assert bytes(new.parent.unwrap(moved, attester=new.enclave).reveal()) == dek
    refused(lambda: new.parent.re_encrypt(wrapped, CONTEXT), "KEY_RELEASE_DENIED")


class Answering:
    """A client whose ReEncrypt answers what it is told to."""

    def __init__(self, **answer: object) -> None:
        self.answer = answer
        self.asked: dict[str, Any] = {}
        self.meta = type("Meta", (), {"endpoint_url": "http://127.0.0.1:1", "region_name": "local"})()

    def re_encrypt(self, **fields: Any) -> dict[str, object]:
        self.asked = fields
        return self.answer


def test_a_move_that_names_another_key_must_not_be_used(stage: Stage) -> None:
    _, wrapped = stage.wrapped()
    arn = stage.key.removeprefix("local:")
    other = arn[:-12] + "0" * 12
    right = {"CiphertextBlob": b"moved", "SourceKeyId": arn, "KeyId": other}
    for change in ({}, {"SourceKeyId": other}, {"KeyId": arn}, {"CiphertextBlob": b""}, {"SourceKeyId": None}):
        client = Answering(**{**right, **change})
        keys = AwsKms(KeyUri.parse(f"local:{other}"), client=client, retries=ONCE)  # type: ignore[arg-type]
        if not change:
            assert keys.re_encrypt(wrapped, CONTEXT).ciphertext == b"moved"
            assert client.asked == {
                "CiphertextBlob": wrapped.ciphertext,
                "SourceKeyId": arn,
                "SourceEncryptionContext": CONTEXT,
                "DestinationKeyId": other,
                "DestinationEncryptionContext": CONTEXT,
            }
        else:
            refused(lambda keys=keys: keys.re_encrypt(wrapped, CONTEXT), "KEY_RESPONSE_INVALID")  # type: ignore[misc]


def test_what_another_service_wrapped_is_not_moved(stage: Stage) -> None:
    _, wrapped = stage.wrapped()
    for key in (wrapped.key.replace("local:", "aws-kms:"), wrapped.key.replace(":kms:", ":kms:x"), "vault:x"):
        entry = replace(wrapped, key=key)
        assert not stage.publisher.near(entry)
        with pytest.raises(MalformedError):
            stage.publisher.re_encrypt(entry, CONTEXT)
