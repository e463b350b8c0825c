"""Encrypted packages through the host's services: key release and load (key-release sections 1 and 2)."""

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ephemeralml.attestation.nitro import document as nitro
from ephemeralml.crypto.data_key import SecretBytes, WrappedKey
from ephemeralml.enclave import release
from ephemeralml.enclave.boot import boot
from ephemeralml.enclave.boot_report import Step, StepReport, StepStatus
from ephemeralml.enclave.runtime import Runtime
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from ephemeralml.keyrelease.aws import Released
from ephemeralml.keyrelease.faults import KeyUnavailableError
from ephemeralml.keyrelease.recipient import RecipientKey, release_user_data
from ephemeralml.model.keys_file import encode_keys, parse_keys
from ephemeralml.model.manifest import Suite
from tests.fakes.booted_runtime import Files, config_source, inputs
from tests.fakes.host_services import SealingKms, folders, services
from tests.fakes.key_source import KEY_URI, OneKey
from tests.fakes.packages import encrypted_package, signed_package

OTHER_URI = KEY_URI[:-1] + "2"


class Host:
    """A host with one encrypted package, `tiny`, and a runtime configured for it."""

    def __init__(self, folder: Path, **package: Any) -> None:
        self.folder = folder
        self.keys = OneKey()
        self.kms = SealingKms(self.keys)
        self.socket = folder / "services"
        self.packages = {"tiny": encrypted_package(folder, keys=self.keys, **package)}
        self.releasers: dict[str, Any] = {KEY_URI: self.kms}
        self.settings: dict[str, Any] = {}

    @property
    def keys_file(self) -> Path:
        return self.packages["tiny"] / "keys.json"

    def rewrite(self, change: Callable[[WrappedKey], WrappedKey | list[WrappedKey]]) -> None:
        """Replace the one entry of ``keys.json``."""
        (entry,) = parse_keys(self.keys_file.read_bytes())
        changed = change(entry)
        self.keys_file.write_bytes(encode_keys(changed if isinstance(changed, list) else [changed]))

    def files(self) -> Files:
        settings = {
            "allow_plaintext": False,
            "services": f"unix://{self.socket}",
            "packages": tuple(self.packages),
            "key_uris": (KEY_URI,),
            **self.settings,
        }
        config = self.folder / "enclave.toml"
        config.write_bytes(config_source(**settings))
        return Files(config, ())

    def boot(self, stack: ExitStack, **changes: Any) -> Runtime:
        stack.enter_context(services(self.socket, folders(self.packages), self.releasers))
        runtime = boot(inputs(self.files(), **changes))
        stack.callback(runtime.close)
        return runtime

    def fails(self, **changes: Any) -> tuple[EphemeralError, StepReport]:
        """Boot, expect a failure that names its step and a fix, and return both."""
        seen: list[StepReport] = []
        with ExitStack() as stack, pytest.raises(EphemeralError) as caught:
            self.boot(stack, observer=seen.append, **changes)
        assert seen[-1].status is StepStatus.FAILED
        assert caught.value.hint
        assert f"boot step {seen[-1].step.value!r}" in caught.value.message
        return caught.value, seen[-1]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("suite", [Suite.CHACHA20POLY1305, Suite.AES256GCM])
@pytest.mark.parametrize("bound", [False, True])
def test_an_encrypted_package_boots(tmp_path: Path, suite: Suite, bound: bool) -> None:
    host = Host(tmp_path, suite=suite, bind_manifest=bound)
    host.settings["bind_manifest"] = bound
    seen: list[StepReport] = []
    with ExitStack() as stack:
        runtime = host.boot(stack, observer=seen.append)
        assert [step.status for step in seen] == [StepStatus.OK] * 8
        assert runtime.registry.resolve("tiny-bert") is not None
        document = runtime.describe(("x",))
    (record,) = document["key_releases"]
    assert record["outcome"] == "released"
    assert record["key"] == KEY_URI
    assert record["context"]["model_id"] == "tiny-bert"
    assert record["pcr0"] == document["measurements"]["pcr0"]
    assert record["document_sha256"] == hashlib.sha256(host.kms.documents[0]).hexdigest()
    assert json.loads(json.dumps(document)) == document


