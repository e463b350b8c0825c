"""The measured configuration (serving section 1)."""

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ephemeralml.crypto.keys import PrivateKey
from ephemeralml.enclave import config as module
from ephemeralml.enclave.config import RuntimeConfig, render
from ephemeralml.errors import EphemeralError, MalformedError, UnavailableError

KEY = PrivateKey.from_seed(b"\x07" * 32).public


def rendered(**changes: object) -> bytes:
    values = {
        "attester": "local",
        "security_mode": "evaluation",
        "listen": "unix:///tmp/runtime",
        "publisher_key": KEY,
        "model_id": "minilm-l6-v2",
        "allow_plaintext": True,
    }
    return render(**{**values, **changes})  # type: ignore[arg-type]


def test_the_template_renders_and_parses() -> None:
    source = rendered()
    config = RuntimeConfig.parse(source)
    assert config.source == source
    assert config.digest == hashlib.sha256(source).digest()
    assert config.models.keys == (KEY,)
    assert config.models.allow_plaintext
    assert config.limits.max_connections == 1_024
    assert config.limits.write_buffer_bytes == 4 << 20
    assert config.limits.total_body_bytes == 256 << 20


def test_odd_characters_survive_rendering() -> None:
    odd = 'a"b\\c\u202eé'
    assert RuntimeConfig.parse(rendered(issuer=odd)).issuer == odd


@pytest.mark.parametrize(
    ("source", "word"),
    [
        (rendered() + b"\nspare = 1\n", "engine.spare"),
        (b"spare = 1\n" + rendered(), "'spare'"),
        (rendered().replace(b"[engine]", b"[limits]\nspare = 1\n[engine]"), "limits.spare"),
        (rendered().replace(b"issuer", b"isuer"), "lacks 'issuer'"),
        (rendered().replace(b"ephemeralml.enclave/1", b"ephemeralml.enclave/2"), "schema"),
        (rendered(attester="tpm"), "attester"),
        (rendered(security_mode="prod"), "security_mode"),
        (rendered(issuer=""), "issuer"),
        (rendered(issuer="é" * 129), "issuer"),
        (rendered(issuer="a\x00b"), "issuer"),
        (rendered().replace(b'listen = ["unix:///tmp/runtime"]', b"listen = []"), "listen"),
        (rendered().replace(str(KEY).encode(), b"ed25519:00"), "publisher_keys"),
        (rendered().replace(f'["{KEY}"]'.encode(), b"[]"), "publisher_keys"),
        (rendered().replace(b'# min_version = "1.0.0" ', b'min_version = "latest" '), "not a SemVer"),
        (rendered().replace(b"[engine]", b"[limits]\nmax_connections = 0\n[engine]"), "max_connections"),
        (rendered().replace(b"[engine]", b"[limits]\nhandshake_seconds = 11\n[engine]"), "handshake_seconds"),
        (rendered().replace(b"[engine]", b"[limits]\nidle_seconds = 301\n[engine]"), "idle_seconds"),
        (rendered().replace(b"[engine]", b"[limits]\nmax_body_bytes = true\n[engine]"), "max_body_bytes"),
        (rendered().replace(b"threads = 2", b'threads = "2"'), "threads"),
        (b'clients = ["AB"]\n' + rendered(), "clients"),
        (b"\xff", "TOML"),
        (b"a = " + b"[" * 10_000, "TOML"),
        (b"x" * 300_000, "300000 bytes"),
    ],
)
def test_what_is_wrong_is_named(source: bytes, word: str) -> None:
    with pytest.raises(MalformedError, match="configuration") as caught:
        RuntimeConfig.parse(source)
    assert word in caught.value.message
    assert "Value error" not in caught.value.message
    assert len(source) > 262_144 or "`ephemeralml enclave init`" in (caught.value.hint or "")


def test_no_value_is_echoed() -> None:
    with pytest.raises(MalformedError) as caught:
        RuntimeConfig.parse(rendered(issuer="") + b'\nclients_secret = "hunter2"\n')
    assert "hunter2" not in str(caught.value)


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot read") as caught:
        RuntimeConfig.load(tmp_path / "none.toml")
    assert "`ephemeralml enclave init`" in (caught.value.hint or "")
    (tmp_path / "enclave.toml").write_bytes(rendered())
    assert RuntimeConfig.load(tmp_path / "enclave.toml").digest == hashlib.sha256(rendered()).digest()


def test_model_rules_are_globs_with_case() -> None:
    rule = module.AllowedModel(id="minilm-*", min_version="1.0.0")
    assert rule.matches("minilm-l6-v2")
    assert not rule.matches("MiniLM-l6-v2")
    assert not rule.matches("a-minilm-l6")


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_only_our_errors_leave_the_parser(tail: bytes) -> None:
    for source in (tail, rendered() + tail):
        with contextlib.suppress(EphemeralError):
            RuntimeConfig.parse(source)
