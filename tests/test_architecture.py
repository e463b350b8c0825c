"""The layer table of the architecture, held against the code.

Imports inside functions count; what stands under ``if TYPE_CHECKING:`` does
not. `ephemeralml/__init__.py` is the one exception: its lazy ``__getattr__``
hands out the public API without importing it at load.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ephemeralml"

BASE = {"daemon_pool", "errors", "progress", "resources", "clock", "settings", "semver"}
"""Modules of layer 0, `base` below: standard library only."""

CLIENT = {"base", "crypto", "attestation", "channel", "transport", "receipt", "model"}
BELOW_ENCLAVE = CLIENT | {"storage", "keyrelease"}
ROLES = {"enclave", "host", "client", "gateway", "eif", "deploy", "audit"}

MAY_IMPORT: dict[str, set[str]] = {
    "base": set(),
    "crypto": {"base"},
    "attestation": {"base", "crypto"},
    "model": {"base", "crypto"},
    "storage": {"base"},
    "transport": {"base"},
    "keyrelease": {"base", "crypto", "attestation"},
    "receipt": {"base", "crypto", "attestation"},
    "channel": {"base", "crypto", "attestation"},
    "eif": {"base", "crypto"},
    "enclave": BELOW_ENCLAVE,
    "host": {"base", "transport", "storage", "keyrelease"},
    "client": CLIENT,
    "gateway": CLIENT | {"client"},
    "audit": {"base", "crypto", "attestation", "receipt", "model", "storage"},
    "deploy": {"base", "eif", "keyrelease", "model", "storage", "attestation"},
    "bench": BELOW_ENCLAVE | ROLES,
    "cli": BELOW_ENCLAVE | ROLES | {"bench"},
}

CLIENT_MODEL = {"ephemeralml.model.manifest", "ephemeralml.model.envelope"}
"""All that the client may know of models: the manifest and the signature around it."""

LAZY_USERS = {"cli", "bench", "enclave", "audit"}
"""These print or record ``ephemeralml.__version__``."""

SANS_IO = ("ephemeralml.crypto.", "ephemeralml.channel.")
IO_MODULES = {"asyncio", "http", "select", "selectors", "socket", "socketserver", "ssl", "subprocess", "time", "urllib"}

CLOCKLESS = (*SANS_IO, "ephemeralml.attestation.nitro.", "ephemeralml.attestation.verify", "ephemeralml.receipt.verify")
CLOCK_READS = {"now", "unix_now", "utcnow", "today", "time_ns"}

MAKERS = {
    "VerifiedEvidence": {"ephemeralml.attestation.appraisal"},
    "VerifiedReceipt": {"ephemeralml.receipt.result", "ephemeralml.receipt.live"},
    "VerifiedManifest": {"ephemeralml.model.verify"},
    "Attested": {"ephemeralml.client.attested"},
}
"""Verified is a type: nothing but the verifier makes one."""

FILE_LINES, TEST_LINES, FUNCTION_LINES = 400, 600, 50
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}

EDGE = ["ephemeralml.cli.main", "ephemeralml.cli.commands.verify"]
HEAVY = {
    *("boto3", "google", "docker", "jwt", "pyarrow"),
    *("onnxruntime", "numpy", "tokenizers", "safetensors", "gguf", "llama_cpp"),
    *("httpx", "websockets", "starlette", "fastapi", "uvicorn", "pydantic"),
}


@cache
def sources() -> dict[str, Path]:
    """Every module's name and file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text())


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below *node* that is not for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.If) and type_checking(node) and child in node.body:
            continue
        yield child
        yield from running(child)


