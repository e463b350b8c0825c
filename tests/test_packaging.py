"""The wheel holds what the checkout offers: every module, the templates, the type marker."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        timeout=100,
    )
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_package_templates_and_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "ephemeralml").rglob("*.py")}
    templates = {
        f"ephemeralml/_data/{path.relative_to(ROOT)}" for path in (ROOT / "templates").rglob("*") if path.is_file()
    }
    assert modules | templates | {"ephemeralml/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/"))]


def test_command_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.'); from ephemeralml.resources import bundled; import ephemeralml; "
        "assert ephemeralml.__file__.startswith(sys.argv[1]), ephemeralml.__file__; "
        "print(bundled('templates', 'enclave.toml').read_text()[:1] != ''); "
        "from ephemeralml.cli.main import run; sys.exit(run(['--version']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout.splitlines()[-1][:11]) == (0, "ephemeralml"), done.stderr
