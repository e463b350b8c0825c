import pytest

from ephemeralml.model.roles import Role, role_of


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("model.safetensors", Role.WEIGHTS),
        ("sub/model-00001.safetensors", Role.WEIGHTS),
        ("model.gguf", Role.WEIGHTS),
        ("adapter/a.safetensors", Role.ADAPTER),
        ("x/adapter_law/deep/a.gguf", Role.ADAPTER),
        ("adapter.safetensors", Role.WEIGHTS),
        ("adapter/config.json", Role.CONFIG),
        ("config.json", Role.CONFIG),
        ("1_Pooling/config.json", Role.CONFIG),
        ("generation_config.json", Role.CONFIG),
        ("chat_template.jinja", Role.CHAT_TEMPLATE),
        ("tokenizer.json", Role.TOKENIZER),
        ("modules.json", Role.TOKENIZER),
        (".gitattributes", Role.TOKENIZER),
        ("README.md", Role.TOKENIZER),
        ("model.SAFETENSORS", Role.TOKENIZER),
    ],
)
def test_the_name_decides(path: str, role: Role) -> None:
    assert role_of(path) is role
