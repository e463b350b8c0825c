"""Signed packages of tiny models, made by the production code."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

from ephemeralml.crypto.data_key import SecretBytes
from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.model.create import PackageRequest, create_package
from ephemeralml.model.encryption import KeySource
from ephemeralml.model.keys_file import parse_keys
from ephemeralml.model.manifest import Suite
from ephemeralml.model.sign import sign_package
from ephemeralml.semver import SemVer
from tests.fakes import tiny_bert
from tests.fakes.key_source import OneKey

PUBLISHER = PrivateKey.from_seed(b"publisher key of the test suite.")
STRANGER = PrivateKey.from_seed(b"a key that nobody has heard of..")
CREATED_AT = datetime(2026, 1, 1, tzinfo=UTC)


def request(*, model_id: str = "tiny-bert", version: str = "1.0.0", chunk_size: int = 64 << 10) -> PackageRequest:
    return PackageRequest(model_id, SemVer.parse(version), CREATED_AT, chunk_size=chunk_size)


def signed_package(
    folder: Path,
    *,
    model_id: str = "tiny-bert",
    version: str = "1.0.0",
    key: PrivateKey = PUBLISHER,
    shape: tiny_bert.Shape = tiny_bert.DEFAULT,
    seed: int = 7,
) -> Path:
    """Write a tiny sentence encoder to ``<folder>/<model_id>-<version>`` as a signed package of suite none."""
    source = tiny_bert.write(folder / f"source-{model_id}-{version}", shape, seed=seed)
    out = folder / f"{model_id}-{version}"
    create_package(source, out, request(model_id=model_id, version=version))
    sign_package(out, key)
    return out


def encrypted_package(
    folder: Path,
    *,
    keys: KeySource,
    model_id: str = "tiny-bert",
    version: str = "1.0.0",
    key: PrivateKey = PUBLISHER,
    suite: Suite | None = None,
    bind_manifest: bool = False,
    shape: tiny_bert.Shape = tiny_bert.DEFAULT,
    seed: int = 7,
) -> Path:
    """Write a tiny sentence encoder to ``<folder>/<model_id>-<version>`` as a signed, encrypted package."""
    source = tiny_bert.write(folder / f"source-{model_id}-{version}", shape, seed=seed)
    out = folder / f"{model_id}-{version}"
    said = dataclasses.replace(request(model_id=model_id, version=version), suite=suite, bind_manifest=bind_manifest)
    create_package(source, out, said, key_source=keys)
    sign_package(out, key)
    return out


def data_key(package: Path, keys: OneKey) -> SecretBytes:
    """Open the first wrapped key of the package at *package*."""
    return keys.open(parse_keys((package / "keys.json").read_bytes())[0])
