"""The model bench takes its figures from the production code; the figures themselves are nobody's test."""

from pathlib import Path

import pytest

from ephemeralml.bench import cold_start, container_rates, object_load, package_rates, synthetic_model
from ephemeralml.bench.measure import Section
from ephemeralml.model.container import load_files
from ephemeralml.model.manifest import Suite
from ephemeralml.storage.file import FileStorage


def test_a_synthetic_package_is_a_sound_one(tmp_path: Path) -> None:
    made = synthetic_model.package(tmp_path, 10 << 20, Suite.AES256GCM)
    (file,) = load_files(made.verified, FileStorage(made.folder), dek=made.dek).values()
    assert file.size == made.size >= 10 << 20
    assert not any(file.view()[-1_000_000:])
    file.close()


def test_no_workplace_is_left(tmp_path: Path) -> None:
    with synthetic_model.workplace(1) as place:
        (place / "x").touch()
    assert not place.exists()
    with synthetic_model.workplace(1 << 60) as place:
        assert place.is_dir()


def test_container_rates_are_shares_of_their_own_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    section = container_rates._suite(container_rates.StreamSuite.AES256GCM, chunks=2, rounds=1)
    assert [target.at_most for target in section.targets] == [False, False]
    assert all(0 < (target.value or 0) < 5 for target in section.targets)
    assert all((row.value or 0) > 0 for row in section.rows)


def test_the_limit_adds_times() -> None:
    samples = {"aead": [1.0], "digest": [2.0], "whole": [10.0]}
    assert container_rates._share("x", samples, "aead", 2, "whole").value == 0.5


def test_a_load_is_compared_with_a_plain_get(tmp_path: Path) -> None:
    made = synthetic_model.package(tmp_path, 1 << 20)
    section = object_load._compare("folder", made, FileStorage(made.folder), quick=True, targets=True)
    assert [row.unit for row in section.rows] == ["GB/s", "GB/s", "×"]
    assert section.targets[0].value == section.rows[-1].value


def test_without_a_server_the_target_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_load, "_installed", lambda *_: None)
    monkeypatch.setattr(object_load, "_from_folder", lambda *_, quick: Section(()))
    section = object_load.measure(quick=True)
    assert "no S3 server" in section.rows[0].note
    assert not section.targets[0].met


def test_a_process_that_loads_says_its_peak(tmp_path: Path) -> None:
    made = synthetic_model.package(tmp_path, 1 << 20)
    key = made.verified.publisher_key.raw.hex()
    seconds, peak = package_rates._child(made.folder, key, bytes(made.dek.reveal()).hex())
    assert 0 < seconds < 60
    assert made.size < peak < 1 << 30


@pytest.mark.slow
def test_a_cold_start_ends_with_a_verified_receipt() -> None:
    section = cold_start.measure(quick=True)
    ready, first = section.rows
    assert 0 < (ready.value or 0) < (first.value or 0) < 60
