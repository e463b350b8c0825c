import subprocess
import sys
from types import ModuleType

import pytest

import ephemeralml
import ephemeralml.client


@pytest.mark.parametrize("name", ephemeralml.client.__all__)
def test_names_are_there(name: str) -> None:
    assert callable(getattr(ephemeralml.client, name))


@pytest.mark.parametrize("module", [ephemeralml, ephemeralml.client])
def test_names_are_listed_before_they_are_used(module: ModuleType) -> None:
    program = f"import {module.__name__} as m; assert set(m.__all__) <= set(dir(m)); print(len(m.__all__))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(module.__all__)
    for name in ("connect", "httpx_client", "async_httpx_client", "Policy"):
        assert name in (ephemeralml.__doc__ or "")


def test_others_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'disconnect'"):
        _ = ephemeralml.client.disconnect  # type: ignore[attr-defined]


def test_a_session_needs_no_http_library() -> None:
    program = "import sys, ephemeralml; ephemeralml.connect; print({'httpx', 'websockets', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