def test_the_document_binds_the_recipient_and_the_receipt_key(host: Host) -> None:
    with ExitStack() as stack:
        runtime = host.boot(stack)
    (raw,) = host.kms.documents
    document = nitro.parse(raw)
    assert document.public_key is not None
    assert document.user_data == release_user_data(document.public_key, runtime.key.public)
    assert document.nonce is not None
    assert len(document.nonce) == 32


def test_every_boot_has_its_own_recipient(host: Host) -> None:
    for _ in range(2):
        with ExitStack() as stack:
            host.boot(stack)
    first, second = (nitro.parse(raw) for raw in host.kms.documents)
    assert first.public_key != second.public_key
    assert first.nonce != second.nonce


def test_keys_are_wiped_and_the_recipient_is_dropped_before_anything_is_served(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    deks: list[SecretBytes] = []
    recipients: list[RecipientKey] = []
    opened, made = release.KeyRelease.data_key, RecipientKey.generate

    def watched(self: release.KeyRelease, offer: Any) -> SecretBytes:
        deks.append(opened(self, offer))
        return deks[-1]

    def kept() -> RecipientKey:
        recipients.append(made())
        return recipients[-1]

    monkeypatch.setattr(release.KeyRelease, "data_key", watched)
    monkeypatch.setattr(RecipientKey, "generate", kept)
    with ExitStack() as stack:
        host.boot(stack)
        with pytest.raises(RuntimeError, match="wiped"):
            deks[0].reveal()
        with pytest.raises(RuntimeError, match="dropped"):
            recipients[0].open(b"")
    (host.packages["tiny"] / "manifest.json").write_bytes(b"{}")
    host.fails()
    with pytest.raises(RuntimeError, match="dropped"):
        recipients[1].open(b"")


def test_the_recipient_is_dropped_where_no_package_needs_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    recipient = RecipientKey.generate()
    monkeypatch.setattr(RecipientKey, "generate", lambda: recipient)
    host.packages = {"plain": signed_package(host.folder, model_id="tiny-plain")}
    host.settings["allow_plaintext"] = True
    with ExitStack() as stack:
        host.boot(stack)
        with pytest.raises(RuntimeError, match="dropped"):
            recipient.open(b"")


def test_a_failure_after_the_release_wipes_the_key(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    deks: list[SecretBytes] = []
    opened = release.KeyRelease.data_key

    def watched(self: release.KeyRelease, offer: Any) -> SecretBytes:
        deks.append(opened(self, offer))
        return deks[-1]

    monkeypatch.setattr(release.KeyRelease, "data_key", watched)
    blob = max((host.packages["tiny"] / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[-40] ^= 1
    blob.write_bytes(data)
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "CHUNK_AUTH_FAILED"
    assert step.step is Step.LOAD
    with pytest.raises(RuntimeError, match="wiped"):
        deks[0].reveal()


def test_a_development_folder_opens_its_package_through_the_services(host: Host) -> None:
    files = dataclasses.replace(host.files(), packages=(host.packages["tiny"],))
    with services(host.socket, {}, host.releasers):
        runtime = boot(inputs(files))
    assert [model.model_id for model in runtime.registry.models] == ["tiny-bert"]
    runtime.close()


# several models


def test_several_encrypted_packages_and_their_names(host: Host) -> None:
    host.packages["tiny-2"] = encrypted_package(host.folder, keys=host.keys, version="1.2.0", seed=8)
    host.packages["other"] = encrypted_package(host.folder, keys=host.keys, model_id="tiny-other", seed=9)
    files = host.files()
    files.config.write_bytes(files.config.read_bytes() + b'[models.aliases]\nfavourite = "tiny-bert@1.0.0"\n')
    with services(host.socket, folders(host.packages), host.releasers):
        runtime = boot(inputs(files))
    try:
        registry = runtime.registry
        versions = {
            name: getattr(registry.resolve(name), "full_name", None)
            for name in ("tiny-bert", "tiny-bert@1.0.0", "tiny-other", "favourite", "nobody")
        }
        assert versions == {
            "tiny-bert": "tiny-bert@1.2.0",
            "tiny-bert@1.0.0": "tiny-bert@1.0.0",
            "tiny-other": "tiny-other@1.0.0",
            "favourite": "tiny-bert@1.0.0",
            "nobody": None,
        }
        assert len(runtime.report.releases) == 3
        public_keys = {nitro.parse(raw).public_key for raw in host.kms.documents}
        assert len(public_keys) == 1
    finally:
        runtime.close()


def test_encrypted_and_plain_packages_together(host: Host) -> None:
    host.packages["plain"] = signed_package(host.folder, model_id="tiny-plain")
    host.settings["allow_plaintext"] = True
    with ExitStack() as stack:
        runtime = host.boot(stack)
        assert [model.model_id for model in runtime.registry.models] == ["tiny-bert", "tiny-plain"]
        assert len(runtime.report.releases) == 1


# what is refused


def test_a_key_that_the_configuration_does_not_name(host: Host) -> None:
    host.settings["key_uris"] = (OTHER_URI,)
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_NOT_ALLOWED"
    assert error.actual == [KEY_URI]
    assert step.step is Step.KEY_RELEASE
    assert host.kms.documents == []


def test_a_configuration_without_keys(host: Host) -> None:
    host.settings["key_uris"] = ()
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_NOT_ALLOWED"
    assert step.step is Step.KEY_RELEASE


def test_a_configuration_without_services(host: Host) -> None:
    host.settings["services"] = None
    files = dataclasses.replace(host.files(), packages=(host.packages["tiny"],))
    with pytest.raises(UnavailableError, match="no way to a KMS") as caught:
        boot(inputs(files))
    assert "[services]" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "context",
    [
        {},
        {"model_id": "tiny-bert"},
        {"model_id": "tiny-bert", "version": "1.0.1"},
        {"model_id": "tiny-other", "version": "1.0.0"},
        {"model_id": "tiny-bert", "version": "1.0.0", "more": "x"},
        {"model_id": "tiny-bert", "version": "1.0.0", "manifest": "00" * 32},
    ],
)
def test_a_context_that_is_not_the_manifests(host: Host, context: Mapping[str, str]) -> None:
    host.rewrite(lambda entry: dataclasses.replace(entry, context=context))
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "CONTEXT_MISMATCH"
    assert step.step is Step.KEY_RELEASE
    assert host.kms.documents == []


def test_a_context_without_manifest_where_the_configuration_demands_it(host: Host) -> None:
    host.settings["bind_manifest"] = True
    error, _ = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "CONTEXT_MISMATCH"


def test_a_key_of_another_package_fails_at_the_first_chunk(host: Host) -> None:
    other = SecretBytes(bytearray(range(32)))
    host.rewrite(lambda entry: host.keys.wrap(other, entry.context))
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "CHUNK_AUTH_FAILED"
    assert step.step is Step.LOAD


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"[{}]", b"x" * 70_000])
def test_keys_that_do_not_parse(host: Host, data: bytes) -> None:
    host.keys_file.write_bytes(data)
    error, step = host.fails()
    assert isinstance(error, MalformedError)
    assert step.step is Step.KEY_RELEASE


def test_no_keys_file(host: Host) -> None:
    host.keys_file.unlink()
    error, step = host.fails()
    assert isinstance(error, UnavailableError)
    assert "keys.json" in error.message
    assert step.step is Step.KEY_RELEASE


# the order of the entries


class Refusing:
    """A KMS that refuses with one error."""

    def __init__(self, error: EphemeralError) -> None:
        self.error = error
        self.asked = 0

    def release(self, ciphertext: bytes, context: Mapping[str, str], document: bytes) -> Released:
        self.asked += 1
        raise self.error


def two_entries(host: Host, first: EphemeralError) -> Refusing:
    """Put an entry of another key, whose KMS refuses, before the one that opens."""
    refusing = Refusing(first)
    host.releasers[OTHER_URI] = refusing
    host.settings["key_uris"] = (OTHER_URI, KEY_URI)
    host.rewrite(lambda entry: [dataclasses.replace(entry, key=OTHER_URI), entry])
    return refusing


def test_an_entry_that_fails_falls_through_to_the_next(host: Host) -> None:
    refusing = two_entries(host, RejectedError("no", code="KEY_RELEASE_DENIED"))
    with ExitStack() as stack:
        runtime = host.boot(stack)
        assert [record.outcome for record in runtime.report.releases] == ["KEY_RELEASE_DENIED", "released"]
    assert refusing.asked == 1


def test_entries_under_other_keys_are_not_tried(host: Host) -> None:
    refusing = two_entries(host, RejectedError("no", code="KEY_RELEASE_DENIED"))
    host.settings["key_uris"] = (KEY_URI,)
    with ExitStack() as stack:
        host.boot(stack)
    assert refusing.asked == 0


def test_the_first_key_obtained_is_final(host: Host) -> None:
    wrong = OneKey(uri=OTHER_URI)
    host.releasers[OTHER_URI] = SealingKms(wrong)
    host.settings["key_uris"] = (OTHER_URI, KEY_URI)
    other = SecretBytes(bytearray(range(32)))
    host.rewrite(lambda entry: [wrong.wrap(other, entry.context), entry])
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "CHUNK_AUTH_FAILED"
    assert step.step is Step.LOAD
    assert host.kms.documents == []


def test_a_refusal_counts_more_than_an_absence(host: Host) -> None:
    two_entries(host, UnavailableError("away"))
    host.releasers[KEY_URI] = Refusing(RejectedError("no", code="KEY_RELEASE_DENIED"))
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_RELEASE_DENIED"
    assert step.step is Step.KEY_RELEASE


def test_a_kms_that_is_away(host: Host) -> None:
    host.releasers[KEY_URI] = Refusing(UnavailableError("away"))
    error, _ = host.fails()
    assert isinstance(error, UnavailableError)


def test_a_key_in_the_clear_ends_the_boot(host: Host) -> None:
    refusing = two_entries(host, RejectedError("clear", code="KEY_PLAINTEXT_RETURNED"))
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_PLAINTEXT_RETURNED"
    assert step.step is Step.KEY_RELEASE
    assert refusing.asked == 1
    assert host.kms.documents == []


def test_a_key_sealed_to_another_boot(host: Host) -> None:
    """A6 of key-release.md: what a replayed document yields, only its own boot opens."""
    with ExitStack() as stack:
        host.boot(stack)
    old = host.kms.documents[0]

    class Replaying(SealingKms):
        def release(self, ciphertext: bytes, context: Mapping[str, str], document: bytes) -> Released:
            return super().release(ciphertext, context, old)

    host.releasers[KEY_URI] = Replaying(host.keys)
    error, step = host.fails()
    assert isinstance(error, RejectedError)
    assert error.code == "KEY_RESPONSE_INVALID"
    assert step.step is Step.KEY_RELEASE


def test_a_host_that_does_not_offer_the_key(host: Host) -> None:
    host.releasers.clear()
    error, step = host.fails()
    assert isinstance(error, UnavailableError)
    assert getattr(error, "code", None) == "KEY_UNAVAILABLE"
    assert f"the host was not given the key {KEY_URI}" in error.message
    assert error.hint is not None
    assert f"--key {KEY_URI}" in error.hint
    assert step.step is Step.KEY_RELEASE


def test_a_failed_boot_tells_of_every_release(host: Host) -> None:
    two_entries(host, KeyUnavailableError("away"))
    with host.keys.open(parse_keys(host.keys_file.read_bytes())[0]) as dek:
        raw = bytes(dek.reveal())

    def broken(*_: Any) -> Any:
        raise RejectedError("no engine", code="X")

    error, step = host.fails(make_engine=broken)
    assert step.step is Step.ENGINE
    assert [record.outcome for record in step.releases] == ["KEY_UNAVAILABLE", "released"]
    first, *lines = step.line().splitlines()
    assert first.startswith("boot engine      failed")
    assert [line.split(":arn:")[0].strip() for line in lines] == ["release of local"] * 2
    assert ": KEY_UNAVAILABLE" in lines[0]
    assert ": released, request 11111111-2222-3333-4444-555555555555, pcr0 " in lines[1]
    assert "model_id=" in lines[1]
    told = step.line() + str(error)
    assert not any(form in told for form in (raw.hex(), base64.b64encode(raw).decode()))


def test_nothing_of_the_keys_is_in_the_report(host: Host) -> None:
    with ExitStack() as stack:
        text = json.dumps(host.boot(stack).describe(("x",)))
    with host.keys.open(parse_keys(host.keys_file.read_bytes())[0]) as dek:
        raw = bytes(dek.reveal())
    for form in (raw.hex(), base64.b64encode(raw).decode()):
        assert form not in text
