"""What a file of a model is for, decided by its name (model-package.md section 6)."""

from enum import Enum


class Role(Enum):
    """The roles that a manifest may give a file."""

    WEIGHTS = "weights"
    TOKENIZER = "tokenizer"
    CONFIG = "config"
    CHAT_TEMPLATE = "chat_template"
    ADAPTER = "adapter"


def role_of(path: str) -> Role:
    """Return the role of the file at *path*, relative to the model folder.

    ``*.safetensors`` and ``*.gguf`` are weights, below a folder ``adapter*/``
    they are adapters; ``config.json`` and other ``*config.json`` are config;
    ``*.jinja`` is a chat template; the rest belongs to the tokenizer.
    """
    *folders, name = path.split("/")
    if name.endswith((".safetensors", ".gguf")):
        return Role.ADAPTER if any(folder.startswith("adapter") for folder in folders) else Role.WEIGHTS
    if name.endswith("config.json"):
        return Role.CONFIG
    if name.endswith(".jinja"):
        return Role.CHAT_TEMPLATE
    return Role.TOKENIZER
