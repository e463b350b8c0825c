import os
from pathlib import Path

import pytest

from ephemeralml.attestation import sidecar
from ephemeralml.client.archive import Bodies, OccupiedError, ReceiptFiles, ReceiptFolder
from ephemeralml.client.reply import Receipted
from ephemeralml.client.session import connect
from ephemeralml.errors import UnavailableError
from tests.fakes.runtime import FakeRuntime, envelope_of

ASKED = {"model": "minilm", "input": "a"}
NAMES = ["r.cbor", "r.cbor.att", "r.cbor.json", "r.cbor.manifest.json"]


@pytest.fixture
def receipted(runtime: FakeRuntime) -> Receipted:
    with connect(runtime.target, policy=runtime.policy()) as session:
        session.manifest("minilm")
        found = session.post("/v1/embeddings", json=ASKED).receipted
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_four_files_from_which_everything_can_be_recomputed(receipted: Receipted, tmp_path: Path) -> None:
    written = ReceiptFiles(tmp_path / "r.cbor").write(receipted)
    assert names(tmp_path) == NAMES == sorted(path.name for path in written)
    assert written[-1].name == "r.cbor"
    assert (tmp_path / "r.cbor").read_bytes() == receipted.receipt_bytes
    assert (tmp_path / "r.cbor.att").read_bytes() == receipted.attested.evidence.document
    assert (tmp_path / "r.cbor.manifest.json").read_bytes() == envelope_of("minilm", "1.0.0")
    facts = sidecar.parse((tmp_path / "r.cbor.json").read_bytes())
    assert facts.recomputed
    assert facts.expected().channel_binding == receipted.attested.binding
    assert facts.expected().nonce == receipted.attested.nonce
    assert facts.receipt_public_key == receipted.attested.receipt_key
    assert facts.request_hash == receipted.receipt.claims.request_hash
    assert facts.response_hash == receipted.receipt.claims.response_hash
    assert facts.verdict == "verified"


@pytest.mark.parametrize("taken", NAMES)
def test_nothing_is_overwritten_and_nothing_new_stays(receipted: Receipted, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    files = ReceiptFiles(tmp_path / "r.cbor")
    for attempt in (lambda: files.check(force=False), lambda: files.write(receipted)):
        with pytest.raises(OccupiedError, match=taken):
            attempt()
    assert names(tmp_path) == [taken]
    assert (tmp_path / taken).read_text() == "mine"


def test_bodies_that_are_not_the_receipt_s_are_not_kept(receipted: Receipted, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not those of the receipt"):
        ReceiptFiles(tmp_path / "r.cbor").write(receipted, bodies=Bodies(b"other", b"bodies"))
    assert names(tmp_path) == []


def test_force_overwrites_and_leaves_no_stale_companion(runtime: FakeRuntime, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("older")
    with connect(runtime.target, policy=runtime.policy()) as session:
        found = session.post("/v1/embeddings", json=ASKED).receipted
    assert found is not None
    assert found.manifest is None
    ReceiptFiles(tmp_path / "r.cbor").write(found, force=True)
    assert names(tmp_path) == NAMES[:3]
    assert (tmp_path / "r.cbor").read_bytes() == found.receipt_bytes


def test_failure_half_way_leaves_nothing(receipted: Receipted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link(source: str, target: Path) -> None:
        if str(target).endswith(".json"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(UnavailableError, match="No space left"):
        ReceiptFiles(tmp_path / "r.cbor").write(receipted)
    assert names(tmp_path) == []


def test_name_that_appears_meanwhile_is_not_overwritten(
    receipted: Receipted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReceiptFiles, "check", lambda self, *, force: None)
    (tmp_path / "r.cbor").write_text("mine")
    with pytest.raises(OccupiedError):
        ReceiptFiles(tmp_path / "r.cbor").write(receipted)
    assert names(tmp_path) == ["r.cbor"]


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnavailableError, match="is a folder"):
        ReceiptFiles(tmp_path / "folder").check(force=True)
    with pytest.raises(UnavailableError, match="does not exist"):
        ReceiptFiles(tmp_path / "nowhere" / "r.cbor").check(force=False)


def test_folder_keeps_every_receipt_by_its_id(runtime: FakeRuntime, tmp_path: Path) -> None:
    folder = ReceiptFolder(tmp_path / "a" / "b")
    with connect(runtime.target, policy=runtime.policy(), on_receipt=folder) as session:
        ids = [reply.receipt.claims.receipt_id for _ in range(3) if (reply := ask(session)).receipt]
    assert [path.name for path in folder.saved] == [f"{receipt_id}.cbor" for receipt_id in ids]
    assert len(names(tmp_path / "a" / "b")) == 9


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot make the folder"):
        ReceiptFolder(tmp_path / "file" / "below")


def ask(session):
    return session.post("/v1/embeddings", json=ASKED)
