import subprocess
import sys

import pytest

import ephemeralml
import ephemeralml.client


@pytest.mark.parametrize("name", ephemeralml.client.__all__)
def test_names_are_there(name: str) -> None:
    assert callable(getattr(ephemeralml.client, name))


def test_others_are_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'disconnect'"):
        _ = ephemeralml.client.disconnect  # type: ignore[attr-defined]


def test_a_session_needs_no_http_library() -> None:
    program = "import sys, ephemeralml; ephemeralml.connect; print({'httpx', 'websockets', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