@cache
def imports(module: str) -> frozenset[str]:
    """What *module* imports anywhere, as full names of modules."""
    found: set[str] = set()
    for node in running(tree(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in sources() else node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found.update(argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))
    return frozenset(found)


def layer(module: str) -> str:
    """The row of the table that *module* belongs to."""
    name = module.split(".")[1]
    return "base" if name in BASE else "cli" if name == "__main__" else name


def ours(module: str) -> list[str]:
    return sorted(name for name in imports(module) if name.startswith("ephemeralml.") and name != module)


def layered() -> list[str]:
    return [module for module in sources() if module != "ephemeralml"]


def test_every_package_is_in_the_table() -> None:
    assert {layer(module) for module in layered()} <= set(MAY_IMPORT)


def test_imports_only_go_down() -> None:
    arrows = [
        f"{module} imports {name}"
        for module in layered()
        for name in ours(module)
        if layer(name) not in MAY_IMPORT[layer(module)] | {layer(module)}
    ]
    assert not arrows


def test_the_table_itself_has_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {name for name, below in MAY_IMPORT.items() if name not in done and below <= done}
        assert ready, f"a cycle among {set(MAY_IMPORT) - done}"
        done |= ready


def test_only_base_is_the_standard_library_alone() -> None:
    foreign = [
        f"{module} imports {name}"
        for module in layered()
        if layer(module) == "base"
        for name in imports(module)
        if name.split(".")[0] not in sys.stdlib_module_names | {"ephemeralml"}
    ]
    assert not foreign


def test_no_module_imports_the_package_itself() -> None:
    """Its lazy names would hide an arrow; only the version may be asked for."""
    assert [
        module for module in layered() if "ephemeralml" in imports(module) and layer(module) not in LAZY_USERS
    ] == []


def test_the_client_knows_of_models_only_the_manifest() -> None:
    arrows = [
        f"{module} imports {name}"
        for module in layered()
        if layer(module) in ("client", "gateway")
        for name in ours(module)
        if layer(name) == "model" and name not in CLIENT_MODEL
    ]
    assert not arrows


def test_no_cycle_among_modules() -> None:
    waiting = {module: set(ours(module)) & set(sources()) for module in layered()}
    while ready := [module for module, below in waiting.items() if not below & set(waiting)]:
        for module in ready:
            del waiting[module]
    assert not waiting, f"a cycle among {sorted(waiting)}"


def test_imports_are_absolute() -> None:
    relative = [
        f"{module}:{node.lineno}"
        for module in sources()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_crypto_and_channel_do_no_input_or_output() -> None:
    found = [
        f"{module} imports {name}"
        for module in layered()
        if module.startswith(SANS_IO)
        for name in imports(module)
        if name.split(".")[0] in IO_MODULES
    ]
    assert not found


def test_verifiers_read_no_clock() -> None:
    found = [
        f"{module}:{node.lineno} {ast.unparse(node.func)}()"
        for module in layered()
        if module.startswith(CLOCKLESS)
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in CLOCK_READS
    ]
    assert not found


def calls(module: str) -> set[str]:
    """Return the names of what a module calls, without what stands before the last dot."""
    called = [node.func for node in ast.walk(tree(module)) if isinstance(node, ast.Call)]
    return {f.id if isinstance(f, ast.Name) else f.attr for f in called if isinstance(f, ast.Name | ast.Attribute)}


@pytest.mark.parametrize("kind", MAKERS)
def test_only_verifiers_make_what_is_verified(kind: str) -> None:
    assert {module for module in sources() if kind in calls(module)} == MAKERS[kind]


def test_names_say_something() -> None:
    assert [module for module in sources() if set(module.split(".")) & VAGUE_NAMES] == []


def test_files_are_short() -> None:
    tests = {str(path.relative_to(ROOT)): path for path in (ROOT / "tests").rglob("*.py")}
    limits = [(sources(), FILE_LINES), (tests, TEST_LINES)]
    long = {
        name: lines
        for files, limit in limits
        for name, path in files.items()
        if (lines := len(path.read_text().splitlines())) > limit
    }
    assert not long


def test_functions_are_short() -> None:
    """Docstrings are not counted: a verifier's lists its numbered steps."""
    long = {
        f"{module}.{node.name}": lines
        for module in sources()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := code_lines(node)) > FUNCTION_LINES
    }
    assert not long


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    documentation = node.body[0] if ast.get_docstring(node) else None
    comment = (documentation.end_lineno or 0) - documentation.lineno + 1 if documentation else 0
    return (node.end_lineno or 0) - node.lineno + 1 - comment


@pytest.mark.parametrize("module", ["ephemeralml", *EDGE])
def test_the_edge_loads_no_sdk_engine_or_framework(module: str) -> None:
    if module != "ephemeralml" and module not in sources():
        pytest.skip(f"{module} does not exist yet")
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert set(result.stdout.split()) & HEAVY == set()


def test_the_package_alone_loads_nothing_of_ours() -> None:
    program = "import sys, ephemeralml; print(*(name for name in sys.modules if name.startswith('ephemeralml.')))"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.split() == []


def test_the_scan_sees_what_it_should() -> None:
    """The rules above hold nothing if the scan were blind."""
    sample = ast.parse(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n import a\nelse:\n import b\ndef f():\n import c\n"
    )
    names = {alias.name for node in running(sample) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"b", "c"}
    assert "ephemeralml.crypto.cbor" in imports("ephemeralml.crypto.cose")
    assert find_spec("ephemeralml") is not None
