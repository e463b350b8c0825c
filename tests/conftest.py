"""Fixtures shared by every part of the suite."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile(
    "short", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("long", max_examples=2_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("long" if os.environ.get("EPHEMERALML_FUZZ") == "long" else "short")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published vectors and evidence, read in place."""
    folder = Path(os.environ.get("EPHEMERALML_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"published vectors are not at {folder} (EPHEMERALML_SHARED)")
    return folder
