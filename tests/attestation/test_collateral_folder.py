"""The collateral folder: listed, unchanged, and nothing else (attestation section 8)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.attestation.collateral_folder import load_collateral
from ephemeralml.attestation.verdict import Status
from ephemeralml.errors import EphemeralError, MalformedError, RejectedError, UnavailableError
from tests.fakes.nitro import check, crl, failures, policy, policy_document, row, workshop

VENDOR = workshop()


def write(folder: Path, files: dict[str, bytes], **changes: Any) -> Path:
    items = []
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        items.append({"path": path, "kind": "crl", "sha256": digest, "source": "https://example.com/crl"})
    index = {"schema": "ephemeralml.collateral/1", "fetched_at": "2026-01-15T00:00:00Z", "items": items, **changes}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def lists(*revoked: int) -> dict[str, bytes]:
    return {
        f"nitro/{name.hex()}.crl": der for name, der in (crl(issuer, revoked) for issuer in (VENDOR.root, *VENDOR.cas))
    }


def test_lists_for_a_policy_that_requires_them(tmp_path: Path) -> None:
    required = policy(nitro=policy_document()["nitro"] | {"revocation": "required"})
    collateral = load_collateral(write(tmp_path, lists()))
    assert row(check(policy=required, collateral=collateral).run(), "N8").status is Status.PASS


def test_a_revocation_in_it_counts(tmp_path: Path) -> None:
    collateral = load_collateral(write(tmp_path, lists(VENDOR.leaf.certificate.serial_number)))
    assert failures(check(collateral=collateral).run()) == [("N8", "NITRO_CERT_REVOKED")]


def test_items_of_other_formats_are_listed_and_left_alone(tmp_path: Path) -> None:
    assert load_collateral(write(tmp_path, {"gcp-cs/jwks.json": b"{}"})).crls == {}


class TestAltered:
    def refused(self, folder: Path) -> None:
        with pytest.raises(RejectedError) as caught:
            load_collateral(folder)
        assert caught.value.code == "COLLATERAL_ALTERED"

    def test_a_changed_file(self, tmp_path: Path) -> None:
        files = lists()
        write(tmp_path, files)
        (tmp_path / next(iter(files))).write_bytes(b"other")
        self.refused(tmp_path)

    def test_a_file_that_is_not_listed(self, tmp_path: Path) -> None:
        write(tmp_path, lists())
        (tmp_path / "nitro" / "more.crl").write_bytes(b"")
        self.refused(tmp_path)

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        files = lists()
        write(tmp_path, files)
        (tmp_path / next(iter(files))).unlink()
        self.refused(tmp_path)

    @pytest.mark.parametrize("folder", [False, True])
    def test_a_link(self, tmp_path: Path, folder: bool) -> None:
        inside, outside = tmp_path / "in", tmp_path / "out"
        outside.mkdir()
        (outside / "list.crl").write_bytes(b"x")
        write(inside, {"nitro/list.crl": b"x"})
        if folder:
            (inside / "linked").symlink_to(outside)
        else:
            (inside / "nitro" / "list.crl").unlink()
            (inside / "nitro" / "list.crl").symlink_to(outside / "list.crl")
        self.refused(inside)


ITEM = {"path": "nitro/a.crl", "kind": "crl", "sha256": "ab" * 32, "source": "x"}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "other"},
        {"fetched_at": "yesterday"},
        {"fetched_at": None},
        {"items": {}},
        {"items": [5]},
        {"items": [ITEM | {"path": "../a"}]},
        {"items": [ITEM | {"path": "/etc/passwd"}]},
        {"items": [ITEM | {"path": "a//b"}]},
        {"items": [ITEM | {"path": "index.json"}]},
        {"items": [ITEM | {"sha256": "AB" * 32}]},
        {"items": [ITEM | {"sha256": 5}]},
        {"items": [ITEM | {"not_after": "soon"}]},
        {"items": [ITEM | {"extra": 1}]},
        {"items": [{"path": "a"}]},
        {"items": [ITEM, ITEM]},
        {"extra": 1},
    ],
)
def test_an_index_that_is_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        load_collateral(write(tmp_path, {}, **changes))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        load_collateral(tmp_path / "absent")


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_any_index_gives_our_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("collateral")
    (folder / "index.json").write_bytes(data)
    with pytest.raises(EphemeralError):
        load_collateral(folder)
