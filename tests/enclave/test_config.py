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


KMS = "local:arn:aws:kms:eu-central-1:000000000000:key/00000000-0000-4000-8000-000000000001"


def test_keys_and_services_are_none_unless_named() -> None:
    config = RuntimeConfig.parse(rendered())
    assert config.keys is None
    assert config.services is None


def test_keys_and_services_render_and_parse() -> None:
    config = RuntimeConfig.parse(
        rendered(key_uris=(KMS,), bind_manifest=True, services="vsock://3:8001", packages=("a", ""))
    )
    assert config.keys is not None
    assert config.services is not None
    assert (config.keys.uris, config.keys.bind_manifest) == ((KMS,), True)
    assert (config.services.address, config.services.packages) == ("vsock://3:8001", ("a", ""))
    assert (config.services.stall_seconds, config.services.total_seconds) == (30.0, 900.0)
    alone = RuntimeConfig.parse(rendered(services="unix:///run/s")).services
    assert alone is not None
    assert alone.packages == ("",)


def with_services(line: str) -> bytes:
    return rendered(services="unix:///run/s").replace(b"[services]\n", f"[services]\n{line}\n".encode())


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
        (rendered(key_uris=("local:x",)), "keys.uris"),
        (rendered(key_uris=(KMS, KMS)), "named twice"),
        (rendered(key_uris=(KMS.replace("key/", "alias/"),)), "alias"),
        (rendered(key_uris=(KMS,)).replace(b"bind_manifest = false", b"bind = true"), "keys.bind"),
        (rendered(key_uris=(KMS,)).replace(b"bind_manifest = false", b"bind_manifest = 1"), "keys.bind_manifest"),
        (rendered(services="foo"), "services.address"),
        (rendered(services="ws://h/v1/channel"), "services.address"),
        (rendered(services="vsock://3:9000"), "platform's own"),
        (rendered(services="vsock://3:10000"), "platform's own"),
        (rendered(services="unix:///s", packages=("a", "a")), "named twice"),
        (rendered(services="unix:///s", packages=("../a",)), "package's name"),
        (rendered(services="unix:///s", packages=("blobs",)), "package's name"),
        (rendered(services="unix:///s", packages=tuple(f"p{number}" for number in range(65))), "services.packages"),
        (with_services("stall_seconds = 0"), "services.stall_seconds"),
        (with_services("total_seconds = -1"), "services.total_seconds"),
        (with_services("spare = 1"), "services.spare"),
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


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_a_wildcard_lowers_no_minimum(order: tuple[int, ...]) -> None:
    rules = (
        module.AllowedModel(id="*"),
        module.AllowedModel(id="minilm-*", min_version="1.9.0"),
        module.AllowedModel(id="minilm-l6-v2", min_version="1.10.0"),
    )
    found = module.ModelRules(publisher_keys=(str(KEY),), allow=tuple(rules[index] for index in order))
    minimums = {
        name: getattr(found.rule_for(name), "min_version", "none") for name in ("minilm-l6-v2", "minilm-x", "x")
    }
    assert minimums == {"minilm-l6-v2": "1.10.0", "minilm-x": "1.9.0", "x": None}


@pytest.mark.fuzz
@given(st.binary(max_size=300))
def test_only_our_errors_leave_the_parser(tail: bytes) -> None:
    for source in (tail, rendered() + tail):
        with contextlib.suppress(EphemeralError):
            RuntimeConfig.parse(source)
